"""What a router decided, and why."""

from collections.abc import Mapping

import msgspec


class Routed(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`reason`: what decided (docs/model-routing.md). `rule`: the one that did. `score`: how hard the request is, None
    where that was not asked or not answered; then `unscored` says why. `predicted`: the chance that the model is right.
    `verdicts`: of the other candidates, why not.
    """

    router: str
    model: str
    reason: str
    rule: str | None = None
    score: float | None = None
    unscored: str | None = None
    predicted: float | None = None
    verdicts: Mapping[str, str] = {}

    def header(self) -> str:
        """`x-router`: members of a structured field, the verdicts last."""
        members = [self.router, f'model="{self.model}"', f"reason={self.reason}"]
        if self.rule is not None:
            members.append(f'rule="{_printable(self.rule)}"')
        if self.score is not None:
            members.append(f"score={self.score:.3f}")
        if self.unscored is not None:
            members.append(f"unscored={self.unscored}")
        if self.predicted is not None:
            members.append(f"predicted={self.predicted:.3f}")
        if self.verdicts:
            others = ", ".join(f"{model}: {verdict}" for model, verdict in self.verdicts.items())
            members.append(f'others="{_printable(others)}"')
        return "; ".join(members)


def _printable(text: str) -> str:
    """What may stand between quotes in a header."""
    return "".join(one if " " <= one <= "~" and one not in '"\\' else "?" for one in text)
