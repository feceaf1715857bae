"""Does an adapter fit the model? Told by its configuration and the header of its weights: no tensor is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from python_backends.adapters.directory import CONFIG, AdapterError, checksum_of, files_of
from python_backends.adapters.safetensors import Tensor, read_header

MAX_CONFIG_BYTES: Final = 1024 * 1024
_FLOATS: Final = frozenset({"F16", "BF16", "F32"})
_PREFIX: Final = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Modules that read the hidden state, and those that write it, by the last part of their names.
_READ_HIDDEN: Final = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
_WRITE_HIDDEN: Final = frozenset({"o_proj", "down_proj"})


class _Config(msgspec.Struct):
    """What matters here of PEFT's LoraConfig."""

    peft_type: str
    r: int
    rank_pattern: dict[str, int] | None = None
    bias: str = "none"
    use_dora: bool = False
    lora_bias: bool = False
    modules_to_save: list[str] | None = None
    layer_replication: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """`max_bytes`: of the weights' file."""

    max_rank: int = 64
    max_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter that fits. `bytes`: size of its weights."""

    checksum: str
    rank: int
    bytes: int


class Base:
    """What adapters must fit. `shapes`: outputs and inputs of each linear module by name. None where nobody knows."""

    def __init__(self, hidden_size: int | None, shapes: Mapping[str, tuple[int, int]] | None) -> None:
        self._hidden_size = hidden_size
        self._shapes = shapes

    @classmethod
    def from_dir(cls, model_dir: Path) -> "Base":
        """By its weights' headers if they are there, else by its hidden size. Raises OSError, ValueError."""
        config = msgspec.json.decode((model_dir / "config.json").read_bytes())
        shapes: dict[str, tuple[int, int]] = {}
        for file in sorted(model_dir.glob("*.safetensors")):
            for name, tensor in read_header(file).items():
                if name.endswith(".weight") and len(tensor.shape) == 2:  # noqa: PLR2004 - a matrix
                    shapes[name.removesuffix(".weight")] = (tensor.shape[0], tensor.shape[1])
        return cls(config.get("hidden_size"), shapes or None)

    def problem(self, module: str, outputs: int, inputs: int) -> str:
        """What does not fit, or ""."""
        if self._shapes is not None:
            expected = self._shapes.get(module)
            if expected is None:
                return f"the base model has no module {module}"
            return "" if expected == (outputs, inputs) else f"{module} is {outputs}×{inputs}, and {_x(expected)} there"
        leaf = module.rpartition(".")[2]
        hidden = inputs if leaf in _READ_HIDDEN else outputs if leaf in _WRITE_HIDDEN else self._hidden_size
        return "" if self._hidden_size in (None, hidden) else f"{module} is made for a hidden size of {hidden}"


def _x(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"


def inspect(root: Path, path: str, base: Base, bounds: Bounds) -> Found:
    """Reads all of it once, for the checksum. Raises AdapterError with what is wrong, in words for an operator."""
    config_file, weights = files_of(root, path)
    try:
        size = weights.stat().st_size
        if size > bounds.max_bytes:
            raise AdapterError(f"its weights have {size} bytes; at most {bounds.max_bytes} are allowed")
        rank = _check_config(config_file, bounds)
        _check_tensors(read_header(weights), rank, base)
        return Found(checksum_of(config_file, weights), rank, size)
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error


def _check_config(file: Path, bounds: Bounds) -> int:
    """The highest rank."""
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{CONFIG} has more than {MAX_CONFIG_BYTES} bytes")
    try:
        config = msgspec.json.decode(file.read_bytes(), type=_Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{CONFIG} makes no sense: {error}") from error
    if config.peft_type != "LORA":
        raise AdapterError(f"{CONFIG}: peft_type is {config.peft_type!r}; only LORA is served")
    unsupported = {
        "bias": config.bias != "none",
        "use_dora": config.use_dora,
        "lora_bias": config.lora_bias,
        "modules_to_save": bool(config.modules_to_save),
        "layer_replication": bool(config.layer_replication),
    }
    if used := [name for name, is_used in unsupported.items() if is_used]:
        raise AdapterError(f"{CONFIG}: {', '.join(used)} cannot be served: train the adapter without")
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    if min(ranks) < 1 or max(ranks) > bounds.max_rank:
        raise AdapterError(f"{CONFIG}: its rank is {max(ranks)}; from 1 to {bounds.max_rank} can be served")
    return max(ranks)


def _check_tensors(tensors: Mapping[str, Tensor], rank: int, base: Base) -> None:
    if not tensors:
        raise AdapterError("its weights are empty")
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS or len(tensor.shape) != 2:  # noqa: PLR2004 - a matrix
            raise AdapterError(f"{name} is {tensor.dtype} of shape {tensor.shape}: only matrices of floats are served")
        if not name.endswith((_A, _B)):
            raise AdapterError(f"{name} is none of a LoRA's matrices (…{_A}, …{_B})")
    modules = {name.removesuffix(_A).removesuffix(_B) for name in tensors}
    for module in sorted(modules):
        first, second = tensors.get(module + _A), tensors.get(module + _B)
        if first is None or second is None:
            raise AdapterError(f"{module} has only one of its two matrices")
        if first.shape[0] != second.shape[1] or first.shape[0] > rank:
            raise AdapterError(f"{module}: its matrices have ranks {first.shape[0]} and {second.shape[1]}, not {rank}")
        if problem := base.problem(module.removeprefix(_PREFIX), second.shape[0], first.shape[1]):
            raise AdapterError(f"it does not fit the base model: {problem}")
