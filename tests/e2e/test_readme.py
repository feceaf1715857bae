"""The documentation's examples, run as they stand against the whole stack with real models."""

from pathlib import Path

import pytest

from tests.support.examples import check_example
from tests.support.markdown import Block, blocks_for
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("block", blocks_for("e2e"), ids=str)
def test_a_documented_example_works(block: Block, stack: EmbeddedStack, tmp_path: Path) -> None:
    check_example(block, stack, tmp_path)
