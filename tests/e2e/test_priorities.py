"""An urgent request through the whole chain, while batch work holds every slot of the real engine."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import MAX_NUM_SEQS
from tests.support.gateway import GatewayClient, wait_until
from tests.support.triton import DirectTriton
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
FLOOD = MAX_NUM_SEQS + 2


def test_an_interactive_request_does_not_wait_for_batch_work_to_end(stack: EmbeddedStack, direct: DirectTriton) -> None:
    gateway = GatewayClient(stack)
    before = direct.control(control="stats")["preemptions"]
    batch = [
        gateway.ask(stream=True, max_tokens=2000, ignore_eos=True, priority="batch", temperature=0)
        for _ in range(FLOOD)
    ]
    try:
        wait_until(lambda: direct.control(control="stats")["running"] == MAX_NUM_SEQS, "batch work fills the engine")
        answer = gateway.chat(max_tokens=1, headers={"x-priority": "interactive"})
        assert answer.status_code == 200
        state = direct.control(control="stats")
        assert state["preemptions"] > before
        assert state["running"] + state["waiting"] == FLOOD
    finally:
        for one in batch:
            one.leave()
    wait_until(lambda: direct.control(control="stats")["running"] == 0, "the engine is free again")


def test_a_request_of_the_same_class_waits_its_turn(stack: EmbeddedStack, direct: DirectTriton) -> None:
    gateway = GatewayClient(stack)
    before = direct.control(control="stats")["preemptions"]
    first, *others = [
        gateway.ask(stream=True, max_tokens=2000, ignore_eos=True, priority="batch", temperature=0)
        for _ in range(MAX_NUM_SEQS)
    ]
    try:
        wait_until(lambda: direct.control(control="stats")["running"] == MAX_NUM_SEQS, "batch work fills the engine")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(gateway.chat, {"x-priority": "batch"}, max_tokens=1)
            wait_until(lambda: direct.control(control="stats")["waiting"] == 1, "it waits in the engine")
            state = direct.control(control="stats")
            first.leave()
            assert answer.result().status_code == 200
        assert (state["running"], state["preemptions"]) == (MAX_NUM_SEQS, before)
        assert direct.control(control="stats")["preemptions"] == before
    finally:
        for one in (first, *others):
            one.leave()
    wait_until(lambda: direct.control(control="stats")["running"] == 0, "the engine is free again")
