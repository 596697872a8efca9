"""The demo corpus: voices and faces of our own making, written as real WAV and AVI files.

It stands in for a corpus that nobody may ship. In both modalities the emotion lies in what carries
it in people (prosody; the geometry of brows, eyes and mouth), graded and blurred from utterance to
utterance, while speaker, channel and noise change what a network sees without saying anything
about the emotion. The layout is SAVEE's (`AudioData/DC/a01.wav`, `VisualData/DC/a01.avi`).

The voice is a source-filter synthesiser: jittered glottal pulses and breath, shaped frame by frame
by formants. The face is drawn, lit and filmed; its mouth moves with the voice.
Every file depends on (seed, speaker, emotion, take) alone, so the bytes are the same whatever the
number of processes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from fdan.config import Config, option
from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.media.workers import cores

Array = npt.NDArray[np.float64]

SAMPLE_RATE: Final = 16_000  # Hz
FRAME_RATE: Final = 12  # frames/s; OpenCV's AVI files hold whole numbers only
SIZE: Final = 128  # pixels, width and height
MANIFEST: Final = "demo.json"

# Written into demo.json: a corpus made by another version of the generator is another corpus.
VERSION: Final = 1

# SAVEE's file codes.
CODES: Final = {
    "anger": "a",
    "disgust": "d",
    "fear": "f",
    "happiness": "h",
    "neutral": "n",
    "sadness": "sa",
    "surprise": "su",
}


@dataclasses.dataclass(frozen=True)
class DemoSettings(Config):
    """What the bytes of a demo corpus depend on."""

    speakers: int = option(12, "speakers", low=1, high=676)
    takes: int = option(6, "utterances per emotion and speaker", low=1, high=99)
    seed: int = option(0, "seed of everything in the corpus", low=0)


def generate(
    folder: Path,
    *,
    speakers: int = 12,
    takes: int = 6,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Write the corpus to `folder` and return it; at once if it is there already.

    takes: utterances per emotion and speaker. progress: called with (utterances done, of how
    many). workers: processes, one a core unless given; with 1, no process is started.
    The folder is complete or absent. Raises ConfigError for a setting out of its range, DataError
    where the folder holds something else, a demo corpus with other settings included.
    """
    settings = DemoSettings(speakers=speakers, takes=takes, seed=seed)
    folder = Path(folder)
    if _there_already(folder, settings):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
        try:
            _write_all(partial, settings, progress or (lambda done, total: None), workers)
            text = json.dumps(_manifest(settings), indent=2) + "\n"
            (partial / MANIFEST).write_text(text, encoding="utf-8")
            partial.chmod(0o755)  # mkdtemp's 0700 would keep other users of a machine out
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        # Another process may have finished the same corpus meanwhile.
        if not _there_already(folder, settings):
            reason = error.strerror or error
            raise DataError(f"{folder}: the demo corpus cannot be written: {reason}") from error
    return folder


def speaker_name(index: int) -> str:
    """Two capital letters, different for each of the 676 indices.

    >>> [speaker_name(index) for index in (0, 1, 26)]
    ['AD', 'BI', 'AE']
    """
    round_, first = divmod(index, 26)
    return chr(65 + first) + chr(65 + (5 * first + 3 + round_) % 26)


def _manifest(settings: DemoSettings) -> dict[str, Any]:
    return {"corpus": "demo", "version": VERSION, **settings.as_dict()}


