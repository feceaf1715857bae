"""The project's Markdown pages, as far as tests look into them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*) -->\n)?(?P<fence>```+)(?P<language>\w*)\n(?P<code>.*?)^(?P=fence)$", re.M | re.S
)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.M)
_ROW = re.compile(r"^\|(.+)\|$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block. `marker` is the text of an HTML comment on the line before it: `run: e2e; prints: Paris`."""

    page: "Page"
    line: int
    language: str
    code: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runs_with(self) -> str:
        """`e2e`: the stack of tests/e2e; `adapters`: the one of tests/e2e/test_adapters.py; "": it is not run."""
        run, _, stack = self.marker.partition(";")[0].partition(": ")
        return stack.strip() if run == "run" else ""

    @property
    def prints(self) -> str:
        """What must be in its output; "" for anything."""
        return self.marker.partition("; prints: ")[2].strip()


@dataclass(frozen=True)
class Page:
    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def prose(self) -> str:
        """Everything but fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        text = self.text
        return [
            Block(self, text[: m.start("code")].count("\n"), m["language"], m["code"], m["marker"] or "")
            for m in _FENCE.finditer(text)
        ]

    @property
    def spans(self) -> list[str]:
        """What stands in backticks."""
        return _SPAN.findall(self.prose)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_SPAN.sub("", self.prose))

    @property
    def anchors(self) -> set[str]:
        """What `#…` can name, as GitHub makes it of headings."""
        return {_anchor(heading) for heading in _HEADING.findall(self.prose)}

    def section(self, heading: str) -> str:
        """From the heading to the next one of the same rank."""
        match = re.search(rf"^(#+) {re.escape(heading)}$\n(.*?)(?=^\1 |\Z)", self.prose, re.M | re.S)
        if match is None:
            raise LookupError(f"{self} has no heading {heading!r}")
        return match[2]

    def rows(self, heading: str) -> list[list[str]]:
        """Cells of all table rows of a section, header rows and rules left out."""
        rows = [[cell.strip() for cell in row.split(" | ")] for row in _ROW.findall(self.section(heading))]
        bodies = [number for number, row in enumerate(rows) if set("".join(row)) <= set("-| ")]
        headers = {number - 1 for number in bodies}
        return [row for number, row in enumerate(rows) if number not in headers and number not in bodies]


def page(name: str) -> Page:
    """`name` is relative to the project's root."""
    return Page(ROOT / name)


def pages() -> list[Page]:
    names = ["README.md", "CONTRIBUTING.md", "model_repository/README.md"]
    return [*map(page, names), *map(Page, sorted((ROOT / "docs").rglob("*.md")))]


def all_blocks() -> Iterator[Block]:
    for one in pages():
        yield from one.blocks


def blocks_for(stack: str) -> list[Block]:
    """Those that run against it, page by page and in their order."""
    return [one for one in all_blocks() if one.runs_with == stack]


def _anchor(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.replace(" ", "-")
