"""Variables in, settings or sentences out; and the page that documents them."""

import pytest

from control_plane.metrics import Meters
from control_plane.rollouts.state import Rules
from control_plane.settings import ControlSettings, SettingsError, load, reference
from tests.support.markdown import page

ROLLOUTS = page("docs/rollouts.md")


def test_defaults_and_variables() -> None:
    assert load({}) == ControlSettings()
    given = load({"TRIREME_CONTROL_PORT": "9", "TRIREME_CONTROL_EVERY_S": "2", "TRIREME_LOG_LEVEL": ""})
    assert given == ControlSettings(port=9, every_s=2.0)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"TRIREME_CONTROL_PORT": "70000", "TRIREME_LOG_LEVEL": "loud"})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "TRIREME_CONTROL_PORT",
        "TRIREME_LOG_LEVEL",
    ]


def test_a_lease_that_ends_between_rounds_is_refused() -> None:
    with pytest.raises(SettingsError, match="the lease would end"):
        load({"TRIREME_CONTROL_EVERY_S": "10", "TRIREME_CONTROL_LEASE_S": "15"})


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {row[0].strip("`"): (row[1].strip("`"), row[2], row[3]) for row in ROLLOUTS.rows("Settings")}
    assert documented == {variable: (default, unit, meaning) for variable, default, unit, meaning in reference()}


def test_every_metric_is_documented() -> None:
    families = Meters().registry.collect()
    exported = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    assert {row[0].strip("`").partition("{")[0] for row in ROLLOUTS.rows("Metrics")} == exported


def test_the_rules_are_documented_with_their_defaults() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in ROLLOUTS.rows("Rules")}
    rules = Rules()
    defaults = {name: getattr(rules, name) for name in Rules.__struct_fields__}
    shown = {name: ", ".join(map(str, value)) if name == "steps" else f"{value:g}" for name, value in defaults.items()}
    assert documented == shown
