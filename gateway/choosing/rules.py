"""Rules: what decides before anything is asked."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from gateway.choosing.spec import Rule

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """`text`: the last turn of the user, its beginning where it is long. `tools`: whether any are offered."""

    text: str
    tenant: str
    tools: bool


class Rules:
    """The first one that applies. `seconds`: for one pattern: a text that makes it search for ever does not match."""

    def __init__(self, rules: Sequence[Rule], seconds: float) -> None:
        self._rules = [(rule, regex.compile(rule.pattern) if rule.pattern is not None else None) for rule in rules]
        self._seconds = seconds

    def first(self, asked: Asked) -> Rule | None:
        return next(
            (rule for rule, pattern in self._rules if _holds(rule, asked) and self._matches(rule, pattern, asked)), None
        )

    def _matches(self, rule: Rule, pattern: "regex.Pattern[str] | None", asked: Asked) -> bool:
        if pattern is None:
            return True
        try:
            return pattern.search(asked.text, timeout=self._seconds) is not None
        except TimeoutError:
            log.warning("the pattern of rule %s took too long", rule.name)
            return False


def _holds(rule: Rule, asked: Asked) -> bool:
    """Everything but the pattern."""
    size = len(asked.text)
    return (
        (rule.min_chars is None or size >= rule.min_chars)
        and (rule.max_chars is None or size <= rule.max_chars)
        and (rule.tenants is None or asked.tenant in rule.tenants)
        and (rule.tools is None or asked.tools == rule.tools)
    )
