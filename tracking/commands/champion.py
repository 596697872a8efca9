"""python -m tracking champion: which model is champion, why, and how it came to that."""

from __future__ import annotations

import argparse
import json

from tracking.commands import Verbs
from tracking.commands.named import HERE, add_name, add_uri

_ABOUT = """\
Show the version that the alias `champion` names: where it comes from, what it scored, why it is
champion, what happened to it; and a line for each other version. Changes nothing.

  python -m tracking champion
"""

_EXITS = "exit codes: 0 there is one; 1 there is none; 2 MLflow is away"

_SHOWN = (
    *("verdict", "promoted", "study", "trial", "seed", "task", "data", "protocol"),
    *("test.uar", "test.uar.interval", "test.war", "test.wf1", "test.samples", "multiply_adds"),
    *("sha256", "git"),
)


def add(verbs: Verbs) -> None:
    """Its arguments."""
    command = verbs.add_parser(
        "champion", help="which model is champion, and why", description=_ABOUT, epilog=_EXITS
    )
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="for programs")
    add_name(command)
    add_uri(command, HERE)


def run(arguments: argparse.Namespace) -> int:
    """The command; see _EXITS for its exit code."""
    from tracking.registry.download import tracking_uri
    from tracking.registry.registry import CHAMPION, Registry
    from tracking.uri import mask_password

    uri = arguments.tracking_uri or tracking_uri()
    registry = Registry(uri, arguments.name)
    aliases = registry.aliases()
    versions = registry.versions()
    number = aliases.get(CHAMPION)
    if arguments.json:
        tags = {one.number: dict(one.tags) for one in versions}
        print(json.dumps({"name": arguments.name, "aliases": aliases, "versions": tags}, indent=1))
        return 0 if number else 1
    names = {value: key for key, value in sorted(aliases.items())}
    champion = next((one for one in versions if one.number == number), None)
    if champion is None:
        print(f"{arguments.name} has no champion at {mask_password(uri)}")
    else:
        print(f"champion: {champion}")
        for key in _SHOWN:
            if key in champion.tags:
                print(f"  {key:<18} {champion.tags[key]}")
        print("history:")
        for line in champion.tags.get("history", "").splitlines():
            print(f"  {line}")
    others = [one for one in versions if one is not champion]
    if others:
        print("other versions:")
    for one in others:
        state = one.tags.get("state", "registered by hand")
        alias = f" ({names[one.number]})" if one.number in names else ""
        why = one.tags.get("rolled_back") or one.tags.get("replaced") or one.tags.get("verdict", "")
        print(f"  {one}{alias}: {state}; {why}")
    return 0 if champion is not None else 1
