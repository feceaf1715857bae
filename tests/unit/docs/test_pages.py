"""Links lead somewhere, names exist, examples can be parsed."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.markdown import ROOT, Block, Page, all_blocks, page, pages

BLOCKS = list(all_blocks())
_OURS = re.compile(
    r"^(?:gateway|python_backends|model_repository|trireme|tests|docker|docs|deploy|benchmarks)/[\w./-]*$"
)


@pytest.mark.parametrize("one", pages(), ids=str)
def test_every_relative_link_leads_to_a_file_and_a_heading(one: Page) -> None:
    broken = [link for link in one.links if "://" not in link and not _leads_somewhere(one.path, link)]
    assert broken == []


def _leads_somewhere(source: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (source.parent / name).resolve() if name else source
    return target.exists() and (not anchor or anchor in Page(target).anchors)


@pytest.mark.parametrize("one", pages(), ids=str)
def test_every_path_in_backticks_exists(one: Page) -> None:
    assert [span for span in one.spans if _OURS.match(span) and not (ROOT / span).exists()] == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_examples_compile(block: Block) -> None:
    compile(block.code, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=str)
def test_shell_examples_have_no_syntax_error(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
    assert checked.stderr == ""


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("json", "yaml")], ids=str)
def test_data_examples_can_be_read(block: Block) -> None:
    (json.loads if block.language == "json" else yaml.safe_load)(block.code)


def test_every_block_says_what_language_it_is() -> None:
    assert [str(block) for block in BLOCKS if not block.language] == []


def test_the_first_examples_are_executed() -> None:
    """tests/e2e/test_readme.py and test_adapters.py run them."""
    assert {block.runs_with for block in BLOCKS} == {"", "e2e", "adapters"}
    marked = {(block.language, str(block.page)) for block in BLOCKS if block.runs_with}
    assert {("bash", "README.md"), ("python", "README.md"), ("bash", "docs/api.md")} <= marked
    assert {language for language, _ in marked} == {"bash", "python"}


def test_every_decision_is_in_the_index_and_has_its_three_parts() -> None:
    index = page("docs/adr/README.md")
    decisions = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    assert index.links == [path.name for path in decisions]
    for path in decisions:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {path.name[:4]} · ")
        assert re.findall(r"^## (.*)$", text, re.M) == ["Context", "Decision", "Consequences"], path.name
        assert f"| [{path.name[:4]}]({path.name}) | {text.splitlines()[0].partition(' · ')[2]} |" in index.text


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", page("docs/glossary.md").text, re.M)
    assert words == sorted(words)
    assert len(words) > 30
