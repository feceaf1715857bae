"""Each thing that an unsupported machine lacks gets one sentence that names the remedy."""

import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from trireme import machine
from trireme.machine import Machine, machine_checks

GOOD = Machine(
    system="Linux",
    arch="x86_64",
    libc="glibc 2.36",
    cpuinfo="processor\t: 0\nflags\t\t: fpu sse2 avx avx2 bmi2\n",
    python=(3, 11),
    has_venv=True,
    libpython="/usr/lib/libpython3.11.so.1.0",
    free_gb=80.0,
)


def problems(**changes: Any) -> list[str]:
    return [check.problem for check in machine_checks(GOOD._replace(**changes)) if check.problem]


def test_a_good_machine_has_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "aarch64"}, ("Linux aarch64", "docker/compose.yaml")),
        ({"system": "Darwin", "arch": "arm64"}, ("Darwin arm64", "docker/compose.yaml")),
        ({"libc": "glibc 2.31"}, ("glibc 2.35", "glibc 2.31", "docker/compose.yaml")),
        ({"libc": ""}, ("another C library", "docker/compose.yaml")),
        ({"cpuinfo": "flags : fpu sse2 avx\n"}, ("AVX2", "docker/compose.yaml")),
        ({"cpuinfo": ""}, ("AVX2",)),
        ({"python": (3, 10)}, ("3.11 or 3.12", "3.10", "make PYTHON=")),
        ({"python": (3, 13)}, ("3.13", "make PYTHON=")),
        ({"has_venv": False}, ("apt install python3.11-venv",)),
        ({"libpython": ""}, ("libpython3.11.so.1.0", "apt install libpython3.11")),
        ({"free_gb": 2.0}, ("6 GB", "2.0 GB free")),
    ],
)
def test_each_lack_is_one_sentence_with_its_remedy(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    [problem] = problems(**changes)
    assert all(word in problem for word in words), problem
    assert problem.endswith(".")
    assert "\n" not in problem


def test_the_newest_glibc_is_not_mistaken_for_an_old_one() -> None:
    assert problems(libc="glibc 2.100") == []
    assert problems(libc="glibc 3.0") == []


def test_the_interpreters_own_library_directory_comes_first(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for place in (own, other):
        place.mkdir()
        (place / "libpython3.11.so.1.0").touch()
    assert machine.find_libpython("libpython3.11.so.1.0", [own, other]) == str(own / "libpython3.11.so.1.0")
    assert machine.find_libpython("libpython3.12.so.1.0", [own, other]) == ""


def test_debians_multiarch_directory_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"LIBDIR": "/usr/lib", "MULTIARCH": "x86_64-linux-gnu"}
    monkeypatch.setattr(sysconfig, "get_config_var", values.get)
    name, places = machine.libpython_places()
    assert name == f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    assert Path("/usr/lib/x86_64-linux-gnu") in places


def test_this_machine_is_read_without_failing(tmp_path: Path) -> None:
    found = machine.read_machine(str(tmp_path))
    assert found.python == sys.version_info[:2]
    assert found.free_gb > 0
