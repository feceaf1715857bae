"""Runs the documentation's examples as they stand, against a stack of the tests.

A block runs when the line before it is `<!-- run: e2e -->`, or `<!-- run: e2e; prints: words -->` for words that its
output must have. Addresses are those of `make serve`, and replaced by the stack's.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.markdown import Block
from trireme.stack import EmbeddedStack

TIMEOUT_S = 120
# A refusal must fail the example, also where the example does not ask for that.
STRICT_CURL = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'


def check_example(block: Block, stack: EmbeddedStack, directory: Path) -> None:
    """In this directory, which gets what examples expect to find: the development key and the commands."""
    key_file = directory / ".trireme" / "dev.key"
    if not key_file.exists():
        key_file.parent.mkdir()
        key_file.write_text(stack.dev_key + "\n")
        (directory / ".venv").symlink_to(sys.prefix)
    code = here(block.code, stack)
    commands = {
        "bash": ["bash", "-euo", "pipefail", "-c", STRICT_CURL + code],
        "python": [sys.executable, "-c", code],
    }
    environment = {**os.environ, "TRIREME_GATEWAY_URL": stack.gateway_url, "TRIREME_API_KEY": stack.dev_key}
    run = subprocess.run(
        commands[block.language],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, f"{block}\n{run.stdout}{run.stderr}"
    assert block.prints in run.stdout, f"{block}\n{run.stdout}"


def here(code: str, stack: EmbeddedStack) -> str:
    """All replaced in one go, since one's new address may be another's old one."""
    addresses = {
        "127.0.0.1:8080": stack.gateway_url.removeprefix("http://"),
        "127.0.0.1:8000": stack.triton_url.removeprefix("http://"),
        "127.0.0.1:8001": stack.triton_grpc_url,
    }
    return re.sub("|".join(map(re.escape, addresses)), lambda match: addresses[match[0]], code)
