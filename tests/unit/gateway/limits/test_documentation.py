"""The arithmetic in docs/limits.md is what the code does."""

from gateway.limits.settings import LimitSettings
from gateway.limits.shared import MOST_CARRIED
from gateway.valkey.connection import ValkeySettings
from tests.support.markdown import page

LIMITS = page("docs/limits.md")


def test_the_example_holds() -> None:
    (example,) = [block.code for block in LIMITS.blocks if block.language == "python"]
    assert example.count("assert ") == 3
    exec(compile(example, "docs/limits.md", "exec"), {})


def test_the_numbers_are_the_defaults() -> None:
    text, limits, valkey = LIMITS.text, LimitSettings(), ValkeySettings()
    assert f"`lease_ttl_s` ({limits.lease_ttl_s:g} s)" in text
    assert f"may take {valkey.call_timeout_s * 1000:g} ms" in text
    assert f"(up to {MOST_CARRIED})" in text
