"""Each worker imports what Ray needs to know of a trial's resources, and should import no more."""

from __future__ import annotations

import subprocess
import sys

from search.tune.resources import placement_group


def test_a_worker_that_is_asked_for_its_resources_imports_nothing_of_the_driver() -> None:
    """Ray pickles the function by its module's name."""
    program = (
        f"import sys, {placement_group.__module__}\n"
        "print({'optuna', 'sqlalchemy', 'mlflow', 'search.config'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "set()"


def test_an_excluded_node_is_avoided() -> None:
    config = {"cpus": 2, "gpus": 0.5, "avoid": ()}
    anywhere = placement_group(config)
    assert anywhere.bundles == [{"CPU": 2.0, "GPU": 0.5}]
    avoiding = placement_group({**config, "avoid": ("a", "b")})
    assert avoiding.bundles == anywhere.bundles
    assert "!in(a,b)" in str(avoiding.__dict__) and "!in" not in str(anywhere.__dict__)
