from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fdan.files import sync_path
from tracking.outbox import spool as spool_module
from tracking.outbox.spool import Reader, Spool, SpoolError, SpoolFull
from tracking.record import Record

Start = Callable[..., "subprocess.Popen[str]"]


def fill(folder: Path, count: int) -> None:
    spool = Spool(folder)
    for _ in range(count):
        spool.append("metrics", "7", {"step": spool.last + 1, "values": {"uar": 0.5}})
    spool.close()


def steps(folder: Path, after: int = 0) -> list[int]:
    spool = Spool(folder)
    found = [(record.number, record.data["step"]) for record in spool.records(after)]
    spool.close()
    assert all(number == step for number, step in found)
    return [number for number, _ in found]


def test_numbers_go_on_over_openings_and_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 900)
    for _ in range(4):
        fill(tmp_path, 25)
    assert len(list(tmp_path.glob("*.jsonl"))) > 5
    assert steps(tmp_path) == list(range(1, 101))
    assert steps(tmp_path, after=57) == list(range(58, 101))


def test_the_list_of_what_a_server_rejected_is_no_segment(tmp_path: Path) -> None:
    """It lies beside them, with their ending."""
    fill(tmp_path, 3)
    (tmp_path / "refused.jsonl").write_text('{"what": "metric a", "run": "7", "reason": "b"}\n')
    fill(tmp_path, 2)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 3)
    segment = next(tmp_path.glob("*.jsonl"))
    whole = segment.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for missing in range(1, last):
        segment.write_bytes(whole[:-missing])
        caplog.clear()
        assert steps(tmp_path) == [1, 2]
        assert "a crash left unfinished; all 2 before it are whole" in caplog.text
        fill(tmp_path, 1)
        assert steps(tmp_path) == [1, 2, 3]


def test_zeros_after_a_power_cut_are_dropped(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    with next(tmp_path.glob("*.jsonl")).open("ab") as segment:
        segment.write(bytes(5000))
    fill(tmp_path, 2)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_segment_of_nothing_but_a_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 300)
    fill(tmp_path, 9)
    newest = sorted(tmp_path.glob("*.jsonl"))[-1]
    count = len(newest.read_bytes().splitlines())
    newest.write_bytes(b'{"n":')
    assert steps(tmp_path) == list(range(1, 10 - count))
    fill(tmp_path, 1)
    assert steps(tmp_path) == list(range(1, 11 - count))


def test_a_spoilt_line_costs_itself_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 900)
    fill(tmp_path, 20)
    first = sorted(tmp_path.glob("*.jsonl"))[0]
    lines = first.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"uar":0.5', b'"uar":0.9')
    first.write_bytes(b"".join(lines))
    assert steps(tmp_path) == [1, *range(3, 21)]
    spool = Spool(tmp_path)
    reader = Reader(spool)
    assert [record.number for record in reader.take(100)] == [1, *range(3, 21)]
    assert "spoilt and was passed over" in caplog.text
    spool.close()


def test_the_sender_reads_only_what_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SYNC_EVERY", 3600)
    spool = Spool(tmp_path)
    reader = Reader(spool)
    spool.append("metrics", "7", {})
    assert reader.take(10) == [] and spool.durable == 0
    spool.append("close", "7", {}, durable=True)
    assert [record.number for record in reader.take(1)] == [1]
    spool.append("metrics", "7", {})
    assert [record.number for record in reader.take(10)] == [2]
    spool.sync()
    assert [record.number for record in reader.take(10)] == [3]
    spool.close()


def test_a_line_that_is_being_written_is_not_taken_for_a_spoilt_one(tmp_path: Path) -> None:
    """Another process or thread can see the first part of a line, up to a page's end."""
    spool = Spool(tmp_path)
    spool.append("metrics", "7", {"step": 1}, durable=True)
    reader = Reader(spool)
    line = Record(2, 5, "metrics", "7", {"step": 2}).line()
    with next(tmp_path.glob("*.jsonl")).open("ab") as segment:
        segment.write(line[:20])
        segment.flush()
        assert [record.number for record in reader.take(10)] == [1]
        spool.durable = 2  # as if the disk had it, which it can only after the rest
        assert reader.take(10) == []
        segment.write(line[20:])
        segment.flush()
    assert [record.number for record in reader.take(10)] == [2]
    spool.durable = 1
    spool.close()


@pytest.mark.parametrize("segment_bytes", [20_000, 4_000_000])
def test_a_reader_misses_nothing_of_a_writer_at_full_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", segment_bytes)
    monkeypatch.setattr(spool_module, "SYNC_EVERY", 0.001)
    monkeypatch.setattr(spool_module.os, "fsync", lambda handle: None)
    spool = Spool(tmp_path)
    reader = Reader(spool)

    def write() -> None:
        for number in range(10_000):
            spool.append("metrics", "7", {"step": number, "padding": "x" * (number % 700)})

    writer = threading.Thread(target=write)
    writer.start()
    found: list[int] = []
    while writer.is_alive():
        found += [record.number for record in reader.take(100)]
    writer.join()
    spool.sync()
    found += [record.number for record in reader.take(100_000)]
    assert found == list(range(1, 10_001))
    spool.close()


