"""Run a search: `python search/run.py --help`.

This file alone may be copied anywhere and run there (`ray submit` does that), as long as the
project is installed for the Python that runs it.
"""

import sys
from pathlib import Path

# Python puts this file's folder first on the path, and Ray hands it on to the workers. There, a
# `trial` or `study` of ours would stand in front of anybody else's.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    del sys.path[0]

if __name__ == "__main__":
    try:
        from search.cli.main import main
    except ModuleNotFoundError as error:
        if error.name not in ("search", "fdan", "tracking"):
            raise
        what = f"fdan-search is not installed for {sys.executable}"
        print(
            f"error: {what}: install it there, from its folder with: pip install -e .",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(main())
