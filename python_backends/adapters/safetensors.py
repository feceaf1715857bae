"""The header of a safetensors file: names, shapes and types, without loading a tensor."""

from pathlib import Path
from typing import Final

import msgspec

from python_backends.adapters.directory import AdapterError

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
_LENGTH_BYTES: Final = 8


class Tensor(msgspec.Struct, frozen=True):
    """`data_offsets`: begin and end, in bytes behind the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TENSOR = msgspec.json.Decoder(Tensor)


def read_header(file: Path) -> dict[str, Tensor]:
    """By name. Raises AdapterError for a file that is cut off or is something else, OSError."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise AdapterError(f"{file.name} is not a safetensors file, or is cut off")
        header = opened.read(length)
    try:
        members = _HEADER.decode(header)
        tensors = {name: _TENSOR.decode(raw) for name, raw in members.items() if name != "__metadata__"}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{file.name}: its header makes no sense: {error}") from error
    end = max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if end != size - _LENGTH_BYTES - length:
        raise AdapterError(f"{file.name} has {size} bytes and its header speaks of {_LENGTH_BYTES + length + end}")
    return tensors
