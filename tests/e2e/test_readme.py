"""The documentation's examples, run as they stand against the whole stack with real models.

A block runs when the line before it is `<!-- run: e2e -->`, or `<!-- run: e2e; prints: words -->` for words that its
output must have. Addresses are those of `make serve`, and replaced by the test stack's.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.markdown import Block, all_blocks
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
TIMEOUT_S = 120
# A refusal must fail the example, also where the example does not ask for that.
STRICT_CURL = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'


@pytest.mark.parametrize("block", [one for one in all_blocks() if one.runs_end_to_end], ids=str)
def test_a_documented_example_works(block: Block, stack: EmbeddedStack, tmp_path: Path) -> None:
    key_file = tmp_path / ".trireme" / "dev.key"
    key_file.parent.mkdir()
    key_file.write_text(stack.dev_key + "\n")
    code = here(block.code, stack)
    commands = {
        "bash": ["bash", "-euo", "pipefail", "-c", STRICT_CURL + code],
        "python": [sys.executable, "-c", code],
    }
    run = subprocess.run(
        commands[block.language], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert block.prints in run.stdout


def here(code: str, stack: EmbeddedStack) -> str:
    """All replaced in one go, since one's new address may be another's old one."""
    addresses = {
        "127.0.0.1:8080": stack.gateway_url.removeprefix("http://"),
        "127.0.0.1:8000": stack.triton_url.removeprefix("http://"),
        "127.0.0.1:8001": stack.triton_grpc_url,
    }
    return re.sub("|".join(map(re.escape, addresses)), lambda match: addresses[match[0]], code)
