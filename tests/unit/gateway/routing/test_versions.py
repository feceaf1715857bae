"""Which version of a model answers, and that nobody gets another one than was asked for."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from gateway.core.call import Call
from gateway.core.snapshot import Arm, BackendSpec, ModelRoute, RoutingSnapshot
from gateway.errors import BackendUnavailable
from gateway.routing.versions import common_version, in_order, serves, version_at
from tests.unit.gateway.routing.fakes import Pool, new_call, where

OLD, NEW = Arm(name="stable", weight=1), Arm(name="v2", triton_model="chat_2", version="2", weight=0)
BOTH = {"chat": ["1"], "chat_2": ["2"], "vllm": ["1", "2"]}
ONLY_OLD = {"chat": ["1"], "vllm": ["1"]}


def asking(version: str | None, **fields: Any) -> Call:
    call = new_call(**fields)
    call.asked_version = version
    return call


async def pool_of(served: dict[str, dict[str, list[str]]], *arms: Arm) -> Pool:
    pool = Pool(*served, arms=arms or (OLD, NEW))
    pool.probe.versions.update(served)
    await pool.start()
    return pool


@pytest.mark.parametrize(
    ("served", "arm", "able", "version"),
    [
        ({}, OLD, True, None),
        ({}, NEW, True, "2"),
        (BOTH, OLD, True, "1"),
        (BOTH, NEW, True, "2"),
        (ONLY_OLD, NEW, False, "2"),
        ({"chat": ["9", "10"]}, OLD, True, "10"),
        ({"embed": ["1"]}, OLD, False, None),
    ],
)
def test_what_a_backend_answers_with(served: dict[str, list[str]], arm: Arm, able: bool, version: str | None) -> None:
    assert serves(served, arm) is able
    assert version_at(served, arm) == version


def test_backends_that_differ_have_no_common_version() -> None:
    assert common_version([{"chat": ["1"]}, {"chat": ["1"]}], OLD) == "1"
    assert common_version([{"chat": ["1"]}, {"chat": ["2"]}], OLD) is None
    assert common_version([{"chat": ["1"]}, {}], OLD) is None
    assert common_version([{}], NEW) == "2"
    assert in_order(["10", "9", "10"]) == ["9", "10"]


async def test_arms_with_the_same_version_are_told_apart() -> None:
    """What one of them answered is no answer of the other one's."""
    candidate = Arm(name="candidate", group="new", weight=0)
    old = BackendSpec(id="a", url="http://a")
    pool = Pool(old, BackendSpec(id="b", url="http://b", group="new"), arms=(OLD, candidate))
    pool.probe.versions.update({"a": ONLY_OLD, "b": ONLY_OLD})
    await pool.start()
    first = pool.router.serving(new_call())
    pool.router.apply(
        RoutingSnapshot(
            backends=pool.router.snapshot.backends,
            models=(
                ModelRoute(name="tiny", arms=(structs.replace(OLD, weight=0), structs.replace(candidate, weight=1))),
            ),
        )
    )
    second = pool.router.serving(new_call())
    assert first is not None
    assert second is not None
    assert (first.arm, second.arm) == ("stable", "candidate")
    assert first.identity.partition("/")[0] == second.identity.partition("/")[0] == "1"
    assert first.identity != second.identity


async def test_what_would_answer_is_unknown_while_backends_differ() -> None:
    pool = await pool_of({"a": {"chat": ["1"]}, "b": {"chat": ["2"]}}, OLD)
    assert pool.router.serving(new_call()) is None


async def test_the_version_is_known_before_the_engine_runs() -> None:
    pool = await pool_of({"a": BOTH, "b": BOTH})
    assert pool.router.version_of(new_call()) == "1"
    assert pool.router.version_of(asking("2")) == "2"
    assert pool.router.versions_of("tiny") == ["1", "2"]


async def test_it_follows_the_arm_that_the_call_gets() -> None:
    pool = await pool_of({"a": BOTH}, replaced(OLD, 50), replaced(NEW, 50))
    seen = set()
    for number in range(40):
        call = new_call(session=f"s{number}")
        before = pool.router.version_of(call)
        async with pool.router.lease(call) as backend:
            assert backend.engine_version == before
        seen.add(before)
    assert seen == {"1", "2"}


async def test_it_is_unknown_while_backends_differ_or_keep_it_secret() -> None:
    mixed = await pool_of({"a": {"chat": ["1"]}, "b": {"chat": ["2"]}}, OLD)
    assert mixed.router.version_of(new_call()) is None
    assert mixed.router.versions_of("tiny") == ["1", "2"]
    secret = await pool_of({"a": {}}, OLD)
    assert secret.router.version_of(new_call()) is None
    nobody = Pool("a", arms=(OLD,))
    assert nobody.router.version_of(new_call()) is None


async def test_a_version_that_was_asked_for_answers_without_weight_and_nothing_stands_in() -> None:
    pool = await pool_of({"a": BOTH})
    async with pool.router.lease(asking("2")) as backend:
        assert backend.path("generate_stream") == "/v2/models/chat_2/versions/2/generate_stream"
        assert backend.control_path == "/v2/models/vllm/versions/2/generate"
        assert pool.router.running("tiny", "2") == 1
    assert pool.router.running("tiny", "2") == 0
    for number in range(20):
        async with pool.router.lease(new_call(session=f"s{number}")) as backend:
            assert (backend.triton_model, backend.engine_version) == ("chat", "1")
    with pytest.raises(BackendUnavailable):
        await where(pool.router, asking("3"))


async def test_control_requests_go_to_the_engine_that_has_the_request() -> None:
    pool = await pool_of({"a": {}}, OLD)
    async with pool.router.lease(new_call()) as backend:
        assert backend.control_path == "/v2/models/vllm/generate"
    assert replace(backend, engine_version="7").control_path == "/v2/models/vllm/versions/7/generate"


async def test_of_many_backends_one_that_has_the_version_is_chosen() -> None:
    pool = await pool_of({"a": ONLY_OLD, "b": BOTH, "c": ONLY_OLD})
    assert {await where(pool.router, asking("2")) for _ in range(6)} == {"b"}
    assert {await where(pool.router) for _ in range(6)} == {"a", "b", "c"}


async def test_a_version_that_nobody_has_is_tried_all_the_same_so_that_its_failures_count() -> None:
    pool = await pool_of({"a": ONLY_OLD}, replaced(OLD, 0), replaced(NEW, 1))
    assert await where(pool.router) == "a"
    assert pool.router.versions_of("tiny") == ["1"]


async def test_a_version_is_looked_for_in_the_arms_group_only() -> None:
    other = BackendSpec(id="b", url="http://b", group="other")
    pool = Pool("a", other, arms=(OLD,))
    pool.probe.versions.update({"a": {"chat": ["1"]}, "b": {"chat": ["5"]}})
    await pool.start()
    assert pool.router.versions_of("tiny") == ["1"]
    assert pool.router.versions_of("unknown") == []


def replaced(arm: Arm, weight: int) -> Arm:
    return Arm(name=arm.name, triton_model=arm.triton_model, version=arm.version, weight=weight)


async def test_orders_for_a_backend_go_to_the_engine_of_its_default_version() -> None:
    pool = await pool_of({"a": BOTH, "b": {}})
    paths = {member.spec.id: member.backend.control_path for member in pool.router}
    assert paths == {"a": "/v2/models/vllm/versions/1/generate", "b": "/v2/models/vllm/generate"}
