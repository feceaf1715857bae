"""Tables, the machine's description, and the sections of docs/benchmarks.md."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def machine() -> str:
    """Processor, cores and memory, as the kernel tells them."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = cpu[1].strip() if cpu else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {gib:.0f} GiB, no GPU, Python {platform.python_version()}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(name: str, text: str, *, write: bool) -> None:
    """To standard output, and with `write` into the section of this name."""
    sys.stdout.write(text)
    if write:
        write_section(name, text)


def write_section(name: str, text: str, report: Path = REPORT) -> None:
    """Replace what stands between the section's two markers. Raises ValueError when the report lacks them."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = report.read_text("utf-8")
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{report} lacks the markers of section {name}")
    report.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", "utf-8")
