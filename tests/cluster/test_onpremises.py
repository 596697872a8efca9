"""An on-premises cluster from nothing to its end, in the order of the tests: real machines of the
test's own, real ssh, `ray up`, `ray submit`, MLflow with a real PostgreSQL behind it, `ray down`.
What is typed is what cluster/README.md says."""

from __future__ import annotations

import base64
import configparser
import json
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

import pytest

from tests.cluster.machines import USER, needed
from tests.cluster.onpremises import (
    CONFIG,
    HEAD,
    KEY,
    LATER,
    WORKER,
    Cluster,
    cluster,
    filled_in,
    forwarded,
    holding,
    others,
    processes,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PATIENCE_S = 400.0
"""Idle, none of what is waited for takes a minute; two cores may have other tests to run, too."""

EPOCHS = 150
SEARCH = [*("ray", "submit", str(CONFIG), "search/run.py", "--")]
FLAGS = ["--task", "demo:data", "--study", "s", "--pruner", "none", "--epochs", str(EPOCHS)]
FLAGS += ["--backbone", "resnet18", "--spectrogram-size", "32", "--face-size", "32"]
FLAGS += ["--weights", "none", "--tuning", "frozen", "--workers", "1", "--cpus-per-trial", "2"]
FLAGS += ["--folds", "none"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    needed()
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found
    print({what: round(seconds, 1) for what, seconds in found.timings.items()})


@pytest.fixture(scope="module")
def up(made: Cluster) -> Cluster:
    """The page's commands, from the key for the cluster to `ray up`."""
    made.types("ssh-keygen", "-t", "ed25519", "-N", "", "-f", str(KEY))
    for node in (HEAD, WORKER, LATER):
        asking = ("-o", "StrictHostKeyChecking=no")
        made.types("ssh-copy-id", *asking, "-i", str(KEY), f"{USER}@{node}")
    made.types("bash", "-c", "umask 077; ray get-auth-token --generate >/dev/null 2>&1")
    written = made.laptop.home / ".ray" / "auth_token"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    written.chmod(0o644)  # as it is without the page's umask: the nodes close their copies
    login = f"ssh -i {KEY} {USER}@{HEAD}"
    put = "umask 077; mkdir -p .mlflow; cat > .mlflow/backend-store-uri"
    made.types("bash", "-c", f"{login} '{put}' < ~/postgres-url; rm ~/postgres-url")
    made.types("ray", "up", "-y", str(CONFIG))
    return made


def answer(url: str, headers: Mapping[str, str] | None = None) -> int:
    """HTTP's number; 0: nobody listens there."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=dict(headers or {}))
        ) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError as error:
        assert isinstance(error.reason, ConnectionRefusedError), error
        return 0


def login(of: Cluster) -> tuple[str, str]:
    parsed = configparser.ConfigParser()
    parsed.read(of.head.home / ".mlflow" / "credentials")
    found = parsed["mlflow"]
    return found["mlflow_tracking_username"], found["mlflow_tracking_password"]


def token(of: Cluster) -> str:
    return (of.laptop.home / ".ray" / "auth_token").read_text()


def nodes(of: Cluster) -> set[str]:
    """Those that Ray has now."""
    asked = "import ray; ray.init(logging_level=50)\n"
    asked += "for n in ray.nodes(): n['Alive'] and print('node', n['NodeManagerAddress'])"
    said = of.types("ray", "exec", str(CONFIG), f'python -c "{asked}"')
    return {line.split()[1] for line in said.splitlines() if line.startswith("node ")}


def test_only_marked_lines_differ() -> None:
    text = "a: 1\nb: x # FILL IN: y\nc: [b]\n"
    assert filled_in(text, {"b": "z"}) == "a: 1\nb: z\nc: [b]\n"
    with pytest.raises(AssertionError, match="no marked line for"):
        filled_in(text, {"b": "z", "a": "2"})


def test_nodes_that_are_starting_are_waited_for(up: Cluster) -> None:
    """`ray up` returns when the head is there, which has no GPU here. With `--tmux` the command
    returns at once; the connection is closed, the search goes on."""
    said = up.types(*SEARCH, *FLAGS, "--dry-run")
    assert "nothing was started" in said
    up.types(*SEARCH[:2], "--tmux", *SEARCH[2:], *FLAGS, "--trials", "500")
    up.wait_for(up.trials, PATIENCE_S, "the first trial")
    assert nodes(up) == {HEAD, WORKER}, said


def test_secrets_are_closed_to_others(up: Cluster) -> None:
    secret = [machine.home / ".ray" / "auth_token" for machine in (up.head, up.worker)]
    secret += [file for file in (up.head.home / ".mlflow").iterdir() if file.is_file()]
    secret += [up.head.home / "ray_bootstrap_key.pem"]
    assert {file.name for file in secret} >= {"credentials", "backend-store-uri", "secret-key"}
    for file in secret:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for folder in (up.head.home / ".mlflow", up.head.home / ".ray", up.worker.home / ".ray"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_mlflow_runs_no_jobs_and_reads_no_pickles(up: Cluster) -> None:
    server = [given for words, given in processes(up.head) if "mlflow" in " ".join(words)]
    assert server
    for given in server:
        assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in given
        assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in given


def test_who_does_not_show_a_token_or_password_is_refused(up: Cluster) -> None:
    known, password = login(up)
    jobs, runs = "/api/jobs/", "/api/2.0/mlflow/experiments/search?max_results=1"
    basic = {"Authorization": "Basic " + base64.b64encode(f"{known}:{password}".encode()).decode()}
    wrong = {"Authorization": "Basic " + base64.b64encode(f"{known}:password".encode()).decode()}
    with up.head.network():
        bearer = {"Authorization": f"Bearer {token(up)}"}
        assert answer("http://127.0.0.1:8265" + jobs) == 401
        assert answer("http://127.0.0.1:8265" + jobs, {"Authorization": "Bearer x"}) in (401, 403)
        assert answer("http://127.0.0.1:8265" + jobs, bearer) == 200
        assert answer(f"http://{HEAD}:52365/api/job_agent/jobs/") == 401
        assert answer("http://127.0.0.1:5000" + runs) == 401
        assert answer("http://127.0.0.1:5000" + runs, wrong) == 401
        assert answer("http://127.0.0.1:5000" + runs, basic) == 200
        foreign = {**basic, "Host": "fdan.example"}
        assert answer("http://127.0.0.1:5000" + runs, foreign) == 403
    with up.laptop.network():
        assert [answer(f"http://{HEAD}:{port}/") for port in (8265, 5000)] == [0, 0]
        tunnel = forwarded(up.laptop, 5000)
        try:
            up.wait_for(lambda: answer("http://localhost:5000/health") == 200, 20, "ssh -L")
            assert answer("http://localhost:5000" + runs) == 401
            assert answer("http://localhost:5000" + runs, basic) == 200
        finally:
            tunnel.terminate()
            tunnel.wait()


def test_a_search_runs_on_all_nodes(up: Cluster) -> None:
    up.wait_for(
        lambda: {tags.get("node") for tags in up.trials().values()} >= {HEAD, WORKER},
        PATIENCE_S,
        "trials on both nodes",
    )
    # Copied once from where the head has published it.
    published = sorted(
        path.name for path in (up.worker.disk.parent / "shared" / "stores").iterdir()
    )
    own = {p.name for p in (up.worker.home / ".cache/fdan-search/stores").iterdir() if p.is_dir()}
    assert len(own) == 2 and own <= set(published)


def test_a_node_is_lost_and_comes_back(up: Cluster) -> None:
    def there(after: int) -> list[int]:
        return [
            number
            for number, tags in up.trials().items()
            if number > after and tags.get("node", "").endswith(WORKER)
        ]

    (trials,) = (up.head.disk.parent / "shared").glob("studies/*/*/trials")

    def epochs(number: int) -> list[int]:
        written = (trials / f"{number:04d}" / "reports.jsonl").read_text().splitlines()
        return [json.loads(line)["epoch"] for line in written]

    lost: list[int] = []

    def saved() -> bool:
        """In the first half of its epochs: it does not end before it is lost. Beside it one may run
        that has no checkpoint yet, and will begin anew."""
        running = [n for n in there(-1) if up.trials()[n]["status"] == "RUNNING"]
        kept = [n for n in running if (trials / f"{n:04d}" / "checkpoint").exists()]
        lost[:] = [n for n in kept if len(epochs(n)) <= EPOCHS // 2]
        return bool(lost)

    def moved() -> list[int]:
        return [n for n in lost if up.trials()[n].get("node") == f"{WORKER}, {HEAD}"]

    up.wait_for(saved, PATIENCE_S, "a trial with a checkpoint on the worker")
    up.worker.kill()
    up.wait_for(moved, PATIENCE_S, "the lost node's trial goes on elsewhere")
    for number in moved():
        assert epochs(number).count(1) == 1, "it began anew, not from its checkpoint"
    newest = max(up.trials())
    up.worker.start()
    up.wait_for(lambda: there(newest), PATIENCE_S, "a trial on the worker that came back")


def test_a_new_node_joins_without_a_restart(up: Cluster) -> None:
    def running() -> str:
        return up.head.run("pgrep", "-f", r"gcs_server|home/run\.py").stdout

    before = running()
    assert len(before.split()) >= 2
    config = up.laptop.home / CONFIG.name
    config.write_text(config.read_text().replace(f"[{WORKER}]", f"[{WORKER}, {LATER}]"))
    up.types("ray", "up", "-y", "--no-restart", str(CONFIG))
    up.wait_for(
        lambda: [n for n, tags in up.trials().items() if tags.get("node") == LATER],
        PATIENCE_S,
        "a trial on the new node",
    )
    assert running() == before


def test_it_is_stopped_and_the_same_command_goes_on_to_its_end(up: Cluster) -> None:
    up.types("ray", "exec", str(CONFIG), "tmux send-keys C-c")
    state = "select t.value from runs join tags t using (run_uuid)"
    state += " where name = 's' and key = 'fdan.state'"
    up.wait_for(lambda: up.mlflow(state) == [("PAUSED",)], PATIENCE_S, "the study rests")
    number = len(up.trials())
    said = up.types(*SEARCH, *FLAGS, "--trials", str(number))
    assert f"study s: {number} COMPLETE" in said
    assert up.mlflow(state) == [("COMPLETE",)]
    trials = up.trials()
    assert sorted(trials) == list(range(number))
    assert {tags["fdan.state"] for tags in trials.values()} == {"COMPLETE"}
    assert {tags["status"] for tags in trials.values()} == {"FINISHED"}
    seen = {node for tags in trials.values() for node in tags["node"].split(", ")}
    assert seen == {HEAD, WORKER, LATER}
    rows = up.mlflow(
        "select r.name, m.step, count(*) from runs r join metrics m using (run_uuid)"
        " where m.key = 'value' and r.name like 'trial-%' group by r.name, m.step"
    )
    assert {count for _, _, count in rows} == {1}, "an epoch stands twice"
    assert len(rows) == number * EPOCHS


def test_no_secret_is_anywhere_else(up: Cluster) -> None:
    """Searched: all that the machines' disks and the shared storage hold, Ray's logs included, all
    of MLflow's tables, and what runs."""
    key = (up.laptop.home / ".ssh" / KEY.name).read_text().splitlines()[2]
    folder = up.head.disk.parent
    private = ".mlflow/"
    where = {
        token(up): {f"{m}/home/.ray/auth_token" for m in ("laptop", "head", "worker", "later")},
        login(up)[1]: {f"head/home/{private}credentials"},
        up.url.partition("@")[0].rpartition(":")[2]: {f"head/home/{private}backend-store-uri"},
        (up.head.home / private / "secret-key").read_text(): {f"head/home/{private}secret-key"},
        key: {f"laptop/home/.ssh/{KEY.name}", "head/home/ray_bootstrap_key.pem"},
    }
    tables = up.mlflow("select tablename from pg_tables where schemaname = 'public'")
    assert len(tables) > 10
    stored = "\n".join(
        str(up.mlflow(f'select string_agg(t::text, chr(10)) from "{name}" t')) for (name,) in tables
    )
    assert "trial-0000" in stored
    machines = (up.laptop, up.head, up.worker, up.later)
    running = [p for machine in machines for p in processes(machine)]
    arguments = "\n".join(" ".join(words) for words, _ in running)
    assert "mlflow" in arguments and "raylet" in arguments
    rays = [(words, given) for words, given in running if any("ray" in word for word in words)]
    assert any("RAY_AUTH_MODE=token" in given for _, given in rays)
    environments = "\n".join(line for _, given in rays for line in given)
    assert (folder / "head/ray/session_latest").is_symlink()
    for secret, files in where.items():
        assert len(secret) >= 24
        assert holding(secret, folder) == files
        for text in (stored, arguments, environments):
            assert secret not in text


def test_started_again_the_tracking_server_says_that_it_runs(up: Cluster) -> None:
    script = "bash fdan-search/cluster/tracking-server.sh start"
    assert "runs already" in up.types("ray", "exec", str(CONFIG), script)
    elsewhere = f"MLFLOW_ARTIFACTS_DESTINATION=/tmp/artifacts {script}"
    assert "it starts again" in up.types("ray", "exec", str(CONFIG), elsewhere)


def test_down(up: Cluster) -> None:
    up.types("ray", "exec", str(CONFIG), "fdan-search/cluster/tracking-server.sh stop")
    up.types("ray", "down", "-y", str(CONFIG))
    time.sleep(1)
    left = [" ".join(words) for words, _ in processes(up.head)]
    assert not [line for line in left if "ray" in line or "mlflow" in line], left


def test_nothing_of_the_user_who_tests_was_touched(made: Cluster) -> None:
    assert others() == made.others
