"""LoRA on CPUs: each adapter's matrices are applied to its own rows, and rows without an adapter are left alone.

vLLM's own CPU kernels copy an adapter's matrices once for each row, and take the last slot's for rows that have none:
base requests then answer with somebody's adapter as soon as all slots are in use. This worker puts other kernels in
their place, through the two seams that vLLM has for it: `worker_cls`, and the platform's name of a punica wrapper.
"""

from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

Rows: TypeAlias = torch.Tensor | slice


class LoraCPUWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's worker with the kernels of this module."""

    def init_device(self) -> None:
        super().init_device()
        current_platform.get_punica_wrapper = lambda: f"{__name__}.{GroupedPunica.__name__}"


class GroupedPunica(PunicaWrapperCPU):  # type: ignore[misc]
    """One pair of matrix products for each adapter in a step, over all its rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens: list[tuple[int, Rows]] = []
        self._samples: list[tuple[int, Rows]] = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._tokens = groups_of(self.token_lora_indices)
        self._samples = groups_of(self.sampler_indices)

    def add_lora_linear(  # noqa: PLR0917 - vLLM's own signature
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._tokens:
            part, left = x[rows], 0
            for first, second, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                y[rows, left : left + width] += product(part, first[slot], second[slot], scale)[:, :width]
                left += width

    def add_lora_embedding(self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, **kwargs: Any) -> None:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._tokens:
            y[rows] += (x[rows] @ _matrix(lora_b_stacked[slot]).T.to(x.dtype)).to(y.dtype)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._samples:
            delta = product(x[rows], lora_a_stacked[slot], lora_b_stacked[slot], scale)
            width = min(delta.shape[1], y.shape[1])
            y[rows, :width] += delta[:, :width]


def groups_of(indices: torch.Tensor) -> list[tuple[int, Rows]]:
    """Slot → its rows; a slice where those are all. Rows of no slot (-1) are in no group."""
    slots = indices.unique().tolist()
    if len(slots) == 1 and slots[0] >= 0:
        return [(slots[0], slice(0, len(indices)))]
    return [(slot, (indices == slot).nonzero().flatten()) for slot in slots if slot >= 0]


def product(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, scale: float) -> torch.Tensor:
    """x · Aᵀ · Bᵀ, scaled."""
    result = (x @ _matrix(first).T) @ _matrix(second).T
    return result if scale == 1 else result * scale


def _matrix(stacked: torch.Tensor) -> torch.Tensor:
    """Of one slot, without vLLM's dimension of length one."""
    return stacked.squeeze(0) if stacked.dim() == 3 else stacked  # noqa: PLR2004 - one matrix in a row of one
