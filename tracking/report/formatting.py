"""Numbers as one reads them: sensible digits, units, and words where there is no number."""

import html
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeGuard

NOTHING: Final = "–"
_TIED: Final = "\N{NO-BREAK SPACE}"  # no line ends between a number and its unit
_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_IN_NO_PAGE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it can be drawn: finite, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def score(value: object) -> str:
    """UAR and its like, 0 .. 1.

    >>> score(0.67461), score(None), score(float("nan"))
    ('0.675', '–', '–')
    """
    return f"{value:.3f}" if is_number(value) else NOTHING


def signed(value: object) -> str:
    """A difference of scores.

    >>> signed(0.0142), signed(-0.2), signed(0.0)
    ('+0.014', '−0.200', '0.000')
    """
    if not is_number(value):
        return NOTHING
    text = f"{value:+.3f}".replace("-", "−")
    return "0.000" if text[1:] == "0.000" else text


def interval(low: object, high: object) -> str:
    """An interval of scores.

    Args:
        low: Its lower end.
        high: Its upper end; "none" where one of them is no number.

    >>> interval(0.41, 0.5612), interval(float("nan"), float("nan"))
    ('0.410 to 0.561', 'none')
    """
    return f"{score(low)} to {score(high)}" if is_number(low) and is_number(high) else "none"


def percent(share: object) -> str:
    """
    >>> [percent(share).split() for share in (0.368, 0.004, 0.0001, 1)]
    [['37', '%'], ['0.4', '%'], ['<', '0.1', '%'], ['100', '%']]
    """
    if not is_number(share):
        return NOTHING
    points = 100 * share
    if 0 < points < 0.05:
        return f"<{_TIED}0.1{_TIED}%"
    return f"{points:.{int(0 < abs(points) < 1)}f}{_TIED}%"


def setting(value: object) -> str:
    """A hyperparameter's value with three significant digits, or as it is.

    >>> setting(0.00694), setting(4.48e-05), setting(True), setting(None), setting("bank")
    ('0.00694', '4.48·10⁻⁵', 'yes', 'none', 'bank')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return quantity(value) if isinstance(value, float) else short(str(value))


def quantity(value: float) -> str:
    """Three significant digits.

    >>> quantity(1e-5), quantity(0.1), quantity(12.0), quantity(3.2e7), quantity(-math.inf)
    ('10⁻⁵', '0.1', '12', '3.2·10⁷', '−∞')
    """
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    mantissa = mantissa.replace("-", "−").replace("inf", "∞").replace("nan", "NaN")
    if not exponent:
        return mantissa
    power = "10" + str(int(exponent)).translate(_RAISED)
    return mantissa[:-1] + power if mantissa in ("1", "−1") else f"{mantissa}·{power}"


def duration(seconds: object) -> str:
    """
    >>> [duration(seconds).split() for seconds in (0.4, 8.2, 95, 7300)]
    [['0.4', 's'], ['8', 's'], ['1', 'min', '35', 's'], ['2', 'h', '1', 'min']]
    """
    if not is_number(seconds):
        return NOTHING
    if 0 < seconds < 1:
        return f"{seconds:.1g}{_TIED}s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest}{_TIED}s"
    if minutes < 60:
        return f"{minutes}{_TIED}min {rest}{_TIED}s"
    return f"{thousands(minutes // 60)}{_TIED}h {minutes % 60}{_TIED}min"


def hours(seconds: object) -> str:
    """
    >>> hours(40), hours(1134), hours(90_000)
    ('0.011', '0.32', '25')
    """
    if not is_number(seconds):
        return NOTHING
    value = seconds / 3600
    if value < 10:
        return f"{value:.2g}" if 0 < value < 0.1 else f"{value:.2f}"
    return thousands(round(value))


def thousands(value: int) -> str:
    """
    >>> thousands(1234567).split()
    ['1', '234', '567']
    """
    return f"{value:,}".replace(",", _TIED)


def count(number: int, noun: str) -> str:
    """A number with its noun.

    Args:
        number: Number of things.
        noun: Noun of one thing; of several it has an s.

    >>> [*count(1, "trial").split(), *count(2, "trial").split()]
    ['1', 'trial', '2', 'trials']
    """
    return f"{thousands(number)}{_TIED}{noun if number == 1 else noun + 's'}"


def listed(words: Sequence[str], most: int = 12) -> str:
    """Words in a sentence.

    Args:
        words: Each is cut after 40 characters.
        most: Number that is named; the others are counted.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=2), listed([])
    ('a, b and c', 'a, b and 2 more', '')
    """
    shown = [short(word, 40) for word in words]
    if len(shown) > most:
        shown = [*shown[:most], f"{len(shown) - most} more"]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def short(text: str, most: int = 80) -> str:
    """A text in one line.

    Args:
        text: Whitespace in it is collapsed.
        most: Characters; what is cut off ends in an ellipsis.
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def visible(text: str) -> str:
    """Text with replacement characters for what no page can hold: control characters, and half a
    character of a file's name that is no UTF-8.

    >>> visible("a\\x00\\udcff")
    'a��'
    """
    return _IN_NO_PAGE.sub("�", text)


def escape(text: str) -> str:
    """Text for HTML and SVG, inside an element or an attribute."""
    return html.escape(visible(text), quote=True)


def plain(text: str) -> str:
    """Somebody's words as Markdown that shows just them, in one line."""
    line = html.escape(" ".join(visible(text).split()), quote=False)
    line = re.sub(r"([\\`*_\[\]{}|#~$])", r"\\\1", line)
    # A line that begins with a sign, or a number and a dot, would be a list.
    return re.sub(r"^(?=[-+])|^(\d+)(?=[.)] )", r"\1\\", line)


def sentence(text: str) -> str:
    """Somebody's words as a sentence of ours.

    >>> sentence("epoch 3: loss is NaN"), sentence("Done.")
    ('Epoch 3: loss is NaN.', 'Done.')
    """
    line = " ".join(text.split())
    return line[:1].upper() + line[1:] + ("" if not line or line[-1] in ".!?" else ".")


def moment(written: str) -> str:
    """An ISO 8601 time.

    >>> moment("2026-11-22T19:31:27+00:00"), moment("yesterday")
    ('22 November 2026, 19:31 UTC', 'yesterday')
    """
    try:
        time = datetime.fromisoformat(written)
    except ValueError:
        return short(written, 40)
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()
