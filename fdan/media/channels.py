"""Channels of a sound that cancel each other out when they are mixed, as one that is turned over
does: judged piece by piece, since they may do so in a part of a recording only."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

SILENCE: Final = 1.0 / 32768.0  # one step of 16-bit audio: what never leaves it holds no sound

_PIECE: Final = 0.5  # seconds
_CANCELLED: Final = 0.01
"""Channels whose mix has less than this part of their power cancel out: what is left of them, after
a lossy coding above all, is noise. Channels that have nothing in common keep half of it."""
_PAUSE: Final = 0.001
"""Pieces with less than this part of the loudest one's power are pauses: what they hold is noise,
which a lossy coding may well have put on one side."""


class Pieces:
    """The power of each channel in equal pieces of a sound that comes in blocks. A constant that is
    added to all samples is no sound, and not counted."""

    def __init__(self, rate: int) -> None:
        self.length = max(1, round(_PIECE * rate))
        self._powers: list[NDArray[np.float64]] = []
        self._count, self._sums, self._squares = 0, np.zeros(0), np.zeros(0)

    def add(self, block: NDArray[np.float32]) -> None:
        """Count a block of the sound.

        Args:
            block: (channels, samples); a later one may have more or fewer channels.
        """
        while block.shape[1]:
            room = self.length - self._count
            part, block = block[:, :room], block[:, room:]
            missing = max(0, len(part) - len(self._sums))
            self._sums = np.pad(self._sums, (0, missing))
            self._squares = np.pad(self._squares, (0, missing))
            self._count += part.shape[1]
            self._sums[: len(part)] += part.sum(axis=1, dtype=np.float64)
            self._squares[: len(part)] += np.einsum("cs,cs->c", part, part, dtype=np.float64)
            if self._count == self.length:
                self._powers.append(self._power())
                self._count, self._sums, self._squares = 0, np.zeros(0), np.zeros(0)

    def powers(self) -> NDArray[np.float64]:
        """(pieces, channels): the sum of squares in each piece."""
        powers = [*self._powers, *([self._power()] if self._count else [])]
        width = max(map(len, powers), default=0)
        return np.array([np.pad(power, (0, width - len(power))) for power in powers])

    def _power(self) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # samples that are not finite are refused elsewhere
            return np.asarray(self._squares - self._sums**2 / self._count)


def loudest_if_cancelling(channels: Pieces, mixed: Pieces) -> int | None:
    """The channel to take in place of the mix, the loudest of all the sound, where channels cancel
    out in any piece in which there is sound; else None.

    Args:
        channels: Pieces of all channels.
        mixed: Pieces of their mix, which is one channel.
    """
    power, mix = channels.powers(), mixed.powers()
    if power.ndim < 2 or power.shape[1] < 2:
        return None
    mean = power.mean(axis=1)
    sounding = mean > max(_PAUSE * float(mean.max()), channels.length * SILENCE**2)
    cancelling = sounding & (mix[:, 0] < _CANCELLED * mean)
    return int(power.sum(axis=0).argmax()) if cancelling.any() else None
