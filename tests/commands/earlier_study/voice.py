"""The voices of the demo corpus as they were when the study beside this was begun: its data."""

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SAMPLE_RATE: Final = 16_000  # Hz
HOP: Final = 128  # samples between two frames of the filter: 8 ms
WINDOW: Final = 512
_BINS: Final = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)  # (257,), Hz
_HANN: Final = np.hanning(WINDOW + 1)[:-1]
# Formants in Hz of an average vocal tract: a, e, i, o, u, and two between.
_VOWELS: Final = np.array(
    [
        [750, 1250, 2550],
        [530, 1850, 2500],
        [300, 2250, 2950],
        [540, 900, 2450],
        [330, 880, 2300],
        [640, 1700, 2450],
        [490, 1350, 1700],
    ],
    float,
)
_BANDWIDTHS: Final = np.array([80.0, 100, 140, 220])  # Hz

# Prosody of each emotion, relative to the speaker's neutral voice. Pitch level, range over the
# utterance, slope from start to end, final rise and tremor in semitones; log2 of the tempo; level
# in dB; tilt in dB an octave (more is brighter); share of breath; log of the jitter; pauses a
# syllable.
_PROSODY: Final = {
    #          level range slope final tremor tempo loud tilt breath jitter pause
    "anger": (3.5, 6.0, -3.0, -4.0, 0.0, 0.20, 10.0, 4.5, -0.2, 0.5, 0.03),
    "disgust": (-3.0, 3.0, -3.0, -2.0, 0.0, -0.45, 1.0, 2.0, 0.1, 1.6, 0.15),
    "fear": (6.0, 1.5, 1.0, 0.5, 0.8, 0.50, -2.0, -0.5, 0.4, 0.5, 0.08),
    "happiness": (4.5, 10.0, 0.0, 1.0, 0.0, 0.15, 6.0, 2.0, 0.0, 0.0, 0.02),
    "neutral": (0.0, 2.5, -1.5, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03),
    "sadness": (-1.5, 1.0, -3.0, -1.0, 0.3, -0.55, -8.0, -3.5, 0.6, 0.2, 0.20),
    "surprise": (5.5, 4.0, 8.0, 12.0, 0.0, 0.0, 3.0, 0.5, 0.5, 0.0, 0.02),
}
# How far one utterance strays from that, and how far a speaker's own habit does.
_STRAY: Final = np.array([0.7, 0.5, 0.8, 0.6, 0.1, 0.06, 1.1, 0.4, 0.08, 0.15, 0.02])
_HABIT: Final = np.array([0.0, 0.4, 0.3, 0.3, 0.0, 0.06, 0.6, 0.25, 0.06, 0.15, 0.01])


class Voice:
    """What a speaker sounds like in every emotion."""

    def __init__(self, rng: np.random.Generator) -> None:
        high = rng.random() < 0.5
        self.pitch = (190 if high else 115) * 2 ** rng.normal(0, 0.13)  # Hz
        # Formants are multiplied by it: above 1, a shorter vocal tract.
        self.tract = (1.1 if high else 0.95) * np.exp(rng.normal(0, 0.04))
        self.habit = rng.normal(0, _HABIT)  # (11,), added to the prosody
        # (6,), dB, cosine series over log frequency: microphone and room.
        self.channel = rng.normal(0, 1.2, 6) / np.sqrt(np.arange(1, 7))
        self.noise = rng.uniform(-62, -57)  # dB below full scale
        self.hum = rng.uniform(-4, -2)  # slope of the noise's spectrum, dB an octave


class Sentence:
    """What is said, syllable by syllable."""

    def __init__(self, rng: np.random.Generator) -> None:
        count = int(rng.integers(5, 9))
        # (count, 3), Hz, of an average vocal tract.
        self.formants = _VOWELS[rng.integers(len(_VOWELS), size=count)]
        self.lengths = 0.19 * np.exp(rng.normal(0, 0.18, count))  # s, at the average tempo
        self.stress = rng.uniform(0.5, 1, count)  # 0..1
        # 0..1, of the consonant before the vowel.
        self.friction = rng.random(count) * (rng.random(count) < 0.5)


