"""Where adapters may lie: in directories below one root, named by a path that cannot lead out of it."""

import re
from hashlib import sha256
from pathlib import Path
from typing import Final

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_PATH: Final = 200
# Loading one of these runs code that somebody else wrote.
PICKLES: Final = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BLOCK: Final = 1 << 20


class AdapterError(ValueError):
    """The adapter cannot be used; the message is for whoever registers it or asks for it."""


def check_path(path: str) -> None:
    """Raises AdapterError unless `path` is made of plain names: relative, without `..`, nothing hidden."""
    parts = path.split("/")
    if len(path) > MAX_PATH or not all(_PART.fullmatch(part) for part in parts):
        raise AdapterError(
            f"{path[:MAX_PATH]!r} is no path of an adapter: up to {MAX_PATH} of A-Z a-z 0-9 . _ - /, relative to the "
            "adapters' root, and no part may begin with a dot"
        )


def relative_path(root: Path, given: str) -> str:
    """`given` relative to the root: a path below it, absolute or not, or a `file:` URI. Raises AdapterError."""
    scheme, _, rest = given.partition(":")
    if rest and scheme == "file":
        given = rest.removeprefix("//localhost").removeprefix("//")
    elif rest.startswith("//"):
        raise AdapterError(f"{scheme}: is not read from: put the adapter's files below {root} and name that directory")
    if given.startswith("/"):
        for base in (root, root.resolve()):
            if Path(given).is_relative_to(base):
                given = Path(given).relative_to(base).as_posix()
                break
        else:
            raise AdapterError(f"{given!r} is not below {root}, the root of all adapters")
    check_path(given)
    return given


def locate(root: Path, path: str) -> Path:
    """The adapter's directory, links resolved. Raises AdapterError: it is not there, or not below the root."""
    check_path(path)
    return _inside(root, root / path)


def _inside(root: Path, place: Path) -> Path:
    try:
        found, top = place.resolve(strict=True), root.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise AdapterError(f"there is no {place.relative_to(root)} below the adapters' root") from error
    if not found.is_relative_to(top):
        raise AdapterError(f"{place.relative_to(root)} leads out of the adapters' root")
    return found


def files_of(root: Path, path: str) -> tuple[Path, Path]:
    """Its configuration and its weights. Raises AdapterError: missing, elsewhere, or beside a pickle."""
    directory = locate(root, path)
    if not directory.is_dir():
        raise AdapterError(f"{path} is not a directory")
    if pickles := sorted(one.name for one in directory.iterdir() if one.suffix in PICKLES):
        raise AdapterError(f"{path} holds {pickles[0]}: pickles are not loaded, keep only safetensors")
    place = root / path
    for name in (CONFIG, WEIGHTS):
        if not (place / name).is_file():
            raise AdapterError(f"{path} holds no {name}")
    return _inside(root, place / CONFIG), _inside(root, place / WEIGHTS)


def checksum_of(config: Path, weights: Path) -> str:
    """SHA-256 of the digests of both files. Reads them whole. Raises OSError."""
    return "sha256:" + sha256(b"".join(_digest(file) for file in (config, weights))).hexdigest()


def _digest(file: Path) -> bytes:
    digest = sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.digest()
