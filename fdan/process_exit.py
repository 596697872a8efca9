"""The end of a command's process."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process with an exit code once its threads are done, what was registered for the end
    has run, and what was printed is out.

    Python would go on and take torch, Ray and MLflow apart, object by object: 2 s for nobody.
    """
    # As Python itself does it, in its order; it has no public names for these two.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # `... | head`
            code = 141
        except OSError as error:
            code = code or 1
            if stream is sys.stdout:
                print(f"error: the output could not be written: {error}", file=sys.stderr)
    os._exit(code)