def speak(
    voice: Voice, sentence: Sentence, emotion: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Synthesise one utterance: the sound (samples,) in -1..1 at SAMPLE_RATE; and how far the
    mouth is open, (frames,) in 0..1 at SAMPLE_RATE / HOP.

    Args:
        voice: The speaker's voice.
        sentence: Sentence to say.
        emotion: Emotion of the voice.
        rng: Generator of this take.
    """
    stray = rng.normal(0, _STRAY)
    prosody = np.array(_PROSODY[emotion]) * rng.uniform(0.8, 1.2) + voice.habit + stray
    level, span, slope, final, tremor, tempo, loud, tilt, breath, jitter, pause = prosody
    starts, lengths, total = _timing(sentence, tempo, max(pause, 0), rng)
    at = np.arange(total)
    contour = (level, max(span, 0.3), slope, final, max(tremor, 0))
    pitch = _pitch(at, starts, lengths, contour, rng)
    f0 = voice.pitch * 2 ** (pitch / 12)

    # Per syllable: a consonant (a dip, some with friction), then a vowel.
    inside = (at[:, None] - starts) / lengths  # (frames, syllables), 0..1 where it sounds
    shape = np.clip(np.minimum(inside * 5, (1 - inside) * 3.5), 0, 1)
    opening = _smooth((shape * sentence.stress).max(axis=1), 2)
    hissing = np.exp(-(((inside - 0.05) / 0.12) ** 2)) * sentence.friction
    friction = _smooth(hissing.max(axis=1), 1)
    nearest = np.abs(inside - 0.5).argmin(axis=1)
    tract = np.column_stack([sentence.formants[nearest], np.full(total, 3600.0)])
    formants = np.column_stack([_smooth(track, 4) for track in tract.T]) * voice.tract

    pulses = _pulses(np.repeat(f0, HOP), 0.006 * np.exp(np.clip(jitter, -1, 2)), rng)
    air = rng.normal(0, 1, pulses.shape)
    envelope = _envelope(formants, tilt)
    hiss = 1 / (1 + (3500 * voice.tract / np.maximum(_BINS, 1)) ** 4)
    breathy = 0.012 * np.exp(2.5 * np.clip(breath, -0.5, 0.7))
    voiced = opening[:, None] * envelope
    spectrum = _frames(pulses) * voiced + _frames(air) * (
        breathy * voiced + 0.05 * friction[:, None] * hiss
    )
    return _record(_overlap_add(spectrum), voice, loud, rng), opening


def _timing(
    sentence: Sentence, tempo: float, pause: float, rng: np.random.Generator
) -> tuple[Array, Array, int]:
    """Starts and lengths of the syllables and the whole utterance's length, all in frames."""
    count = len(sentence.lengths)
    seconds = sentence.lengths * 2 ** (-tempo) * np.exp(rng.normal(0, 0.08, count))
    gaps = (rng.random(count) < pause) * rng.uniform(0.12, 0.3, count)
    lengths = np.maximum(seconds * SAMPLE_RATE / HOP, 6)
    before = rng.uniform(0.05, 0.15) + np.cumsum(gaps) - gaps[0]
    starts = before * SAMPLE_RATE / HOP + np.cumsum(lengths) - lengths
    after = rng.uniform(0.05, 0.15) * SAMPLE_RATE / HOP
    return starts, lengths, int(starts[-1] + lengths[-1] + after)


def _pitch(
    at: npt.NDArray[np.int64],
    starts: Array,
    lengths: Array,
    contour: tuple[float, float, float, float, float],
    rng: np.random.Generator,
) -> Array:
    """Semitones above the speaker's pitch for each frame: accents on a slope, and its end."""
    level, span, slope, final, tremor = contour
    through = (at - starts[0]) / (starts[-1] + lengths[-1] - starts[0])
    accents = rng.normal(0, 0.25, len(starts)) + np.resize([0.5, -0.5], len(starts))
    centres = starts + lengths / 2
    melody = np.interp(at, centres, span * accents)
    ending = final * np.clip((through - 0.7) / 0.3, 0, 1) ** 2
    shake = tremor * np.sin(2 * np.pi * (rng.random() + 7 * at * HOP / SAMPLE_RATE))  # 7 Hz
    drift = _smooth(rng.normal(0, 1.2, len(at)), 6)
    pitch: Array = level + slope * (through - 0.5) + _smooth(melody, 3) + ending + shake + drift
    return pitch


def _pulses(f0: Array, jitter: float, rng: np.random.Generator) -> Array:
    """Glottal pulses (samples,) at the pitch `f0` (samples,) in Hz, unevenly timed and tall."""
    phase = np.cumsum(f0) / SAMPLE_RATE
    count = int(phase[-1])
    when = np.interp(np.arange(1, count + 1), phase, np.arange(len(phase)))
    when += rng.normal(0, jitter, count) * SAMPLE_RATE / f0[when.astype(int)]
    when = np.clip(when, 0, len(f0) - 2)
    # A taller pulse for a longer period: the voice's power does not depend on its pitch.
    tall = np.sqrt(SAMPLE_RATE / f0[when.astype(int)]) * np.exp(rng.normal(0, 0.06, count)) / 10
    whole, part = when.astype(int), when % 1
    early = np.bincount(whole, tall * (1 - part), len(f0))
    late = np.bincount(whole + 1, tall * part, len(f0))
    return (early + late).astype(np.float64)


def _envelope(formants: Array, tilt: float) -> Array:
    """Magnitude of the vocal tract, (frames, bins), for formants (frames, 4) in Hz."""
    bins, resonances = _BINS**2, np.ones((len(formants), len(_BINS)))
    for f, width in zip(formants.T[:, :, None] ** 2, _BANDWIDTHS, strict=True):
        apart = f - bins
        apart *= apart
        apart += (_BINS * width) ** 2
        resonances *= np.minimum(f / np.sqrt(apart, out=apart), 30)
    octaves = np.log2(np.maximum(_BINS, 60) / 500)
    # Four formants alone fall by 48 dB an octave above the last; real tracts have more of them.
    source = 10 ** ((-7 + tilt) * octaves / 20) * (1 + (_BINS / 3800) ** 2) ** 1.5
    resonances *= source
    return resonances


def _frames(signal: Array) -> npt.NDArray[np.complex128]:
    """Windowed spectra (frames, bins) of a signal of frames * HOP samples."""
    padded = np.pad(signal, (WINDOW // 2, WINDOW // 2))
    view = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.fft.rfft(view[: len(signal) // HOP] * _HANN, axis=1)


def _overlap_add(spectrum: npt.NDArray[np.complex128]) -> Array:
    """The signal of `_frames`; Hann windows at a quarter of their length add up to 2."""
    parts = np.fft.irfft(spectrum, WINDOW, axis=1).reshape(len(spectrum), -1, HOP) / 2
    shifts = parts.shape[1]
    out = np.zeros((len(spectrum) + shifts, HOP))
    for shift in range(shifts):
        out[shift : shift + len(spectrum)] += parts[:, shift]
    whole = out.ravel()[WINDOW // 2 :]
    return whole[: len(spectrum) * HOP]


def _record(sound: Array, voice: Voice, loud: float, rng: np.random.Generator) -> Array:
    """The utterance as the speaker's microphone hears it: level, colour of the channel, noise."""
    size = len(sound)
    rms = np.sqrt(np.mean(sound**2))
    spectrum = np.fft.rfft(sound / rms * 10 ** ((loud - 34) / 20))
    noise = np.fft.rfft(rng.normal(0, 1, size))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50) / 1000)
    hum = 10 ** (voice.hum * octaves / 20)
    noise *= hum / np.sqrt(np.mean(hum**2)) * 10 ** ((voice.noise + rng.normal(0, 1.5)) / 20)
    where = (octaves + 4.33) / 7.33 * np.pi  # 50 Hz to 8 kHz as 0 to pi
    colour = voice.channel @ np.cos(np.arange(1, 7)[:, None] * where)
    return np.fft.irfft((spectrum + noise) * 10 ** (colour / 20), size)


def _smooth(track: Array, width: float) -> Array:
    """`track` blurred by a Gaussian of `width` frames; its ends are held."""
    reach = int(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
