"""The routing document: what is refused, and that it survives the way to Valkey and back."""

import pytest

from gateway.core.snapshot import Arm, BackendSpec, ModelRoute, RoutingSnapshot, decode_snapshot, encode_snapshot

A = BackendSpec(id="a", url="http://a:8000")
ROUTE = ModelRoute(name="tiny", arms=(Arm(name="stable"),))


def test_a_good_document_has_no_problems_and_comes_back_as_it_was() -> None:
    canary = Arm(name="canary", group="new", triton_model="chat", version="2", weight=5)
    snapshot = RoutingSnapshot(
        version=3,
        backends=(A, BackendSpec(id="b", url="https://b", group="new", models=("tiny",), slots=4, capacity_tokens=9)),
        models=(ModelRoute(name="tiny", arms=(Arm(name="stable", weight=95), canary), aliases=("small",)),),
        drained=("a",),
    )
    assert snapshot.validate() == []
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot
    assert snapshot.aliases() == {"small": "tiny"}


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        (BackendSpec(id="", url="http://a"), "must be up to 63"),
        (BackendSpec(id="a b", url="http://a"), "must be up to 63"),
        (BackendSpec(id="x" * 64, url="http://a"), "must be up to 63"),
        (BackendSpec(id="a", url="a:8000"), "is not http://host:port"),
        (BackendSpec(id="a", url="http://"), "is not http://host:port"),
        (BackendSpec(id="a", url="http://a:99999"), "cannot be read"),
        (BackendSpec(id="a", url="http://a:x"), "cannot be read"),
        (BackendSpec(id="a", url="http://u:p@a"), "no user"),
        (BackendSpec(id="a", url="http://a/?q=1"), "no user, query"),
        (BackendSpec(id="a", url="http://a", group=""), "no name"),
        (BackendSpec(id="a", url="http://a", metrics_url="a:8002"), "a: metrics_url 'a:8002' is not http://host:port"),
    ],
)
def test_a_backend_that_makes_no_sense_is_named(backend: BackendSpec, problem: str) -> None:
    (found,) = RoutingSnapshot(backends=(backend,)).validate()
    assert problem in found


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ((ROUTE, ROUTE), "called 'tiny'"),
        ((ROUTE, ModelRoute(name="other", arms=ROUTE.arms, aliases=("tiny",))), "called 'tiny'"),
        ((ModelRoute(name="m", arms=()),), "has no arm"),
        ((ModelRoute(name="m", arms=(Arm(name="x", weight=0),)),), "no arm has a weight"),
        ((ModelRoute(name="m", arms=(Arm(name="x"), Arm(name="x"))),), "more than one arm 'x'"),
        ((ModelRoute(name="m", arms=(Arm(name="x", version="../1"),)),), "is not a number"),
        ((ModelRoute(name="m", arms=(Arm(name="x", triton_model="a/b"),)),), "name of a Triton model"),
        ((ModelRoute(name="", arms=(Arm(name="x"),)),), "a name is empty"),
    ],
)
def test_a_route_that_makes_no_sense_is_named(routes: tuple[ModelRoute, ...], problem: str) -> None:
    (found,) = RoutingSnapshot(models=routes).validate()
    assert problem in found


def test_all_problems_are_told_together() -> None:
    with pytest.raises(ValueError, match=r"more than one backend 'a'.*http://host:port"):
        decode_snapshot(b'{"backends": [{"id": "a", "url": "http://a"}, {"id": "a", "url": "b"}]}')


@pytest.mark.parametrize("data", [b"", b"[]", b'{"colour": 1}', b'{"version": -1}', b'{"backends": [{"id": "a"}]}'])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_snapshot(data)
