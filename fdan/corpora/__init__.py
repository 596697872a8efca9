"""Corpora as published, each turned into rows by a reader of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fdan.corpora import folders, meld, ravdess, savee
from fdan.corpora.listing import (
    IMAGE,
    CorpusAbsent,
    Listing,
    Row,
    Source,
    count_suffixes,
    describe_counts,
    find_files,
    media_suffixes,
)
from fdan.corpora.pixel_table import is_pixel_table, why_no_table
from fdan.emotions import MODALITIES
from fdan.errors import DataError, unknown

__all__ = [
    "CORPORA",
    "FOLDERS",
    "STORE",
    "Listing",
    "Row",
    "Source",
    "check_folder",
    "parse_source",
    "read",
    "read_suffixes",
]

FOLDERS: Final = "folders"

CORPORA: Final[dict[str, Callable[[Source], Listing]]] = {
    "savee": savee.read,
    "meld": meld.read,
    "ravdess": ravdess.read,
    FOLDERS: folders.read,
    "demo": savee.read_demo,
}

STORE: Final = "store"  # stands for a corpus where a prepared store is opened as it is


def parse_source(text: str, modality: str) -> Source:
    """`ravdess:/data/RAVDESS` as a Source; `store:/folder` is a store prepared before. DataError:
    text not of this form, or an unknown corpus (the nearest is named).

    Args:
        text: CORPUS:FOLDER.
        modality: "acoustic" or "visual".
    """
    assert modality in MODALITIES, modality
    corpus, colon, folder = text.partition(":")
    known = [*CORPORA, STORE]
    if not colon or not folder.strip():
        raise DataError(
            f"{modality} source '{text}': expected CORPUS:FOLDER, for example ravdess:/data/RAVDESS"
            f" (corpora: {', '.join(sorted(known))})"
        )
    corpus = corpus.strip().lower()
    if corpus not in known:
        raise DataError(unknown("corpus", corpus, known))
    return Source(corpus, Path(folder.strip()).expanduser().absolute(), modality)


def read_suffixes(source: Source) -> tuple[str, ...]:
    """Suffixes of the files that a corpus is read from."""
    images = source.corpus == FOLDERS and source.modality == "visual"
    return (*(IMAGE if images else ()), *media_suffixes(source.modality))


def check_folder(source: Source) -> None:
    """Raises DataError where a source is not a folder nor a table of pixels, or is not there."""
    tables = source.corpus == FOLDERS and source.modality == "visual"
    if not source.path.is_dir() and not (tables and is_pixel_table(source.path)):
        what = "is not a folder" if source.path.exists() else "there is no such folder"
        if tables and (why := why_no_table(source.path)):
            what = f"is not a folder, and {why}"
        kind = "store" if source.corpus == STORE else "corpus"
        raise DataError(f"{source}: {what}; give the folder that holds the {kind}")


def read(source: Source) -> Listing:
    """The rows of a corpus. DataError: no such folder, no usable file, or a single emotion."""
    check_folder(source)
    try:
        listing = CORPORA[source.corpus](source)
    except CorpusAbsent as error:
        raise DataError(f"{source}: {error}; {_holds(source.path)}") from error
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    except OSError as error:
        raise DataError(f"{source}: cannot read {error.filename}: {error.strerror}") from error
    if not listing.rows:
        first = listing.problems[0] if listing.problems else None
        why = f" (for instance {first.path}: {first.reason})" if first else ""
        raise DataError(
            f"{source}: no {source.modality} file of this corpus below it{why};"
            f" {_holds(source.path)};"
            " is this the right folder? If it holds the other modality only, name both apart:"
            " --acoustic and --visual"
        )
    emotions = sorted({row.emotion for row in listing.rows})
    if len(emotions) < 2:
        raise DataError(
            f"{source}: all {len(listing.rows)} files are of one emotion, {emotions[0]};"
            " at least two are needed"
        )
    return listing


def _holds(folder: Path) -> str:
    """What a folder in which nothing fits holds instead."""
    files = find_files(folder) if folder.is_dir() else [folder]
    tables = [
        f"{path.name}, a table of pixels, which folders: reads as faces"
        for path in files
        if is_pixel_table(path)
    ]
    others = (path for path in files if not is_pixel_table(path))
    there = describe_counts(count_suffixes(others))
    return f"it holds {' and '.join([*tables[:1], *filter(None, [there])]) or 'no file'}"
