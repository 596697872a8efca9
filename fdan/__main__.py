"""`python -m fdan`: prepare data, train one model, score it, use it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fdan.cli import commands
from fdan.cli.arguments import Parser, add_data_arguments, add_flags, add_run_arguments, exit_code
from fdan.corpora.demo import DemoSettings
from fdan.machine.cpus import use_all_cpus

EXAMPLES = """\
examples:
  python -m fdan demo runs/data/demo
  python -m fdan prepare --task savee:/data/SAVEE
  python -m fdan train --task savee:/data/SAVEE --backbone resnet18 --out runs/savee
  python -m fdan evaluate runs/savee
  python -m fdan predict runs/savee clip.wav interview.mp4 recordings/
  python -m fdan predict --model models:/fdan@champion clip.wav
  python -m fdan export runs/savee savee.onnx

A search over many settings is `python search/run.py --help`."""


def _parser() -> Parser:
    parser = Parser(prog="python -m fdan", description=__doc__, epilog=EXAMPLES)
    parser.add_version()
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def verb(run: commands.Command, text: str) -> Parser:
        made = verbs.add_parser(
            run.__name__, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        made.set_defaults(run=run)
        return made

    demo = verb(commands.demo, "write the demo corpus: wav and avi files in SAVEE's layout")
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="where it is written")
    add_flags(demo.add_argument_group("corpus"), DemoSettings)

    add_data_arguments(verb(commands.prepare, "turn media files into prepared stores"))

    train = verb(commands.train, "train one model; the same command continues it")
    train.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the model's folder"
    )
    add_data_arguments(train)
    add_run_arguments(train)
    train.add_argument_group("device").add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:0 ... (default: auto, the GPU if there is one)",
    )

    evaluate = verb(commands.evaluate, "score a model on a part of its data")
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="a folder that train wrote")
    evaluate.add_argument(
        "--part",
        choices=("test", "validation"),
        default="test",
        help="which part (default: test; look at it once, when all choices are made: the search\n"
        "itself scores a study's winner)",
    )
    evaluate.add_argument(
        "--stores",
        type=Path,
        metavar="FOLDER",
        help="where its stores are now (default: where they were)",
    )

    predict = verb(
        commands.predict, "emotions of new audio or video files (exit code 2 if none can be read)"
    )
    predict.add_argument(
        "paths",
        nargs="*",
        metavar="MODEL PATH",
        help="the model, unless --model names it, then audio or video files, or folders of them; a"
        " video is judged by its sound",
    )
    predict.scattered = "paths"
    predict.add_argument(
        "--model",
        metavar="MODEL",
        help="a folder that train or a search wrote, an ONNX file, or an address such as"
        " models:/fdan@champion",
    )
    predict.add_argument(
        "--face",
        type=Path,
        metavar="FILE",
        help="an image or a video of the speaker, with exactly one speech file",
    )
    for user in (evaluate, predict):
        user.add_argument(
            "--json", action="store_true", help="one JSON document instead of a table"
        )
        user.add_argument(
            "--device", default="auto", metavar="NAME", help="auto, cpu, cuda ... (default: auto)"
        )

    export = verb(commands.export, "write a model as one ONNX file, which predicts without torch")
    export.add_argument(
        "model", metavar="MODEL", help="a model's folder or address, as for predict"
    )
    export.add_argument("file", type=Path, metavar="OUT.onnx", help="where it is written")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    use_all_cpus()
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: arguments.run(arguments) or 0)


if __name__ == "__main__":
    sys.exit(main())
