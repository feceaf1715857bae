"""`trireme rollouts` against a real Valkey."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from typer.testing import Result

from control_plane.lease import LEASE
from control_plane.routing import KEY
from trireme.errors import TriremeError

Run = Callable[..., Result]
START = ("rollouts", "start", "boats", "--arm", "v2", "--group", "new")


def listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("rollouts", "list", "--json").stdout)
    return found


def test_a_rollout_is_started_shown_and_ended(run: Run, redis: Redis) -> None:
    assert (
        "begins with 2 % of boats" in run(*START, "--version", "7", "--steps", "2,100", "--min-minutes", "1.5").stderr
    )
    (one,) = listed(run)
    assert one["definition"]["canary"] == {"name": "v2", "group": "new", "version": "7"}
    rules = one["definition"]["rules"]
    assert (rules["steps"], rules["min_samples"], rules["min_step_s"]) == ([2, 100], 1000, 90.0)
    table = run("rollouts", "list").stdout
    assert all(word in table for word in (one["id"], "boats", "v2", "stable", "running", "2 %"))
    assert "stays at 2 %" in run("rollouts", "pause", one["id"]).stderr
    assert "goes on at 2 %" in run("rollouts", "resume", one["id"]).stderr
    assert "stable serves boats" in run("rollouts", "abort", one["id"], "--reason", "slow harbour").stderr
    assert "slow harbour" in run("rollouts", "show", one["id"]).stdout
    shown = json.loads(run("rollouts", "show", one["id"], "--json").stdout)
    assert (shown["status"], shown["share"], len(shown["history"])) == ("aborted", 0, 4)
    assert json.loads(redis.get(KEY) or b"")["models"] == [{"name": "boats", "arms": [{"name": "stable"}]}]


def test_it_is_said_when_nobody_would_act(run: Run, redis: Redis) -> None:
    assert "No control plane runs now" in run("rollouts", "list").stderr
    redis.set(LEASE, "somebody")
    assert "No control plane" not in run("rollouts", "list").stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rollouts", "show", "ro_9"), r"^There is no rollout 'ro_9'\.$"),
        ((*START, "--steps", "5,1,100"), r"^Steps must grow and end with 100, after at least one other\.$"),
        ((*START, "--steps", "1,x"), r"^These rules make no sense: Expected `int`"),
        (
            ("rollouts", "start", "boats", "--arm", "v2"),
            r"^The canary is where the stable arm is: group default, model chat\.$",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_possible_is_said_in_a_sentence(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(TriremeError, match=sentence):
        run(*arguments)
    assert listed(run) == []


def test_one_rollout_of_a_model_at_a_time(run: Run) -> None:
    run(*START)
    with pytest.raises(TriremeError, match=r"^Another rollout of boats is under way\.$"):
        run(*START)
