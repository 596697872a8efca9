"""Show which version is champion, and why.

Show the version that the alias `champion` names: the study that it comes from, its scores, why it
is champion and its history; then one line for each other version. Nothing is changed.

  python -m tracking champion

exit codes: 0 there is a champion; 1 there is none; 2 MLflow is unavailable
"""

import argparse
import json

from tracking.commands import add_registry, add_runs, registry_uri

_TAGS = (
    *("verdict", "promoted", "study", "trial", "seed", "task", "data", "protocol"),
    *("test.uar", "test.uar.interval", "test.war", "test.wf1", "test.samples", "multiply_adds"),
    *("sha256", "git"),
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_registry(command)
    add_runs(command)


def run(arguments: argparse.Namespace) -> int:
    from tracking.registry.registry import CHAMPION, Registry
    from tracking.uri import mask_password

    uri = registry_uri(arguments)
    registry = Registry(uri, arguments.name)
    aliases, versions = registry.aliases(), registry.versions()
    number = aliases.get(CHAMPION)
    if arguments.json:
        by_number = {version.number: dict(version.tags) for version in versions}
        content = {"name": arguments.name, "aliases": aliases, "versions": by_number}
        print(json.dumps(content, indent=1))
        return 0 if number else 1
    names = {value: f" ({key})" for key, value in sorted(aliases.items())}
    champion = next((version for version in versions if version.number == number), None)
    if champion is None:
        print(f"{arguments.name} has no champion at {mask_password(uri)}")
    else:
        print(f"champion: {champion}")
        for key in _TAGS:
            if key in champion.tags:
                print(f"  {key:<18} {champion.tags[key]}")
        print("history:")
        for line in champion.tags.get("history", "").splitlines():
            print(f"  {line}")
        versions.remove(champion)
    if versions:
        print("other versions:")
    for version in versions:
        tags, alias = version.tags, names.get(version.number, "")
        state = tags.get("state", "registered by hand")
        reason = tags.get("rolled_back") or tags.get("replaced") or tags.get("verdict", "")
        print(f"  {version}{alias}: {state}; {reason}")
    return 0 if champion is not None else 1