def test_syncing_happens_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SYNC_EVERY", 0.01)
    spool = Spool(tmp_path)
    spool.append("metrics", "7", {})
    for _ in range(500):
        if spool.durable == 1:
            break
        time.sleep(0.01)
    assert spool.durable == 1
    spool.close()


def test_what_is_to_be_written_soon_waits_for_no_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SYNC_EVERY", 3600)
    spool = Spool(tmp_path)
    spool.append("open", "7", {}, soon=True)
    for _ in range(500):
        if spool.durable == 1:
            break
        time.sleep(0.01)
    assert spool.durable == 1
    spool.close()


def test_a_kept_file_is_on_the_disk_before_its_record_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SYNC_EVERY", 3600)
    file = tmp_path / "curve.png"
    file.write_bytes(b"png")
    spool = Spool(tmp_path / "spool")
    synced: list[Path] = []
    monkeypatch.setattr(
        spool_module, "sync_path", lambda path: (synced.append(path), sync_path(path))
    )
    kept = spool.keep(file)
    spool.append("artifact", "7", {"kept": kept})
    spool.append("close", "study", {}, durable=True)
    assert (spool.durable, synced) == (0, []), "nobody waits for a file's way to the disk"
    spool.sync()
    copy = spool.kept(kept)
    assert (spool.durable, synced) == (2, [copy, copy.parent, spool.folder / "files"])
    spool.append("close", "7", {}, durable=True)
    assert spool.durable == 3 and len(synced) == 3, "once"
    spool.close()


WRITER = """
import sys
from pathlib import Path
from tracking.outbox import spool as spool_module
spool_module.SEGMENT_BYTES = 20000
spool = spool_module.Spool(Path(sys.argv[1]))
while True:
    record = spool.append("metrics", "7", {"step": spool.last + 1, "values": {"uar": 0.5}})
    print(record.number, flush=True)
"""


def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path, python: Start) -> None:
    said = 0
    for _ in range(3):
        writer = python("-c", WRITER, str(tmp_path))
        assert writer.stdout is not None
        for line in writer.stdout:
            said = int(line)
            if said % 300 == 0:
                break
        with pytest.raises(SpoolError, match=rf"process {writer.pid} on .*: wait for it"):
            Spool(tmp_path)
        writer.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        writer.communicate()
        found = steps(tmp_path)
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= said
    assert said >= 900


FULL = """
import resource, sys
from pathlib import Path
from tracking.outbox.spool import Spool, SpoolFull
spool = Spool(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1))
try:
    while True:
        spool.append("metrics", "7", {"step": spool.last + 1, "values": {"uar": 0.5}})
except SpoolFull as error:
    print(error)
big = Path(sys.argv[1]) / "big"
big.write_bytes(b"x" * 1900)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
try:
    spool.keep(big)
except SpoolFull as error:
    print(error)
print(len(list((spool.folder / "files").iterdir())))
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
print(spool.append("metrics", "7", {"step": spool.last + 1, "values": {}}, durable=True).number)
"""


def test_a_full_disk_leaves_whole_records_and_writing_goes_on_after(
    tmp_path: Path, python: Start
) -> None:
    """The kernel's limit on a file's size stands in for a full disk: write() takes the part of a
    line that still fits, and refuses the rest."""
    out, err = python("-c", FULL, str(tmp_path)).communicate(timeout=60)
    told, again, left, number = out.splitlines()
    assert not err
    assert told == again
    assert re.fullmatch(
        rf"no room left for tracking records in {tmp_path} \(.*\): everything recorded so far is "
        "whole; free some space and run the same command again",
        told,
    )
    assert left == "0"
    assert int(number) > 10
    assert steps(tmp_path) == list(range(1, int(number) + 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_is_told_as_such(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    os.dup2(os.open("/dev/full", os.O_WRONLY), spool._handle)
    with pytest.raises(SpoolFull, match=r"\(No space left on device\)"):
        spool.append("metrics", "7", {})
    spool.close()


def test_kept_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    original = tmp_path / "curve.png"
    original.write_bytes(b"png")
    one, two = spool.keep(original), spool.keep(original)
    original.unlink()
    assert spool.kept(one).read_bytes() == spool.kept(two).read_bytes() == b"png"
    assert spool.kept(one).name == "curve.png"
    spool.drop_others({two})
    assert not spool.kept(one).exists() and spool.kept(two).exists()
    with pytest.raises(SpoolError, match=r"artifact .*/gone\.png: No such file or directory"):
        spool.keep(tmp_path / "gone.png")
    spool.drop(two)
    assert list((tmp_path / "spool" / "files").iterdir()) == []
    spool.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"cannot write tracking records in .*Not a directory"):
        Spool(tmp_path / "file" / "spool")
