"""A study's report: what it says of every shape of study, that nothing breaks out of it, and that
its pictures are of its figures."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fdan.emotions import EMOTIONS
from fdan.errors import FdanError
from tests.tracking.results import HOSTILE, beside_yardsticks, result, shapes
from tracking import report
from tracking.report.logged import NotLogged, log
from tracking.result import ResultError, StudyResult
from tracking.tracker import Tracker

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from conftest import Tables

SHAPES = shapes()
TITLES = (
    "Winner",
    "Ranking",
    "History",
    "Importance of settings",
    "Parallel coordinates",
    "Slices",
    "Confusion",
    "Feature space",
    "Learning curves",
    "Cost",
    "Failures",
    "Data",
    "Checks and provenance",
)
# What a picture has besides its data.
FRAME = {"grid", "axis", "pole", "ground", "baseline", "cell empty"}
VOID = {"meta", "line", "circle", "rect", "path"}
ALLOWED = re.compile(
    "html|head|meta|title|style|body|nav|a|main|header|h[123]|ul|li|p|section|div|table|thead"
    "|tbody|tr|th|td|dl|dt|dd|pre|code|figure|figcaption|svg|line|circle|rect|path|text|details"
    "|summary|footer"
)
ATTRIBUTES = re.compile(
    "lang|charset|name|content|http-equiv|class|id|href|aria-label|aria-hidden|role|scope"
    "|tabindex|viewbox|[cr]?[xyr]|[xy][12]|d|width|height|transform|text-anchor|fill-opacity"
)


@dataclass
class Read(HTMLParser):
    """A page, strictly read: every element closed, and only those that we write."""

    open: list[str] = field(default_factory=list)
    text: dict[str, list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert ALLOWED.fullmatch(tag), f"<{tag}>"
        names = [name for name, _ in attrs]
        assert all(map(ATTRIBUTES.fullmatch, names)) and len(set(names)) == len(names), names
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


def read(page: str) -> Read:
    reader = Read()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def written(of: StudyResult, folder: Path) -> tuple[str, str]:
    of.save(folder)
    page, beside = report.write(folder)
    assert (page.name, beside.name) == ("report.html", "report.md")
    assert {file.name for file in folder.iterdir()} == {"result.json", page.name, beside.name}
    return page.read_text(encoding="utf-8"), beside.read_text(encoding="utf-8")


def pictures(page: str) -> list[ElementTree.Element]:
    """The SVGs of the page, less the signs of legends."""
    found = [
        ElementTree.fromstring(text) for text in re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    ]
    return [one for one in found if one.get("role") == "img"]


def section(page: str, key: str) -> str:
    return page.split(f'<section id="{key}">')[1].split("</section>")[0]


def drawn(picture: ElementTree.Element, element: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in picture.iter(element) if kind in (one.get("class") or "").split()]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_shape_of_study_has_a_whole_page(name: str, tmp_path: Path) -> None:
    of = SHAPES[name]
    page, beside = written(of, tmp_path)
    assert len(page) < 1e6
    reader = read(page)
    assert reader.text["h2"] == list(TITLES)
    assert re.findall("^## (.*)$", beside, re.MULTILINE) == list(TITLES)
    # Nothing from elsewhere, nothing that runs.
    assert all(re.fullmatch(r"#[a-z]+|https?://.*", link, re.DOTALL) for link in reader.links)
    style = "".join(reader.text["style"])
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page
    for body in page.split("<section")[1:]:
        assert len(re.sub("<[^>]*>", "", body.split("</h2>")[1]).strip()) > 10, body[:200]
    for picture in pictures(page):
        marks = [
            one
            for one in picture.iter()
            if one.tag in ("circle", "path", "rect", "line") and one.get("class") not in FRAME
        ]
        assert marks, f"empty: {picture.get('aria-label')}"
        for one in picture.iter():
            for key, value in one.attrib.items():
                if key not in ("aria-label", "class"):
                    assert not re.search("nan|inf", value), f"{key}={value}"
    for head in re.findall(r"<table>(.*?)</table>", page, re.DOTALL):
        assert "<td" in head, "a table without rows"
    for table in re.findall(r"(?:^\|.*\|\n)+", beside, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    prose = re.sub(r"^(```+).*?^\1$", "", beside, flags=re.MULTILINE | re.DOTALL)
    assert not re.search("<(?!report.html>)|\x00", prose), "HTML in it"


LACKING = [
    ("no-trials", "winner", "No trial is complete"),
    ("no-trials", "ranking", "The study has no trial yet"),
    ("no-trials", "curves", "No trial reported an epoch"),
    ("no-trials", "importance", "Too few trials: of 0\N{NO-BREAK SPACE}complete trials"),
    ("failures-only", "history", "No trial came to a value"),
    ("failures-only", "failures", "Every trial failed"),
    ("failures-only", "slices", "No trial is complete"),
    ("pruned-only", "winner", "No trial is complete"),
    ("pruned-only", "parallel", "No trial is complete"),
    ("pruned-only", "failures", "No trial failed"),
    ("unconfirmed", "winner", "not confirmed"),
    (
        "unconfirmed",
        "ranking",
        " --confirm 3 --seeds 3",
    ),
    ("unconfirmed", "confusion", "the test part has not been scored"),
    ("untested", "winner", "The test part has not been scored"),
    ("one-seed", "winner", "With one fresh seed there is no interval"),
    ("one-trial-alone", "history", "One complete trial is a point"),
    ("one-trial-alone", "importance", "Too few trials"),
    ("one-trial-alone", "slices", "No trial had a use for ratio"),
    ("whole", "importance", "Too few trials: of 9\N{NO-BREAK SPACE}complete trials"),
    ("whole", "winner", "the search has not beaten its yardstick"),
    ("whole", "winner", "rests on 3\N{NO-BREAK SPACE}speakers"),
    ("bare", "winner", "Nothing was searched"),
    ("bare", "features", "No picture of the feature space"),
    ("bare", "data", "The parts of the data were not counted"),
    ("bare", "data", "Every file could be read"),
    ("bare", "provenance", "No checks were recorded"),
    ("hostile", "provenance", "1\N{NO-BREAK SPACE}check of 1 does not hold"),
    ("non-finite", "curves", "losses are not drawn"),
]


def test_what_a_study_lacks_is_said(tmp_path: Path) -> None:
    pages: dict[str, str] = {}
    for name, key, words in LACKING:
        if name not in pages:
            pages[name], _ = written(SHAPES[name], tmp_path)
        told = " ".join(re.sub("<[^>]*>", " ", section(pages[name], key)).split(" "))
        assert words in told, f"{name}, {key}: {words}"
    assert "Too few trials" not in section(written(SHAPES["large"], tmp_path)[0], "importance")


@pytest.mark.parametrize("other", [{"trial": 99}, {"run": 99}, {"run": None}])
def test_a_score_of_another_model_is_not_the_winners(tmp_path: Path, other: dict[str, Any]) -> None:
    """Another setting has won since, or another run of the same one."""
    held = result()
    assert held.test is not None and held.confirm is not None
    figure = f"{held.test.uar:.3f}"
    page, text = written(held, tmp_path)
    assert "was scored for another model" not in page and f"has a UAR of {figure}" in text
    page, text = written(replace(held, test=replace(held.test, **other)), tmp_path)
    assert f"was scored for another model (trial {other.get('trial', held.test.trial)}" in text
    assert f"has a UAR of {figure}" not in text
    assert "it was scored for another model" in section(page, "confusion")
    assert "test, winner" not in page and "By speaker" not in page


def test_names_stay_names(tmp_path: Path) -> None:
    page, _ = written(SHAPES["hostile"], tmp_path)
    reader = read(page)  # knows no script, and no attribute but ours
    shown = "".join(text for texts in reader.text.values() for text in texts)
    assert shown.count("<script>alert(1)</script>") > 40
    title = "".join(reader.text["title"])
    assert "</title><script>" in title
    assert "\x00" not in page and "\udcff" not in page


def test_the_figures_are_the_results(tmp_path: Path) -> None:
    of = SHAPES["whole"]
    page, beside = written(of, tmp_path)
    assert of.test is not None and of.confirm is not None
    first = of.confirm.settings[0]
    values = re.findall(r'<h3>([^<]*)</h3><p class="value">([^<]*)</p>', section(page, "winner"))
    assert dict(values) == {
        "Test UAR": f"{of.test.uar:.3f}",
        "Confirmed validation UAR": f"{first.mean:.3f}",
        "Optimism": f"{first.optimism:+.3f}",
        "Logistic regression": "0.675",
    }
    low, high = of.test.interval.low, of.test.interval.high
    for text in (page, beside):
        assert f"{low:.3f} to {high:.3f}" in text
        assert of.test.model_sha256 in text
        assert of.command in text
    winner = f"Trial {of.confirm.winner} wins"
    assert winner in page and winner in beside
    saved = of.cost.epochs_planned - of.cost.epochs_trained
    assert f'Epochs saved by pruning</h3><p class="value">{saved}<' in page
    for trial in of.trials:
        assert trial.reason in page


def test_the_yardsticks_stand_beside_the_winner(tmp_path: Path) -> None:
    of = beside_yardsticks(SHAPES["whole"])
    page, beside = written(of, tmp_path)
    assert of.test is not None
    told = section(page, "winner")
    values = dict(re.findall(r'<h3>([^<]*)</h3><p class="value">([^<]*)</p>', told))
    assert values["Logistic regression"] == "0.432"
    assert values["SVM on MFCC statistics"] == "0.988"
    row = "| logistic regression | {:.3f} | {:.3f} to {:.3f} | +0.123 | +0.073 to +0.183 | 0.0021 |"
    beside = beside.replace("\\+", "+")
    uar = of.test.uar
    assert row.format(uar - 0.1234, uar - 0.2, uar + 0.2) in beside
    assert "The validation UAR of the yardstick SVM on MFCC statistics" in beside
    assert "The validation UAR of the yardstick logistic" not in beside
    worse = "of the test part, the winner is worse than SVM on MFCC statistics."
    assert worse in beside and "not distinguishable" not in beside
    for label in ("validation, SVM on MFCC statistics", "test, SVM on MFCC statistics"):
        assert label in told
    scores = tuple(replace(y, difference=replace(y.difference, p=0.05)) for y in of.test.yardsticks)
    _, tie = written(replace(of, test=replace(of.test, yardsticks=scores)), tmp_path)
    named = "logistic regression and SVM on MFCC statistics"
    assert f"the winner is not distinguishable from {named}." in tie


def test_the_pictures_are_of_the_results(tmp_path: Path) -> None:
    of = SHAPES["large"]
    page, _ = written(of, tmp_path)
    states = of.counts

    for picture in pictures(section(page, "history")):
        points = [*drawn(picture, "circle", "complete"), *drawn(picture, "circle", "chosen")]
        assert len(points) == states["COMPLETE"]
        assert len(drawn(picture, "circle", "pruned")) == states["PRUNED"]
        assert len(drawn(picture, "path", "failed")) == states["FAIL"]
    for picture in pictures(section(page, "parallel")):
        assert len(drawn(picture, "path", "course")) == states["COMPLETE"]
        assert len(drawn(picture, "path", "chosen")) == 1
    for picture in pictures(section(page, "features")):
        assert of.embedding is not None
        assert sum(len(drawn(picture, "circle", e)) for e in EMOTIONS) == 600
        assert len(drawn(picture, "circle", "hollow")) == 300
    slices = pictures(section(page, "slices"))
    assert len(slices) == len(of.space)
    having = sum("ratio" in t.params for t in of.trials if t.state == "COMPLETE")
    ratio = slices[list(of.space).index("ratio")]
    assert len(drawn(ratio, "circle", "complete")) == having
    for picture, part in zip(
        pictures(section(page, "confusion")), ("validation", "test"), strict=True
    ):
        told = [int(t.text or "") for t in picture.iter("text") if (t.text or "").isdecimal()]
        assert told == [count for row in getattr(of.confusion, part) for count in row]


def test_means_lie_where_their_scale_says(tmp_path: Path) -> None:
    of = SHAPES["whole"]
    assert of.confirm is not None
    page, _ = written(of, tmp_path)
    for picture in pictures(section(page, "ranking")):
        ticks = {
            float(t.text or ""): float(t.get("x") or "")
            for t in picture.iter("text")
            if t.get("class") == "tick"
        }
        (low, at_low), *_, (high, at_high) = sorted(ticks.items())
        means = [float(c.get("cx") or "") for c in drawn(picture, "circle", "point")]
        for x, setting in zip(means, of.confirm.settings, strict=True):
            value = low + (x - at_low) / (at_high - at_low) * (high - low)
            assert value == pytest.approx(setting.mean, abs=2e-4)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (None, "no result.json in it"),
        ("{", "cannot be read"),
        ('{"format": 1}', "written by another version"),
    ],
)
def test_no_result_no_report(broken: str | None, words: str, tmp_path: Path) -> None:
    if broken is not None:
        (tmp_path / "result.json").write_text(broken)
    with pytest.raises(ResultError, match=words):
        report.write(tmp_path)
    assert not list(tmp_path.glob("*report*"))


def test_a_page_is_whole_or_as_it_was(tmp_path: Path) -> None:
    SHAPES["whole"].save(tmp_path)
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(OSError):
        report.write(tmp_path, tmp_path / "taken.html")
    with pytest.raises(FdanError, match=r"ends in \.html"):
        report.write(tmp_path, tmp_path / "report.md")
    assert {file.name for file in tmp_path.iterdir()} == {"result.json", "taken.html"}


def study(folder: Path, uri: str, name: str = "demo") -> StudyResult:
    """A study's folder whose run is with the server."""
    with Tracker(folder / "spool", uri, "fdan") as tracker:
        tracker.open_study(name, {}, {})
        tracker.open_run("0", {}, {})
        tracker.close_run("0", "COMPLETE", "done")
        assert tracker.drain(60), tracker.sender.reason
        of = replace(
            result(), study=name, study_id=tracker.study_id, experiment="fdan", tracking_uri=uri
        )
    of.save(folder)
    return of


