"""Can this machine run the embedded stack? Facts are read once, judged by pure functions.

Shared by the bootstrap (standard library only; must parse on Python 3.6, hence the quoted annotations) and by
`trireme doctor`. Every finding is one sentence that says what is wrong and what to do.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

# Triton's stub dies on numpy 2, and numpy 1.26 has no wheel for Python 3.13.
SUPPORTED_PYTHONS = ((3, 11), (3, 12))
MIN_GLIBC = (2, 35)
INSTALL_GB = 6
DOCKER_HINT = "use the Docker set-up instead (docker/compose.yaml, docs/operations.md)"


class Machine(NamedTuple):
    """What was seen of the machine; `libc` and `libpython` are "" when there is none."""

    system: str  # platform.system()
    arch: str  # platform.machine()
    libc: str  # "glibc 2.36"
    cpuinfo: str  # text of /proc/cpuinfo
    python: "tuple[int, int]"
    has_venv: bool  # venv and ensurepip can be imported
    libpython: str  # path of the shared libpython of this very interpreter
    free_gb: float  # GB (10^9 bytes) free where the project lies


class Check(NamedTuple):
    """One finding; `problem` is "" when all is well."""

    name: str
    found: str
    problem: str


def read_machine(root: str) -> Machine:
    """Look at the running interpreter and at the disk that holds `root`."""
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        libc=_read_libc(),
        cpuinfo=_read_text("/proc/cpuinfo"),
        python=(sys.version_info[0], sys.version_info[1]),
        has_venv=all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip")),
        libpython=find_libpython(*libpython_places()),
        free_gb=shutil.disk_usage(root).free / 1e9,
    )


def machine_checks(machine: Machine, needed_gb: float = INSTALL_GB) -> "list[Check]":
    """All checks in the order in which they make sense; `needed_gb` is 0 once everything is installed."""
    return [
        check_platform(machine.system, machine.arch),
        check_glibc(machine.libc),
        check_cpu(machine.cpuinfo),
        check_python(machine.python),
        check_venv(machine.has_venv, machine.python),
        check_libpython(machine.libpython, machine.python),
        check_disk(machine.free_gb, needed_gb),
    ]


def check_platform(system: str, arch: str) -> Check:
    """The tritonserver and vLLM wheels exist for Linux on x86-64 only."""
    found = f"{system} {arch}"
    if (system, arch) == ("Linux", "x86_64"):
        return Check("platform", found, "")
    return Check("platform", found, f"The embedded stack needs Linux on x86-64, this is {found}: {DOCKER_HINT}.")


def check_glibc(libc: str) -> Check:
    """The wheels are built against glibc 2.35."""
    match = re.match(r"glibc (\d+)\.(\d+)", libc)
    if match and (int(match.group(1)), int(match.group(2))) >= MIN_GLIBC:
        return Check("C library", libc, "")
    found = libc or "another C library"
    needed = "{}.{}".format(*MIN_GLIBC)
    return Check("C library", found, f"The embedded stack needs glibc {needed} or newer, not {found}: {DOCKER_HINT}.")


def check_cpu(cpuinfo: str) -> Check:
    """VLLM's CPU build needs AVX2."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    words = flags.group(1).split() if flags else []
    if "avx2" in words:
        return Check("processor", "AVX-512" if "avx512f" in words else "AVX2", "")
    return Check("processor", "no AVX2", f"vLLM's CPU build needs a processor with AVX2: {DOCKER_HINT}.")


def check_python(version: "tuple[int, int]") -> Check:
    """Only the versions for which every pinned package has a wheel."""
    found = "{}.{}".format(*version)
    if version in SUPPORTED_PYTHONS:
        return Check("Python", found, "")
    names = " or ".join("{}.{}".format(*supported) for supported in SUPPORTED_PYTHONS)
    sentence = (
        f"The embedded stack needs Python {names}, this is {found}: name one with `make PYTHON=python3.11 serve`."
    )
    return Check("Python", found, sentence)


def check_venv(has_venv: bool, version: "tuple[int, int]") -> Check:
    """Debian and Ubuntu ship venv and ensurepip in a package of their own."""
    if has_venv:
        return Check("venv module", "present", "")
    sentence = "This Python cannot make virtual environments: install its venv module (apt install python{}.{}-venv)."
    return Check("venv module", "missing", sentence.format(*version))


def check_libpython(path: str, version: "tuple[int, int]") -> Check:
    """Triton's Python stub is linked against the shared library of the interpreter that it runs."""
    if path:
        return Check("libpython", path, "")
    sentence = (
        "Triton's Python backend needs the shared library {}, which this Python lacks: "
        "install it (apt install libpython{}.{}), or use a Python that was built with --enable-shared."
    )
    return Check("libpython", "missing", sentence.format(libpython_name(version), *version))


def check_disk(free_gb: float, needed_gb: float) -> Check:
    """Packages, models and pip's temporary files."""
    found = f"{free_gb:.1f} GB free"
    if free_gb >= needed_gb:
        return Check("disk", found, "")
    sentence = f"The installation needs about {needed_gb:.0f} GB on this disk, which has {found}: make room first."
    return Check("disk", found, sentence)


def libpython_name(version: "tuple[int, int]") -> str:
    """File name that Triton's stub asks the dynamic loader for."""
    return "libpython{}.{}.so.1.0".format(*version)


def libpython_places() -> "tuple[str, list[Path]]":
    """File name and the directories that belong to this very interpreter.

    Other directories are left out on purpose: with the libpython of another build, extension modules fail to load.
    """
    libdir = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    bases = [Path(libdir), Path(sys.base_prefix, "lib")]
    places = [place for base in bases for place in (base, base / multiarch)]
    return libpython_name((sys.version_info[0], sys.version_info[1])), places


def find_libpython(name: str, places: "list[Path]") -> str:
    """First of the places that holds the library, as a path; "" when none does."""
    return next((str(place / name) for place in places if (place / name).is_file()), "")


def _read_libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # not glibc, or not a POSIX system
        return ""


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
