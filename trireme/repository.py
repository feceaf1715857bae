"""The model repository that Triton loads: the shipped one's files, and the versions that operators added.

`vllm/N` and `preprocess/N` are version N of engine and preprocessing, `chat_N/N` is the ensemble of just that version,
and `chat/D` the one that clients get who name none. Triton loads a version anew when any file of it is newer than at
its last look, and streams on it are lost then; so nothing is ever written into a version that may be loaded.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trireme.errors import TriremeError

ENGINE, PREPROCESSING, DEFAULT = "vllm", "preprocess", "chat"
VERSIONED = (ENGINE, PREPROCESSING)
SHIPPED = "1"
# In place of the directory in which Python would keep what it compiled: a newer file makes Triton load a version anew.
NO_BYTECODE = "__pycache__"
_PIN = re.compile(rf"\bmodel_version: {SHIPPED}\b")
_UNPROVEN = ".unproven-"


class Repository:
    """Versions are decimal numbers. Raises TriremeError; OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def versions(self) -> list[str]:
        """The oldest first."""
        return sorted(_numbers(self.path / ENGINE), key=int)

    @property
    def default(self) -> str:
        """What clients of Triton get who name none."""
        found = _numbers(self.path / DEFAULT)
        if len(found) != 1:
            raise TriremeError(f"{self.path / DEFAULT} must hold one version; it holds {len(found)}.")
        return found[0]

    def ensemble(self, version: str) -> str:
        """The Triton model of just this version."""
        name = f"{DEFAULT}_{version}"
        return name if (self.path / name).is_dir() else DEFAULT

    def overrides(self, version: str) -> dict[str, Any]:
        """Engine arguments that differ from everybody's."""
        found: dict[str, Any] = self._declared(version).get("overrides", {})
        return found

    def add(self, version: str, overrides: Mapping[str, Any]) -> str:
        """The Triton model to load. Until `prove`, the next start of the stack takes the version away again."""
        if version in self.versions:
            raise TriremeError(f"Version {version} is in {self.path} already: unload it first, or take another number.")
        base = self.default
        (self.path / f"{_UNPROVEN}{version}").touch()
        declared = {**self._declared(base), "overrides": dict(overrides)}
        for model in VERSIONED:
            with self._staged(self.path / model / version) as staged:
                shutil.copyfile(self.path / model / base / "model.py", staged / "model.py")
                if model == ENGINE:
                    (staged / "engine.json").write_text(json.dumps(declared, indent=2) + "\n")
                (staged / NO_BYTECODE).touch()
        with self._staged(self.path / f"{DEFAULT}_{version}") as staged:
            (staged / version).mkdir()
            (staged / "config.pbtxt").write_text(self._pinned(base, version))
        return f"{DEFAULT}_{version}"

    def prove(self, version: str) -> None:
        """It works: it stays."""
        (self.path / f"{_UNPROVEN}{version}").unlink(missing_ok=True)

    def remove(self, version: str) -> None:
        """Not the default one. Triton is told by loading the models anew."""
        for directory in (self.path / f"{DEFAULT}_{version}", *(self.path / one / version for one in VERSIONED)):
            shutil.rmtree(directory, ignore_errors=True)
        self.prove(version)

    def make_default(self, version: str) -> None:
        """`chat` is the ensemble of this version from its next load on."""
        old = self.default
        if old == version:
            return
        config = self.path / DEFAULT / "config.pbtxt"
        text = self._pinned(old, version)
        (self.path / DEFAULT / old).rename(self.path / DEFAULT / version)
        partial = config.with_name(".config")
        partial.write_text(text)
        partial.replace(config)

    def unproven(self) -> list[str]:
        """Versions whose loading was never finished."""
        return [path.name.removeprefix(_UNPROVEN) for path in self.path.glob(f"{_UNPROVEN}*")]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One change at a time, across processes; the kernel gives the lock back when one dies."""
        with self.path.with_name(f"{self.path.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TriremeError(f"Somebody else is changing the versions in {self.path}: try again later.") from None
            yield

    def _declared(self, version: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / ENGINE / version / "engine.json").read_text("utf-8"))
        return found

    def _pinned(self, old: str, new: str) -> str:
        """The ensemble's configuration for another version."""
        text = (self.path / DEFAULT / "config.pbtxt").read_text("utf-8")
        return re.sub(rf"\bmodel_version: {old}\b", f"model_version: {new}", text)

    @contextmanager
    def _staged(self, target: Path) -> Iterator[Path]:
        """A directory that takes its place in one step, on the same file system and out of Triton's sight."""
        with tempfile.TemporaryDirectory(prefix=f".{self.path.name}-", dir=self.path.parent) as scratch:
            staged = Path(scratch) / target.name
            staged.mkdir()
            yield staged
            staged.rename(target)


def assemble_repository(shipped: Path, target: Path) -> Repository:
    """`target` brought up to date with what is shipped, its versions kept. Only while no Triton runs from it.

    Added versions get the shipped code too; those whose loading was never finished are taken away.
    """
    target.mkdir(parents=True, exist_ok=True)
    repository = Repository(target)
    for version in repository.unproven():
        repository.remove(version)
    versions = repository.versions or [SHIPPED]
    default = next((one for one in _numbers(target / DEFAULT) if one in versions), versions[0])
    models = {path.name: path for path in shipped.iterdir() if (path / "config.pbtxt").is_file()}
    ensembles = {name: version for version in versions if (target / (name := f"{DEFAULT}_{version}")).is_dir()}
    for path in target.iterdir():
        if path.is_dir() and path.name not in {*models, *ensembles}:
            shutil.rmtree(path)
    for name, source in models.items():
        if name in VERSIONED:
            _copy_versioned(source, target / name, versions)
        elif name == DEFAULT:
            for place, version in {DEFAULT: default, **ensembles}.items():
                _make_ensemble(source, target / place, version)
        else:
            _copy(source, target / name)
    return repository


def _copy_versioned(source: Path, target: Path, versions: list[str]) -> None:
    """Each version keeps the arguments of its own."""
    shipped = source / SHIPPED
    for version in versions:
        engine = target / version / "engine.json"
        own = json.loads(engine.read_text("utf-8")).get("overrides") if engine.is_file() else None
        _copy(shipped, target / version)
        if own:
            declared = json.loads((shipped / "engine.json").read_text("utf-8"))
            engine.write_text(json.dumps({**declared, "overrides": own}, indent=2) + "\n")
    shutil.copyfile(source / "config.pbtxt", target / "config.pbtxt")


def _make_ensemble(source: Path, target: Path, version: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    (target / version).mkdir(parents=True)
    (target / "config.pbtxt").write_text(_PIN.sub(f"model_version: {version}", (source / "config.pbtxt").read_text()))


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(NO_BYTECODE))
    for code in [*target.rglob("model.py")]:
        (code.parent / NO_BYTECODE).touch()


def _numbers(directory: Path) -> list[str]:
    """Names of version directories."""
    return [path.name for path in directory.glob("*") if path.is_dir() and path.name.isdecimal()]