def test_logged_with_the_studys_run(database: Tables, uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    study(folder, uri)
    files = report.write(folder)
    run = log(folder, files)
    ((name, where),) = database.rows("select name, artifact_uri from runs where run_uuid = ?", run)
    assert name == "demo"
    for file in files:
        kept = Path(where.removeprefix("file://")) / "study" / file.name
        assert kept.read_bytes() == file.read_bytes()


def test_a_server_that_did_not_get_the_study(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    replaced = {"study_id": "other", "experiment": "fdan"}
    for address, words in [
        (uri, "has no run of study 'demo' yet"),
        ("http://127.0.0.1:9", "is away .Connection refused"),
        (f"sqlite:///{tmp_path}/gone.db", "gone.db is gone"),
        ("postgresql://me:***@127.0.0.1/x", "the password of"),
        ("mlruns", "keeps no runs in plain folders"),
    ]:
        folder.mkdir(exist_ok=True)
        replace(result(), tracking_uri=address, **replaced).save(folder)
        with pytest.raises(FdanError, match=words):
            log(folder, report.write(folder))
    assert not (tmp_path / "gone.db").exists()
    with pytest.raises(NotLogged):
        log(folder, [], "http://127.0.0.1:9")


def test_the_command(
    python: Callable[..., subprocess.Popen[str]], uri: str, tmp_path: Path
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        process = python("-m", "tracking", "report", *arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    folder, page = tmp_path / "demo", tmp_path / "page.html"
    replace(result(), tracking_uri="http://127.0.0.1:9").save(folder_of(folder))
    code, out, err = run(str(folder), "--out", str(page), "--open", "no")
    assert code == 0 and out == f"{page}\n{page.with_suffix('.md')}\n"
    assert "is away" in err and len(err.splitlines()) == 1
    read(page.read_text(encoding="utf-8"))
    study(folder, uri)
    code, out, err = run(str(folder))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "logged to MLflow, with the run of study 'demo'"
    for arguments, words in [
        ((str(tmp_path / "no"),), "no such folder; give a study's folder"),
        (("demmo",), "demmo: no such folder, and no study 'demmo' in ./runs; give a study's"),
        ((str(folder), "--out", str(tmp_path / "no" / "x.html")), "x.html: cannot be written: No"),
        ((str(folder), "--open", "maybe"), "maybe"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and words in err and len(err.splitlines()) == 1


def folder_of(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("name", ["formatting", "selectors"])
def test_examples(name: str) -> None:
    module: Any = importlib.import_module(f"tracking.report.{name}")
    assert doctest.testmod(module).attempted and not doctest.testmod(module).failed


def test_the_hostile_name_is_hostile() -> None:
    assert {"<", ">", '"', "'", "&", "|", "`", "\n", "\x00", "\udcff"} <= set(HOSTILE)
