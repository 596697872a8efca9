"""Readers against the published layouts. Readers look at names and tables only, so that files
may be empty here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fdan.corpora import CORPORA, Listing, Source, parse_source, read
from fdan.errors import DataError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(corpus: str, root: Path, modality: str) -> Listing:
    return read(Source(corpus, root, modality))


def rows(listing: Listing) -> list[tuple[str | None, str, str]]:
    return [(row.speaker, row.utterance, row.emotion) for row in listing.rows]


# --- source texts


def test_source_text(tmp_path: Path) -> None:
    source = parse_source(f"RAVDESS:{tmp_path}", "acoustic")
    assert source == Source("ravdess", tmp_path, "acoustic")
    assert parse_source("store:/a:b", "visual") == Source("store", Path("/a:b"), "visual")
    assert parse_source("savee:~/x", "visual").path == Path.home() / "x"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ravdes:/x", "did you mean 'ravdess'"),
        ("ravdess", "expected CORPUS:FOLDER"),
        ("ravdess: ", "expected CORPUS:FOLDER"),
        ("", "expected CORPUS:FOLDER"),
    ],
)
def test_bad_source_text(text: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        parse_source(text, "acoustic")


# --- what every reader refuses


@pytest.mark.parametrize("corpus", sorted(CORPORA))
@pytest.mark.parametrize("modality", ["acoustic", "visual"])
def test_missing_and_empty_folders(corpus: str, modality: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        listed(corpus, tmp_path / "absent", modality)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        listed(corpus, tmp_path / "file", modality)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        listed(corpus, tmp_path / "empty", modality)
    assert str(tmp_path / "empty") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("corpus", "names"),
    [
        ("savee", ["DC/a01.wav", "JE/a02.wav"]),
        ("ravdess", ["03-01-05-01-01-01-01.wav", "03-01-05-01-01-01-02.wav"]),
        ("folders", ["angry/1.wav", "anger/2.wav"]),
    ],
)
def test_one_emotion_is_refused(corpus: str, names: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="all 2 files are of one emotion, anger"):
        listed(corpus, tmp_path, "acoustic")


# --- SAVEE


def test_savee_as_published(tmp_path: Path) -> None:
    codes = ["a01", "d15", "f02", "h03", "n30", "sa04", "su05"]
    touch(tmp_path, *(f"AudioData/DC/{code}.wav" for code in codes), "AudioData/Info.txt")
    touch(tmp_path, *(f"VisualData/DC/{code}.avi" for code in codes))
    emotions = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    expected = [
        ("DC", f"DC_{code}", emotion) for code, emotion in zip(codes, emotions, strict=True)
    ]
    assert rows(listed("savee", tmp_path, "acoustic")) == expected
    assert rows(listed("savee", tmp_path / "AudioData", "acoustic")) == expected
    assert rows(listed("savee", tmp_path, "visual")) == expected
    suffixes = {row.path.suffix for row in listed("savee", tmp_path, "visual").rows}
    assert suffixes == {".avi"}
    assert rows(listed("demo", tmp_path, "visual")) == expected


def test_savee_flat_and_one_row_an_utterance(tmp_path: Path) -> None:
    touch(tmp_path, "JE_sa01.wav", "KL_su02.wav", "._JE_sa02.wav", "notes.wav")
    touch(tmp_path, "AudioVisualClip/JE/sa1.avi", "VisualData/JE_sa01.avi", "VisualData/KL/a1.avi")
    acoustic = listed("savee", tmp_path, "acoustic")
    assert rows(acoustic)[:1] == [("JE", "JE_sa01", "sadness")]
    assert [problem.path.name for problem in acoustic.problems] == ["notes.wav"]
    # The sound of a clip serves where there is no wav; where there is one, it comes first.
    by_name = {row.utterance: row.path.suffix for row in acoustic.rows}
    assert by_name == {"JE_sa01": ".wav", "KL_su02": ".wav", "KL_a01": ".avi"}
    visual = listed("savee", tmp_path, "visual")
    assert [row.path.relative_to(tmp_path).parts[0] for row in visual.rows] == ["VisualData"] * 2
    assert visual.skipped == {}
    touch(tmp_path, "VisualData/again/JE_sa01.avi")
    assert listed("savee", tmp_path, "visual").skipped == {"second copy": 1}


# --- RAVDESS


def test_ravdess_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Actor_12/03-01-05-01-02-01-12.wav",
        "Actor_12/03-01-06-01-02-01-12.flac",
        "Actor_12/03-01-02-01-02-01-12.wav",  # calm
        "Actor_12/03-02-05-01-02-01-12.wav",  # song
        "copy/03-01-05-01-02-01-12.wav",
        "Actor_12/03-01-09-01-02-01-12.wav",
        "Actor_12/hello.wav",
    )
    listing = listed("ravdess", tmp_path, "acoustic")
    assert rows(listing) == [
        ("Actor_12", "01-05-01-02-01-12", "anger"),
        ("Actor_12", "01-06-01-02-01-12", "fear"),
    ]
    assert listing.skipped == {"calm": 1, "song": 1, "second copy": 1}
    assert len(listing.problems) == 2


def test_ravdess_prefers_by_modality(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "01-01-03-01-01-01-01.mp4",
        "02-01-03-01-01-01-01.mp4",
        "03-01-03-01-01-01-01.wav",
        "01-01-04-01-01-01-01.mp4",
        "02-01-07-01-01-01-01.mp4",
    )
    acoustic = listed("ravdess", tmp_path, "acoustic")
    assert {row.path.name for row in acoustic.rows} == {
        "03-01-03-01-01-01-01.wav",
        "01-01-04-01-01-01-01.mp4",
    }
    assert acoustic.skipped == {"other modality": 2}
    visual = listed("ravdess", tmp_path, "visual")
    assert {row.path.name for row in visual.rows} == {
        "01-01-03-01-01-01-01.mp4",
        "01-01-04-01-01-01-01.mp4",
        "02-01-07-01-01-01-01.mp4",
    }
    assert len({row.utterance for row in visual.rows}) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_real_corpora() -> None:
    ravdess = listed("ravdess", SHARED / "ravdess", "acoustic")
    assert len(ravdess.rows) == 624 and ravdess.skipped == {"calm": 96}
    assert Counter(row.speaker for row in ravdess.rows) == {
        f"Actor_{number:02d}": 52 for number in range(1, 13)
    }
    faces = listed("folders", SHARED / "fer2013", "visual")
    assert Counter(row.emotion for row in faces.rows).total() == 2800
    assert {row.part for row in faces.rows} == {"train"}


# --- MELD

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season\n"


def meld(root: Path, nested: str = "") -> None:
    root.mkdir(parents=True, exist_ok=True)
    tables = {
        "train": '1,"Oh, my\x92s\nGod",Ross,joy,positive,0,0,1\n2,b,Mr. Big,anger,negative,0,1,1\n'
        "3,c,Ross,sadness,negative,7,7,1\n4,c,Ross,boredom,negative,0,3,1\n5,d,Ross,joy,x,y,z,1\n",
        "dev": "1,a, Ross ,neutral,neutral,0,0,1\n",
        "test": "1,a,Joey,surprise,positive,0,0,1\n",
    }
    for part, text in tables.items():
        (root / f"{part}_sent_emo.csv").write_bytes((HEADER + text).encode("latin-1"))
    for folder in ("train_splits", "dev_splits_complete", "output_repeated_splits_test"):
        touch(root, f"{nested}{folder}/dia0_utt0.mp4", f"{nested}{folder}/._dia0_utt0.mp4")
    touch(root, f"{nested}train_splits/dia0_utt1.mp4")
    touch(root, f"{nested}output_repeated_splits_test/final_videos_testdia0_utt0.mp4")


@pytest.mark.parametrize("nested", ["", "MELD.Raw/test/"])
@pytest.mark.parametrize("modality", ["acoustic", "visual"])
def test_meld_as_published(nested: str, modality: str, tmp_path: Path) -> None:
    meld(tmp_path / "MELD", nested)
    for root in (tmp_path / "MELD", tmp_path):
        listing = listed("meld", root, modality)
        assert [
            (*row, part.part) for row, part in zip(rows(listing), listing.rows, strict=True)
        ] == [
            ("Ross", "train_dia0_utt0", "happiness", "train"),
            ("Mr. Big", "train_dia0_utt1", "anger", "train"),
            ("Ross", "validation_dia0_utt0", "neutral", "validation"),
            ("Joey", "test_dia0_utt0", "surprise", "test"),
        ]
        reasons = [problem.reason for problem in listing.problems]
        assert len(reasons) == 3
        assert "dia7_utt7 has no file" in reasons[0]
        assert "unknown emotion 'boredom'" in reasons[1]
        assert "no dialogue or utterance number" in reasons[2]


def test_meld_lacks_parts(tmp_path: Path) -> None:
    meld(tmp_path)
    (tmp_path / "test_sent_emo.csv").unlink()
    for file in (tmp_path / "dev_splits_complete").iterdir():
        file.unlink()
    (tmp_path / "dev_splits_complete").rmdir()
    listing = listed("meld", tmp_path, "visual")
    assert {row.part for row in listing.rows} == {"train"}
    reasons = " ".join(problem.reason for problem in listing.problems)
    assert "folder dev_splits_complete is missing" in reasons
    assert "table test_sent_emo.csv is missing" in reasons


def test_meld_column_missing(tmp_path: Path) -> None:
    meld(tmp_path)
    (tmp_path / "dev_sent_emo.csv").write_text("Utterance,Speaker,Dialogue_ID,Utterance_ID\n")
    with pytest.raises(DataError, match=r"dev_sent_emo.csv lacks the column Emotion"):
        listed("meld", tmp_path, "acoustic")


# --- class folders


def test_folders_with_parts(tmp_path: Path) -> None:
    touch(tmp_path, "train/angry/1.jpg", "train/angry/1.png", "test/Happy/2.JPG", "val/sad/s.mp4")
    touch(tmp_path, "val/sad/s.wav", "train/contempt/3.jpg", "train/contempt/4.jpg")
    visual = listed("folders", tmp_path, "visual")
    assert [(row.emotion, row.part, row.speaker) for row in visual.rows] == [
        ("happiness", "test", None),
        ("anger", "train", None),
        ("anger", "train", None),
        ("sadness", "validation", None),
    ]
    assert [problem.reason for problem in visual.problems] == [
        "'contempt' is not one of the seven emotions: 2 files left out"
    ]
    touch(tmp_path, "fear/f.flac")
    acoustic = listed("folders", tmp_path, "acoustic")
    assert [row.path.name for row in acoustic.rows] == ["f.flac", "s.wav"]
    assert [row.part for row in acoustic.rows] == [None, "validation"]


def test_folders_without_emotions(tmp_path: Path) -> None:
    touch(tmp_path, "1/a.jpg", "2/b.jpg")
    with pytest.raises(DataError, match=r"no class folder is named for an emotion: '1' is a "):
        listed("folders", tmp_path, "visual")


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "data/sad/1.jpg", "data/happy/2.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    assert len(listed("folders", root, "visual").rows) == 2


# --- what no reader reads


@pytest.mark.parametrize("corpus", ["savee", "ravdess", "folders", "meld", "demo"])
def test_what_is_not_read_is_counted_by_suffix(corpus: str, tmp_path: Path) -> None:
    touch(tmp_path, "AudioData/DC/a01.wav", "AudioData/DC/h01.wav", "angry/1.wav", "happy/1.wav")
    touch(tmp_path, "03-01-05-01-02-01-12.wav", "03-01-04-01-02-01-12.wav")
    touch(tmp_path, "train_splits/dia0_utt0.mp4", "train_splits/dia0_utt1.mp4")
    table = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\na,A,joy,0,0\nb,B,anger,0,1\n"
    (tmp_path / "train_sent_emo.csv").write_text(table)
    touch(tmp_path, "README", "demo.json", "angry/Info.TXT", "angry/b.txt", ".hidden.txt")
    unused = listed(corpus, tmp_path, "acoustic").unused
    assert unused.pop(".txt") == 2 and unused.pop("no suffix") == 1
    # A demo corpus's own file is known; MELD reads its tables and its folders alone.
    assert unused.pop(".json", 0) == (corpus == "meld")
    assert unused == ({".wav": 6} if corpus == "meld" else {".csv": 1})
