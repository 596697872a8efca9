"""A report as a page: one of HTML that needs nothing else, and the same as Markdown."""

from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

from fdan.errors import FdanError
from fdan.files import write_atomic
from tracking.report.blocks import Block
from tracking.report.formatting import escape, plain


class Page(NamedTuple):
    """What a report says."""

    title: str
    lines: list[str]
    """what stands below the title"""
    verdict: str
    """the whole in a sentence or three"""
    sections: list[tuple[str, str, list[Block]]]
    """anchor, title and blocks of each"""

    def write(self, file: Path) -> list[Path]:
        """Write it as HTML, and beside it as Markdown, each whole or not at all. Returns both.
        FdanError: the file is not named as a page; OSError: it cannot be written."""
        if file.suffix.lower() not in (".html", ".htm"):
            raise FdanError(f"{file}: a page's name ends in .html; the Markdown lies beside it")
        beside = file.with_suffix(".md")
        write_atomic(file, self._html())
        write_atomic(beside, self._markdown(file.name))
        return [file, beside]

    def _html(self) -> str:
        """One page that needs nothing else: no script, style and pictures inside it."""
        sections = ""
        for key, title, blocks in self.sections:
            inside = "\n".join(block.html() for block in blocks)
            sections += f'<section id="{key}">\n<h2>{title}</h2>\n{inside}\n</section>\n\n'
        folder = resources.files(__package__)
        return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
            title=escape(self.title),
            style=folder.joinpath("style.css").read_text(encoding="utf-8"),
            entries="".join(f'<a href="#{key}">{title}</a>' for key, title, _ in self.sections),
            lines="".join(f"<li>{escape(line)}</li>" for line in self.lines),
            verdict=escape(self.verdict),
            sections=sections,
        )

    def _markdown(self, page: str) -> str:
        """The same, where pictures become their tables, or stay in the page beside it."""
        address = page.replace("%", "%25").replace("<", "%3C").replace(">", "%3E")
        address = address.replace("\n", "%0A")
        parts = [
            f"# {plain(self.title)}",
            "\n".join(f"- {plain(line)}" for line in self.lines),
            f"**{plain(self.verdict)}**",
            f"Pictures are in [{plain(page)}](<{address}>).",
        ]
        for _, title, blocks in self.sections:
            parts += [f"## {title}", *(block.markdown() for block in blocks)]
        return "\n\n".join(filter(None, parts)) + "\n"
