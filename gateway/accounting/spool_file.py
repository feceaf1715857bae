"""One writer's waiting entries in a file of JSON lines. Every call may wait for the disk: it belongs into a thread."""

import fcntl
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.accounting.entries import Numbered

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"
_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DECODER = msgspec.json.Decoder(Numbered)


class SpoolFile:
    """Named for its writer, and locked while it is open. Entries are read from its front in the order of their numbers.

    A line that makes no sense (the writer was killed in the middle of it, the disk failed) is passed over and counted
    as `spoilt`.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.writer = path.name.partition(".")[0]
        self._spoilt: set[int] = set()
        self._descriptor = descriptor
        self._read = 0

    @classmethod
    def create(cls, directory: Path, writer: str, number: int) -> "SpoolFile":
        """A writer's files are read in the order of their names. Locked before others could find it. Raises OSError."""
        path = directory / f"{writer}.{number:06d}{SUFFIX}"
        hidden = path.with_name(f".{path.name}.new")
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, _PRIVATE_FILE)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(path)
        return cls(path, descriptor)

    @property
    def spoilt(self) -> int:
        return len(self._spoilt)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def append(self, lines: Sequence[bytes]) -> None:
        """All of them or none. Raises OSError."""
        before = self.size
        data = memoryview(b"".join(lines))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def count(self) -> int:
        """Entries that have not been passed."""
        return sum(1 for _ in self._lines())

    def head(self, most: int) -> tuple[list[Numbered], int]:
        """The next entries, and the offset behind them, for `skip_to`."""
        found: list[Numbered] = []
        end = self._read
        for line in self._lines():
            end += len(line)
            try:
                found.append(_DECODER.decode(line))
            except msgspec.DecodeError:
                if end not in self._spoilt:
                    log.warning("a line of %s makes no sense and is passed over", self.path)
                self._spoilt.add(end)
            if len(found) == most:
                break
        return found, end

    def skip_to(self, offset: int) -> None:
        self._read = offset

    def close(self, *, remove: bool) -> None:
        if remove:
            with suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._descriptor)

    def _lines(self) -> Iterator[bytes]:
        """Whole ones only. The file's own position is the writer's."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):
                    yield line


def private_directory(path: Path) -> None:
    """Make it. Raises OSError: also when others can write to it, for whatever lies there gets into the ledger."""
    path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
        raise PermissionError(f"the spool directory {path} must belong to this user, and others must not write to it")


def left_over(directory: Path) -> list[SpoolFile]:
    """Files of writers that are dead, locked for this process."""
    return list(_claimed(sorted(directory.glob(f"*{SUFFIX}"))))


def _claimed(paths: Iterable[Path]) -> Iterator[SpoolFile]:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # its writer lives, or another gateway was first
            os.close(descriptor)
            continue
        if os.fstat(descriptor).st_nlink:
            yield SpoolFile(path, descriptor)
        else:
            os.close(descriptor)
