"""Our LoRA kernels on CPUs: what vLLM calls them with, and each row gets its own adapter's matrices or none."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.cpu_worker import CPUWorker

from python_backends.llm.vllm_engine import CPU_WORKER, LORA_CPU_WORKER
from python_backends.llm.vllm_lora import GroupedPunica, LoraCPUWorker, groups_of

SLOTS, RANK, INPUTS, WIDTHS = 3, 4, 6, (5, 2)
IDS = [11, None, 13]  # in which slots adapters are; the last slot is one of them


def wrapper(adapters: list[int]) -> Any:
    """For a step whose rows want these adapters; 0: none."""
    made = GroupedPunica(64, 64, "cpu")
    mapping = SimpleNamespace(index_mapping=tuple(adapters), prompt_mapping=tuple(adapters), is_prefill=False)
    made.update_metadata(mapping, IDS, SLOTS, 100)
    return made


def stacked(outputs: int, inputs: int, seed: int) -> torch.Tensor:
    return torch.randn(SLOTS, 1, outputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("adapters", [[0, 11, 13, 0, 11], [0, 0], [13, 13, 13], [11]])
def test_each_row_gets_its_own_adapter_and_rows_without_one_nothing(adapters: list[int]) -> None:
    x, y = torch.randn(len(adapters), INPUTS), torch.randn(len(adapters), sum(WIDTHS))
    first = tuple(stacked(RANK, INPUTS, number) for number in range(2))
    second = tuple(stacked(width, RANK, 10 + width) for width in WIDTHS)
    expected = y.clone()
    for row, adapter in enumerate(adapters):
        if adapter:
            slot, left = IDS.index(adapter), 0
            for a, b, width in zip(first, second, WIDTHS, strict=True):
                expected[row, left : left + width] += b[slot, 0] @ (a[slot, 0] @ x[row])
                left += width
    wrapper(adapters).add_lora_linear(y, x, first, second, 1.0, WIDTHS)
    torch.testing.assert_close(y, expected)


def test_embeddings_and_logits_are_left_alone_for_rows_without_an_adapter() -> None:
    made, x = wrapper([0, 13]), torch.randn(2, RANK)
    second = stacked(INPUTS, RANK, 1)
    for add in (
        lambda y: made.add_lora_embedding(y, x, second, add_input=True),
        lambda y: made.add_lora_logits(y, torch.randn(2, INPUTS), stacked(RANK, INPUTS, 2), second, 1.0),
    ):
        y = torch.zeros(2, INPUTS)
        add(y)
        assert not y[0].any()
        assert y[1].any()


def test_rows_are_grouped_by_their_slots() -> None:
    assert groups_of(torch.tensor([-1, -1])) == []
    assert groups_of(torch.tensor([2, 2])) == [(2, slice(0, 2))]
    (first, rows), (second, others) = groups_of(torch.tensor([1, -1, 0, 1]))
    assert (first, rows.tolist(), second, others.tolist()) == (0, [2], 1, [0, 3])


def test_the_seams_are_where_we_put_them() -> None:
    assert f"{CPUWorker.__module__}.{CPUWorker.__name__}" == CPU_WORKER
    assert f"{LoraCPUWorker.__module__}.{LoraCPUWorker.__name__}" == LORA_CPU_WORKER
    assert "PunicaWrapperCPU" in CpuPlatform.get_punica_wrapper()
    for name in ("add_lora_linear", "add_lora_embedding", "add_lora_logits"):
        theirs = inspect.signature(getattr(PunicaWrapperBase, name)).parameters
        ours = inspect.signature(getattr(GroupedPunica, name)).parameters
        assert set(ours) - {"kwargs"} <= set(theirs)