def _there_already(folder: Path, settings: DemoSettings) -> bool:
    """True: this very corpus. False: nothing is in the way. Anything else is a DataError."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; choose another folder for the demo corpus")
    if not (folder / MANIFEST).is_file():
        if any(folder.iterdir()):
            raise DataError(f"{folder}: holds other files; choose another folder")
        return False
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    wanted = _manifest(settings)
    if found == wanted:
        return True
    if not isinstance(found, dict):
        raise DataError(f"{folder / MANIFEST}: unreadable; choose another folder")
    other = ", ".join(
        f"{name} {found.get(name)} (asked for: {value})"
        for name, value in wanted.items()
        if found.get(name) != value
    )
    raise DataError(f"{folder}: holds a demo corpus with {other}; choose another folder")


def _write_all(
    folder: Path,
    settings: DemoSettings,
    progress: Callable[[int, int], None],
    workers: int | None,
) -> None:
    total = settings.speakers * len(EMOTIONS) * settings.takes
    for modality in ("AudioData", "VisualData"):
        for speaker in range(settings.speakers):
            (folder / modality / speaker_name(speaker)).mkdir(parents=True)
    # A process that writes fewer utterances than this costs more to start than it saves.
    workers = min(workers or cores(), -(-total // 40))
    counts = _side_by_side(folder, settings, workers) if workers > 1 else _part(folder, settings)
    done = 0
    progress(done, total)
    for count in counts:
        done += count
        progress(done, total)
    if done != total:
        raise OSError(f"a process ended after {done} of {total} utterances; see above for why")


def _part(folder: Path, settings: DemoSettings, part: int = 0, parts: int = 1) -> Iterator[int]:
    """Write every `parts`-th cell; yields the number of utterances written since the last."""
    cells = itertools.product(range(settings.speakers), EMOTIONS)
    for speaker, emotion in itertools.islice(cells, part, None, parts):
        yield _write_cell(folder, settings, speaker, emotion)


def _side_by_side(folder: Path, settings: DemoSettings, parts: int) -> Iterator[int]:
    """The same, by `parts` processes.

    Plain ones: what multiprocessing spawns imports the caller's main script, and torch with it,
    and fork is unsafe beside torch's threads. All of them write their counts into one pipe.
    """
    ours, theirs = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    package = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": search}
    try:
        with open(ours, encoding="ascii") as counts:  # noqa: PTH123 (a descriptor, not a path)
            try:
                for part in range(parts):
                    task = json.dumps([str(folder), settings.as_dict(), part, parts])
                    command = [sys.executable, "-m", "fdan.corpora.demo", task]
                    processes.append(subprocess.Popen(command, stdout=theirs, env=environment))
            finally:
                os.close(theirs)  # so that the pipe ends with the last of them
            yield from map(int, counts)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _work(task: str) -> None:
    """One process of `_side_by_side`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
    folder, settings, part, parts = json.loads(task)
    try:
        for count in _part(Path(folder), DemoSettings.from_mapping(settings), part, parts):
            # One write, which the pipe keeps whole; print makes two where PYTHONUNBUFFERED is set.
            os.write(sys.stdout.fileno(), f"{count}\n".encode())
    except OSError as error:  # a full disk, say
        sys.exit(f"error: {error}")


def _write_cell(folder: Path, settings: DemoSettings, speaker: int, emotion: str) -> int:
    """All takes of one speaker and emotion; returns how many."""
    name = speaker_name(speaker)
    voice = Voice.draw(np.random.default_rng([settings.seed, speaker, 1]))
    face = Face.draw(np.random.default_rng([settings.seed, speaker, 2]))
    for take in range(settings.takes):
        # As in SAVEE, all say the same sentences: the words carry no emotion and no speaker.
        sentence = Sentence.draw(np.random.default_rng([settings.seed, take, 3]))
        rng = np.random.default_rng([settings.seed, speaker, EMOTIONS.index(emotion), take, 4])
        sound, opening = speak(voice, sentence, emotion, rng)
        file = f"{CODES[emotion]}{take + 1:02d}"
        _write_wav(folder / "AudioData" / name / f"{file}.wav", sound)
        _write_avi(folder / "VisualData" / name / f"{file}.avi", film(face, emotion, opening, rng))
    return settings.takes


