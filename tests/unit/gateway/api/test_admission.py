"""What administrators see of admission, and what clients are told by it."""

import asyncio
from typing import Any

import msgspec

from gateway.admission.state import AdmissionState
from gateway.api.keys import GATE
from gateway.auth.store import KeyStore
from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway
from tests.unit.gateway.waiting import until

ADMISSION = "/admin/v1/admission"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def state_of(gateway: Gateway) -> AdmissionState:
    async with gateway.client.get(ADMISSION) as response:
        assert response.status == 200
        return msgspec.json.decode(await response.read(), type=AdmissionState)


async def test_the_state_names_who_runs_and_who_waits(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1") as gateway:
        asking = [asyncio.create_task(gateway.ask(CHAT, BODY))]
        await triton.hanging.wait()
        asking.append(asyncio.create_task(gateway.ask(CHAT, BODY, x_priority="batch")))
        await until(lambda: gateway.app[GATE].queued == 1)
        state = await state_of(gateway)
        assert (state.running, state.saturation) == (1, 1.0)
        assert {name: one.queued for name, one in state.classes.items()} == {
            "interactive": 0, "standard": 0, "batch": 1,
        }  # fmt: skip
        assert {(one.tenant, one.priority_class, one.queued, one.running) for one in state.tenants} == {
            ("acme", "standard", 0, 1),
            ("acme", "batch", 1, 0),
        }
        gateway.app[GATE].close()
        assert (await state_of(gateway)).classes["batch"].refused == {"shutting_down": 1}
        for task in asking:
            task.cancel()


async def test_the_state_is_for_administrators(gateway: Gateway, store: KeyStore) -> None:
    _, secret = await store.create(tenant="acme", name="user", scopes=frozenset({"inference"}))
    async with gateway.client.get(ADMISSION, headers={"authorization": f"Bearer {secret}"}) as response:
        assert response.status == 403


async def test_what_an_answer_used_is_charged_to_its_tenant(gateway: Gateway) -> None:
    status, answer = await gateway.ask(CHAT, BODY)
    assert status == 200
    usage = answer["usage"]
    computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    (acme,) = (await state_of(gateway)).tenants
    assert acme.served == computed + 2 * usage["completion_tokens"]


async def test_a_gateway_counts_what_another_one_served(start: StartGateway) -> None:
    fast = {"TRIREME_SHARING_INTERVAL_S": "0.01"}
    async with start(**fast) as here, start(**fast) as there, asyncio.timeout(10):
        while not counter(there):
            await here.ask(CHAT, BODY)
        await until(lambda: 0 < counter(there) <= counter(here))


def counter(gateway: Gateway) -> float:
    account = gateway.app[GATE].scheduler.lines["standard"].counters.find("acme")
    return account.counter if account else 0.0


async def test_an_answer_that_waited_tells_its_place(start: StartGateway, triton: FakeTriton) -> None:
    triton.script = Script(hang_at=0)
    async with start(TRIREME_MAX_RUNNING="1") as gateway:
        first = asyncio.create_task(gateway.ask(CHAT, BODY))
        await triton.hanging.wait()
        second = asyncio.create_task(gateway.client.post(CHAT, json=BODY))
        await until(lambda: gateway.app[GATE].queued == 1)
        triton.script = Script()
        first.cancel()
        async with await second as response:
            assert 'admission;desc="place 1";dur=' in response.headers["server-timing"]
