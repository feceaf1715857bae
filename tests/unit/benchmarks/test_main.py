"""`make bench` runs everything that needs no other proxy."""

from inspect import signature

from benchmarks.__main__ import WITH_PEERS, app, without_peers
from tests.support.markdown import ROOT


def test_nothing_is_left_out_but_what_needs_another_proxy() -> None:
    names = {one.name for one in app.registered_commands}
    assert names > WITH_PEERS
    assert len(without_peers()) == len(names - WITH_PEERS)
    assert all(one.default is not one.empty for run in without_peers() for one in signature(run).parameters.values())


def test_every_measurement_has_a_section_of_the_report() -> None:
    report = (ROOT / "docs" / "benchmarks.md").read_text()
    assert [one.name for one in app.registered_commands if f"<!-- begin {one.name} -->" not in report] == []