def _write_wav(path: Path, sound: Array) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def _write_avi(path: Path, frames: Iterable[npt.NDArray[np.uint8]]) -> None:
    # OpenCV's own writer, not FFmpeg's: the same bytes whatever FFmpeg is installed.
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, codec, FRAME_RATE, (SIZE, SIZE))
    try:
        if not writer.isOpened():
            raise OSError(f"{path}: OpenCV cannot write MJPG video here")
        for frame in frames:
            writer.write(frame)
    finally:
        writer.release()


# ---- the voice ------------------------------------------------------------------------------

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


@dataclasses.dataclass(frozen=True)
class Voice:
    """What a speaker sounds like in every emotion."""

    pitch: float  # Hz
    tract: float  # formants are multiplied by it: above 1, a shorter vocal tract
    habit: Array  # (11,), added to the prosody
    channel: Array  # (6,), dB, cosine series over log frequency: microphone and room
    noise: float  # dB below full scale
    hum: float  # slope of the noise's spectrum, dB an octave

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        high = rng.random() < 0.5
        return cls(
            pitch=(190 if high else 115) * 2 ** rng.normal(0, 0.13),
            tract=(1.1 if high else 0.95) * np.exp(rng.normal(0, 0.04)),
            habit=rng.normal(0, _HABIT),
            channel=rng.normal(0, 1.2, 6) / np.sqrt(np.arange(1, 7)),
            noise=rng.uniform(-62, -57),
            hum=rng.uniform(-4, -2),
        )


@dataclasses.dataclass(frozen=True)
class Sentence:
    """What is said, syllable by syllable."""

    formants: Array  # (syllables, 3), Hz, of an average vocal tract
    lengths: Array  # (syllables,), s, at the average tempo
    stress: Array  # (syllables,), 0..1
    friction: Array  # (syllables,), 0..1, of the consonant before the vowel

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Sentence:
        count = int(rng.integers(5, 9))
        return cls(
            formants=_VOWELS[rng.integers(len(_VOWELS), size=count)],
            lengths=0.19 * np.exp(rng.normal(0, 0.18, count)),
            stress=rng.uniform(0.5, 1, count),
            friction=rng.random(count) * (rng.random(count) < 0.5),
        )


def speak(
    voice: Voice, sentence: Sentence, emotion: str, rng: np.random.Generator
) -> tuple[Array, Array]:
    """One utterance: the sound (samples,) in -1..1 at SAMPLE_RATE, and how far the mouth is open
    (frames,) in 0..1 at SAMPLE_RATE / HOP."""
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
    f = formants[:, None, :]
    bins = _BINS[None, :, None]
    resonances = f**2 / np.sqrt((f**2 - bins**2) ** 2 + (bins * _BANDWIDTHS) ** 2)
    octaves = np.log2(np.maximum(_BINS, 60) / 500)
    # Four formants alone fall by 48 dB an octave above the last; real tracts have more of them.
    source = 10 ** ((-7 + tilt) * octaves / 20) * (1 + (_BINS / 3800) ** 2) ** 1.5
    envelope: Array = np.minimum(resonances, 30).prod(axis=2) * source
    return envelope


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


# ---- the face -------------------------------------------------------------------------------

# Geometry of each emotion at its apex, after the action units of the Facial Action Coding System
# (Ekman and Friesen, 1978), as a change from the neutral face in half-widths of the head (upward
# is positive): inner and outer brow, brows drawn together; opening of the eye and lower lid as
# shares; lip corner, mouth's opening and width, raised upper lip; wrinkled nose as a share.
_EXPRESSION: Final = {
    #        inner outer together eye lower corner open width lip nose
    "anger": (-0.16, 0.04, 0.09, 0.05, 0.60, -0.07, 0.03, -0.09, 0.00, 0.5),
    "disgust": (-0.10, -0.05, 0.04, -0.40, 0.70, -0.09, 0.04, -0.03, 0.09, 1.3),
    "fear": (0.16, 0.04, 0.08, 0.50, 0.15, -0.06, 0.13, 0.10, 0.00, 0.0),
    "happiness": (0.00, 0.03, 0.00, -0.20, 0.60, 0.16, 0.07, 0.16, 0.03, 0.1),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "sadness": (0.12, -0.09, 0.06, -0.40, 0.00, -0.13, 0.00, -0.06, 0.00, 0.0),
    "surprise": (0.18, 0.18, -0.01, 0.75, -0.15, 0.00, 0.25, -0.10, 0.00, 0.0),
}
# How far one clip's face strays from that, and how far a speaker's face at rest does.
_TWITCH: Final = np.array([0.01, 0.01, 0.005, 0.04, 0.05, 0.01, 0.006, 0.01, 0.005, 0.08])
_REST: Final = np.array([0.01, 0.01, 0.005, 0.05, 0.05, 0.01, 0.0, 0.015, 0.005, 0.05])
_TURN: Final = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_SCALE: Final = 2  # faces are drawn at twice their size and shrunk
Colour = npt.NDArray[np.float64]  # (3,), BGR, 0..255


