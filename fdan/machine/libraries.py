"""Libraries that only some commands need, and import; where one cannot be, a line says why."""

import importlib
from typing import Any, Final

from fdan.errors import DataError
from fdan.files import first_line

# Where a module's package has another name.
_PACKAGES: Final = {"cv2": "opencv-python-headless<5", "psycopg2": "fdan-search[postgres]"}

_REMEDIES: Final = {
    # opencv-python links them, which pip does not bring; the headless one does without.
    "cv2": "install the system packages libgl1 and libglib2.0-0, or opencv-python-headless in place"
    " of opencv-python"
}


def load_library(module: str) -> Any:
    """The module. DataError where it is not installed, or is but cannot be loaded; the message
    continues what needs it."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # of any kind: a library's own code runs
        raise DataError(why_not_loaded(module, error)) from error


def why_not_loaded(module: str, error: Exception) -> str:
    """Why a library cannot be used, and what to do.

    Args:
        module: The module that was imported.
        error: What that raised.

    >>> why_not_loaded("av", ModuleNotFoundError("No module named 'av'", name="av"))
    "needs av, which is not installed: pip install 'av'"
    """
    package = _PACKAGES.get(module, module)
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return f"needs {module}, which is not installed: pip install '{package}'"
    remedy = _REMEDIES.get(module, f"pip install --force-reinstall '{package}'")
    line = f"{type(error).__name__}: {first_line(error, 300)}"
    return f"needs {module}, which is installed but cannot be loaded ({line}): {remedy}"
