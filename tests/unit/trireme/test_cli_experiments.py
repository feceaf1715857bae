"""`trireme experiments`, `mirror` and `arms` against a real Valkey."""

import json
from collections.abc import Callable

import msgspec
import pytest
from redis import Redis
from typer.testing import Result

from control_plane.experiments.evidence import Pairs
from control_plane.experiments.store import EVIDENCE
from gateway.core.document import KEY
from gateway.core.snapshot import ModelRoute, decode_snapshot
from tests.unit.control_plane.experiments.making import copied, evidence
from trireme.errors import TriremeError

Run = Callable[..., Result]
CREATE = ("experiments", "create", "--model", "boats", "--arm", "stable=90", "--arm", "v2=10")
MIRROR = ("mirror", "set", "boats", "--arm", "v2", "--fraction", "0.25")


def route(redis: Redis) -> ModelRoute:
    (found,) = decode_snapshot(redis.get(KEY)).models  # type: ignore[arg-type]
    return found


def made(run: Run, *more: str) -> str:
    """The id of an experiment with two arms."""
    run("arms", "add", "boats", "v2", "--group", "new")
    run(*CREATE, *more)
    identifier: str = json.loads(run("experiments", "list", "--json").stdout)[0]["id"]
    return identifier


def test_an_experiment_is_created_shown_and_stopped(run: Run, redis: Redis) -> None:
    one = made(run, "--by", "tenant", "--planned", "2000")
    assert {arm.name: arm.weight for arm in route(redis).arms} == {"stable": 90, "v2": 10}
    assert all(word in run("experiments", "list").stdout for word in (one, "boats", "stable=90 v2=10", "tenant"))
    seen = evidence(1500, slower=1.3)
    seen.arms["stable"], seen.arms["v2"] = seen.arms.pop("a"), seen.arms.pop("b")
    redis.hset(EVIDENCE, one, msgspec.json.encode(seen))
    table = run("experiments", "show", one)
    assert all(word in table.stdout for word in ("time to first token", "v2", "1500", "1.3", "times", "points"))
    assert "Warning: stable got 50.0% of the requests, by its weight it should be 90.0%" in table.stderr
    shown = json.loads(run("experiments", "show", one, "--json").stdout)
    assert (shown["id"], shown["by"], len(shown["warnings"])) == (one, "tenant", 2)
    assert {row["measure"] for row in shown["rows"]} >= {"errors", "tokens", "price", "time_per_output_token"}
    assert "the weights are as before" in run("experiments", "stop", one).stderr
    assert {arm.name: arm.weight for arm in route(redis).arms} == {"stable": 1, "v2": 0}


def test_requests_are_mirrored_compared_and_no_more(run: Run, redis: Redis) -> None:
    run(*MIRROR, "--group", "new", "--version", "2", "--exclude", "acme", "--exclude", "ajax")
    mirror = route(redis).mirror
    assert mirror is not None
    assert (mirror.arm.group, mirror.arm.version, mirror.fraction) == ("new", "2", 0.25)
    assert mirror.exclude == ("acme", "ajax")
    pairs = Pairs()
    for number in range(200):
        pairs.add(copied(f"u{number}"))
    redis.hset(EVIDENCE, mirror.id, msgspec.json.encode(pairs))
    table = run("mirror", "show", "boats").stdout
    assert all(word in table for word in ("25% of boats for v2", "200 copies, 0 failed", "same answer", "100.00%"))
    shown = json.loads(run("mirror", "show", "boats", "--json").stdout)
    assert (shown["copies"], shown["mirroring"]["id"], shown["price"]) == (200, mirror.id, 100_000)
    run("mirror", "clear", "boats")
    assert route(redis).mirror is None


def test_arms_are_added_listed_used_by_name_and_removed(run: Run, redis: Redis) -> None:
    run("arms", "add", "boats", "v2", "--group", "new", "--version", "2")
    assert all(word in run("arms", "list").stdout for word in ("boats", "stable", "v2", "new", "chat"))
    run(*MIRROR)
    mirror = route(redis).mirror
    assert mirror is not None
    assert (mirror.arm.group, mirror.arm.version) == ("new", "2")
    run("arms", "remove", "boats", "v2")
    assert [arm["name"] for arm in json.loads(run("arms", "list", "--json").stdout)[0]["arms"]] == ["stable"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (CREATE, r"^There is no arm 'stable' of boats; there are: none but its own; trireme arms add"),
        ((*CREATE[:4], "--arm", "stable"), r"^--arm stable: write NAME=WEIGHT, with a whole number from 1\.$"),
        ((*CREATE[:6], "--arm", "stable=1"), r"^--arm stable is there twice\.$"),
        ((*CREATE, "--by", "moon"), r"^--by must be one of tenant, user, session\.$"),
        ((*CREATE, "--confidence", "95"), r"^--confidence must lie between 0\.5 and 1: 0\.95\.$"),
        (("experiments", "show", "ex_9"), r"^There is no experiment or mirroring 'ex_9'\.$"),
        (MIRROR, r"^There is no arm 'v2' of boats: say where it is with --group"),
        ((*MIRROR[:-1], "2"), r"^--fraction must be above 0 and at most 1: 0\.1\.$"),
        (("mirror", "show", "boats"), r"^Nothing of boats was ever mirrored\.$"),
        (("mirror", "clear", "boats"), r"^Nothing of boats was ever mirrored\.$"),
        (("arms", "remove", "boats", "v2"), r"^There is no arm 'v2' of boats\.$"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_possible_is_said_in_a_sentence(
    run: Run, redis: Redis, arguments: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(TriremeError, match=sentence):
        run(*arguments)
    assert redis.get(KEY) is None


def test_a_mirroring_is_no_experiment(run: Run, redis: Redis) -> None:
    run(*MIRROR, "--group", "new")
    mirror = route(redis).mirror
    assert mirror is not None
    with pytest.raises(TriremeError, match="is no experiment: see trireme mirror show"):
        run("experiments", "show", mirror.id)
    assert json.loads(run("experiments", "list", "--json").stdout) == []