@dataclasses.dataclass(frozen=True)
class Face:
    """What a speaker looks like in every emotion."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    wall: Colour
    rest: Array  # (10,), added to the expression
    length: float  # of the head, in half-widths
    apart: float  # distance of an eye from the middle, in half-widths
    brow: float  # thickness, in half-widths
    size: float  # half-width of the head as a share of the picture
    fringe: float  # how far the hair reaches down, 0..1
    light: Array  # (2,), direction and strength across the picture
    grain: float  # camera noise, grey levels

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Face:
        dark = rng.uniform(0.25, 0.65)
        skin = np.array([175, 200, 236]) * (1 - dark) + np.array([78, 108, 155]) * dark
        hair = np.array([[20, 22, 28], [26, 34, 48], [34, 50, 70], [50, 50, 54]], float)
        return cls(
            skin=skin + rng.normal(0, 6, 3),
            hair=hair[rng.integers(4)] + rng.normal(0, 3, 3),
            iris=rng.uniform(20, 70, 3),
            lips=skin * np.array([0.62, 0.55, 0.85]) + rng.normal(0, 6, 3),
            wall=rng.uniform(115, 145) + rng.normal(0, 5, 3),
            rest=rng.normal(0, _REST),
            length=rng.uniform(1.2, 1.4),
            apart=rng.uniform(0.4, 0.46),
            brow=rng.uniform(0.05, 0.09),
            size=rng.uniform(0.29, 0.34),
            fringe=rng.uniform(0, 1),
            light=rng.normal(0, 0.08, 2),
            grain=rng.uniform(2, 6),
        )


def film(
    face: Face, emotion: str, opening: Array, rng: np.random.Generator
) -> Iterable[npt.NDArray[np.uint8]]:
    """Frames (SIZE, SIZE, 3), BGR, of one utterance whose mouth opens as `opening` says.

    The expression grows from almost neutral to its apex and falls back part of the way.
    """
    count = max(round(len(opening) * HOP / SAMPLE_RATE * FRAME_RATE), 3)
    through = np.arange(count) / (count - 1)
    apex, strength = rng.uniform(0.35, 0.65), rng.uniform(0.7, 1.1)
    course = np.interp(through, [0, apex, 1], [rng.uniform(0.3, 0.6), 1, rng.uniform(0.5, 0.9)])
    expressions = (
        np.outer(course * strength, _EXPRESSION[emotion])
        + face.rest
        + rng.normal(0, _TWITCH)
        + rng.normal(0, _TWITCH / 4, (count, 10))
    )
    talk = np.interp(through * (len(opening) - 1), np.arange(len(opening)), opening)
    expressions[:, 6] += 0.07 * talk
    where = rng.normal(0, 0.03, 2) + rng.normal(0, 0.004, (count, 2)).cumsum(axis=0)
    roll = rng.normal(0, 0.045) + rng.normal(0, 0.01, count).cumsum()
    size = face.size * np.exp(rng.normal(0, 0.05))
    blink = int(rng.integers(count)) if rng.random() < 0.3 else -1
    light = _light(face, rng)
    for frame in range(count):
        if frame == blink:
            expressions[frame, 3] = -0.85
        place = _Place(where[frame], roll[frame], size)
        picture = cv2.resize(
            _draw(face, expressions[frame], place), (SIZE, SIZE), interpolation=cv2.INTER_AREA
        )
        seen = picture * light + rng.normal(0, face.grain, (SIZE, SIZE, 1))
        yield np.clip(seen, 0, 255).astype(np.uint8)


def _light(face: Face, rng: np.random.Generator) -> Array:
    """(SIZE, SIZE, 1): a lamp's share for every pixel, a little different in every take."""
    across = np.linspace(-1, 1, SIZE)
    x, y = face.light + rng.normal(0, 0.03, 2)
    lamp = 1 + x * across[None, :] + y * across[:, None]
    light: Array = np.clip(lamp, 0.35, 1.6)[:, :, None] * rng.uniform(0.9, 1.1)
    return light


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the head is: its centre off the middle (shares of the picture), roll (rad), size."""

    where: Array
    roll: float
    size: float

    def pixels(self, points: Array) -> npt.NDArray[np.int32]:
        """Points (n, 2) in half-widths of the head, y downward, as OpenCV's 1/16 pixels."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        centre = np.array([0.5, 0.52]) + self.where
        pixels = (turned * self.size + centre) * SIZE * _SCALE
        return np.asarray(np.round(pixels * 16), np.int32)


