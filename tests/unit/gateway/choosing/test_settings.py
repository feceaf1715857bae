"""Routers in the settings: what makes no sense is told together, with the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.accounting.prices import Prices
from gateway.choosing.choice import Option, decide, predicted
from gateway.config import ConfigError, Settings, load
from gateway.core.call import Model
from gateway.core.routed import Routed
from tests.support.markdown import ROOT, Page

CANDIDATE = {"model": "tiny", "quality": [[0, 0.9], [1, 0.1]]}


def problems(environment: dict[str, str], *routers: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(environment | {"TRIREME_ROUTERS": json.dumps(routers)})
    return raised.value.problems


def test_a_router_needs_no_more_than_a_name_and_a_candidate(environment: dict[str, str]) -> None:
    routers = json.dumps([{"name": "auto", "candidates": [CANDIDATE]}])
    (router,) = load(environment | {"TRIREME_ROUTERS": routers}).choosing.routers or ()
    assert (router.models, router.policy) == (("tiny",), "quality")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"candidates": [CANDIDATE, CANDIDATE]}, "auto: 'tiny' is a candidate twice"),
        ({"candidates": [CANDIDATE | {"model": "huge"}]}, "auto: there is no model 'huge'; known: tiny"),
        ({"default": "huge"}, "auto: default: 'huge' is no candidate of it"),
        ({"rules": [{"name": "r", "use": "huge"}]}, "auto: rule r: 'huge' is no candidate of it"),
        ({"rules": [{"name": "r", "use": "tiny", "pattern": "("}]}, "auto: rule r: the pattern cannot be read"),
        ({"policy": "cost"}, "auto: the policy cost needs max_cost"),
        ({"policy": "latency"}, "auto: the policy latency needs max_ms"),
        (
            {"candidates": [CANDIDATE | {"quality": [[1, 0.1], [0, 0.9]]}]},
            "auto: the scores in the quality of tiny must",
        ),
        ({"name": "tiny"}, "more than one thing is called 'tiny'"),
        ({"name": "tiny-embed"}, "more than one thing is called 'tiny-embed'"),
        ({"name": "plan"}, "more than one thing is called 'plan'"),
    ],
)
def test_what_makes_no_sense(environment: dict[str, str], fields: dict[str, Any], problem: str) -> None:
    found = problems(environment, {"name": "auto", "candidates": [CANDIDATE], **fields})
    assert any(problem in one for one in found), found


def test_the_example_of_the_documentation_is_what_the_settings_take(
    environment: dict[str, str], model_dir: Path, tmp_path: Path
) -> None:
    page = Page(ROOT / "docs" / "model-routing.md")
    (example,) = [block.code for block in page.blocks if block.language == "yaml"]
    file = tmp_path / "gateway.yaml"
    file.write_text(example.replace("/srv/models/large", str(model_dir)))
    given = {"TRIREME_CONFIG": str(file), "TRIREME_MODEL_NAME": "smollm2-135m-instruct"}
    settings = load(environment | given)
    names = [router.name for router in settings.choosing.routers or ()]
    assert names == ["auto", "auto-quick"]
    (header,) = [block.code for block in page.blocks if block.code.startswith("x-router: ")]
    assert header.strip() == f"x-router: {_decided(settings, score=0.412).header()}"


def _decided(settings: Settings, score: float) -> Routed:
    router, prices = (settings.choosing.routers or [])[0], Prices(settings.accounting)
    options = [
        Option(
            one.model,
            cost=prices.price(Model(one.model, "generate", 4096, 0), 3, 1, 0),
            predicted=predicted(one.quality, score),
        )
        for one in router.candidates
    ]
    choice = decide(router, options)
    assert choice.option is not None
    return Routed(
        router=router.name,
        model=choice.option.model,
        reason=choice.reason,
        score=score,
        predicted=choice.option.predicted,
        verdicts=choice.verdicts,
    )


def test_what_has_the_wrong_shape(environment: dict[str, str]) -> None:
    (problem,) = problems(environment, {"name": "auto", "candidates": [CANDIDATE], "polcy": "cost"})
    assert "unknown field `polcy`" in problem
    (problem,) = problems(environment, {"name": "auto", "candidates": [CANDIDATE | {"quality": [[0, 2]]}]})
    assert "choosing.routers (TRIREME_ROUTERS)" in problem