def _oval(x: float, y: float, wide: float, high: float) -> Array:
    return np.column_stack([x + wide * np.cos(_TURN), y + high * np.sin(_TURN)])


def _draw(face: Face, expression: Array, place: _Place) -> npt.NDArray[np.uint8]:
    """One picture (SIZE * _SCALE, SIZE * _SCALE, 3), unlit."""
    inner, outer, together, eye, lower, corner, opening, width, lip, nose = expression
    side = SIZE * _SCALE
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = np.clip(face.wall, 0, 255)

    def fill(points: Array, colour: Colour | float) -> None:
        paint = face.skin * colour if isinstance(colour, float) else colour
        shade = [float(c) for c in np.clip(paint, 0, 255)]
        cv2.fillPoly(picture, [place.pixels(points)], shade, cv2.LINE_AA, 4)

    def blur(amount: float) -> None:
        cv2.GaussianBlur(picture, (0, 0), amount * _SCALE, dst=picture)

    # Hair, neck and shoulders, head; then the soft shades of the skin.
    fill(_oval(0, -0.15, 1.14, face.length + 0.12), face.hair)
    fill(_oval(0, 2.4, 1.7, 1.0), face.wall[::-1] * 0.6)
    fill(_oval(0, 1.2, 0.5, 0.6), 0.72)
    fill(_oval(0, 0, 1.0, face.length), 0.9)
    fill(_oval(0, 0.03, 0.86, face.length * 0.88), 1.0)
    fill(_oval(0, -face.length * 0.6, 0.55, 0.22), 1.07)
    for s in (-1, 1):
        fill(_oval(s * face.apart, -0.2, 0.31, 0.2), 0.78)
        fill(_oval(s * 0.5, 0.3, 0.22, 0.18), 1.08)
        fill(_oval(s * 0.14, 0.28, 0.09, 0.08), 0.7)
    fill(_oval(0, 0.02, 0.09, 0.28), 1.1)
    blur(1.6)
    top = _oval(0, 0, 1.03, face.length + 0.03)[len(_TURN) // 2 + 1 :]
    down = -0.62 - 0.35 * (1 - face.fringe)
    fill(
        np.vstack([top[top[:, 1] < down], [[0.4, down], [0, down - 0.06], [-0.4, down]]]), face.hair
    )

    wrinkle = float(np.clip(nose, 0, 1.3))
    for s in (-1, 1):
        _eye(fill, face, s, eye, lower)
        # The brow: an arc from the inner to the outer end, thinner outside.
        ends = np.array([[0.17 - together, -0.46 - inner], [0.72, -0.44 - outer]])
        middle = ends.mean(axis=0) - [0, 0.07 + 0.2 * max(outer, 0)]
        spine = _curve(ends[0], middle, ends[1])
        thick = face.brow * np.linspace(1, 0.5, len(spine))[:, None] * [[0, 1]]
        fill(np.vstack([spine - thick, (spine + thick)[::-1]]) * [s, 1], face.hair * 0.7)
        # Nostril, and the folds beside a wrinkled nose.
        fill(_oval(s * 0.1, 0.33 - 0.05 * wrinkle, 0.045, 0.025), 0.4)
        if wrinkle > 0.15:
            fold = _curve([0.16, 0.12], [0.26, 0.24], [0.3, 0.45]) * [s, 1]
            fill(
                np.vstack([fold, (fold + np.array([0.035 * wrinkle, 0]))[::-1]]), 1 - 0.3 * wrinkle
            )
    _mouth(fill, face, (corner, opening, width, lip))
    blur(0.45)
    return picture


Fill = Callable[[Array, "Colour | float"], None]


def _eye(fill: Fill, face: Face, side: int, eye: float, lower: float) -> None:
    """One eye: `eye` opens it, `lower` raises its lower lid."""
    high = 0.13 * max(1 + eye, 0.12)
    low = 0.095 * max(1 + 0.5 * eye - 0.7 * lower, 0.15)
    x = side * face.apart
    left, right = [x - 0.22, -0.17], [x + 0.22, -0.17]
    upper = _curve(left, [x, -0.17 - 2 * high], right)
    under = _curve(right, [x, -0.17 + 2 * low], left)
    rim = np.array([[0, 0.035]])
    fill(np.vstack([upper - rim, under + rim * 0.4]), face.hair * 0.35 + 10)
    fill(np.vstack([upper, under]), np.array([215.0, 220, 225]))
    # The iris, cut by the lids.
    disc = _oval(x, -0.17, 0.105, 0.115)
    top, bottom = -0.17 - high * 0.95, -0.17 + low * 0.95
    for scale, colour in ((1.0, face.iris), (0.5, np.array([12.0, 12, 12]))):
        ball = (disc - [x, -0.17]) * scale + [x, -0.17]
        fill(np.column_stack([ball[:, 0], np.clip(ball[:, 1], top, bottom)]), colour)


def _mouth(fill: Fill, face: Face, shape: tuple[float, float, float, float]) -> None:
    corner, opening, width, lip = shape
    half = 0.38 + width
    gap = max(opening, 0.0)
    y = 0.68
    left, right = [-half, y - corner], [half, y - corner]
    over, under = y - 0.6 * gap - lip, y + 1.2 * gap + 0.3 * corner
    fill(
        np.vstack(
            [
                _curve(left, [0, over - 0.1 - (y - corner - over) * 0.6], right),
                _curve(right, [0, under + 0.17 + (under - y + corner) * 0.6], left),
            ]
        ),
        face.lips,
    )
    inside = np.vstack(
        [
            _curve(left, [0, 2 * over - (y - corner)], right),
            _curve(right, [0, 2 * under - (y - corner) + 0.03], left),
        ]
    )
    fill(inside * [0.9, 1], np.array([30.0, 25, 55]))
    if gap > 0.03:
        teeth = np.column_stack([inside[:, 0] * 0.75, np.minimum(inside[:, 1], over + 0.4 * gap)])
        fill(teeth, np.array([205.0, 215, 220]))


def _curve(start: Any, pull: Any, end: Any) -> Array:
    """A quadratic Bézier curve (12, 2)."""
    t = np.linspace(0, 1, 12)[:, None]
    a, b, c = np.asarray(start, float), np.asarray(pull, float), np.asarray(end, float)
    curve: Array = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
    return curve


if __name__ == "__main__":
    _work(sys.argv[1])
