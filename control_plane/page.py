"""The status page: plain HTML, nothing from elsewhere."""

import time
from collections.abc import Sequence
from html import escape
from typing import Final

from control_plane.rollouts.state import Comparison, Decision, Rollout

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
REFRESH_S: Final = 5
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1f2328}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.2rem .8rem;text-align:left;vertical-align:top"
    ";border-bottom:1px solid #d0d7de}.running{color:#1f6feb}.promoted{color:#0b6e4f}"
    ".rolled_back,.aborted{color:#a40e4c}"
)


def render(rollouts: Sequence[Rollout], leading: bool, worked_at: float | None, more: Sequence[str] = ()) -> str:
    """`worked_at`: when the last round ended, Unix seconds. `more`: what follows, as HTML."""
    role = "acts" if leading else "stands by: another control plane acts, or Valkey is away"
    when = "no round of work has ended yet" if worked_at is None else f"last round at {_time(worked_at)}"
    parts = [f"<p>This control plane {role}; {when}.</p>", *map(_rollout, rollouts)]
    if not rollouts:
        parts.append("<p>There are no rollouts. <code>trireme rollouts start</code> begins one.</p>")
    body = "".join([*parts, *more])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_S}">'
        f"<title>Trireme rollouts</title><style>{_STYLE}</style></head><body><h1>Rollouts</h1>{body}"
        "</body></html>\n"
    )


def _rollout(rollout: Rollout) -> str:
    definition = rollout.definition
    title = f"{definition.model}: {definition.canary.name} for {definition.stable.name}"
    rows = "".join(_decision(decision) for decision in reversed(rollout.history))
    return (
        f"<h2>{escape(title)}</h2><p><code>{escape(rollout.id)}</code> · "
        f'<strong class="{rollout.status}">{rollout.status.replace("_", " ")}</strong> · {rollout.share} %</p>'
        "<table><thead><tr><th>when</th><th>who</th><th>at</th><th>what</th><th>why</th><th>numbers</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _decision(decision: Decision) -> str:
    numbers = "<br>".join(_comparison(one) for one in decision.comparisons)
    return (
        f"<tr><td>{_time(decision.at)}</td><td>{escape(decision.by)}</td><td>{decision.share} %</td>"
        f"<td>{decision.action.replace('_', ' ')}</td><td>{escape(decision.reason)}</td><td>{numbers}</td></tr>"
    )


def _comparison(one: Comparison) -> str:
    if one.metric == "errors":
        values = f"{one.canary:.2%} of {one.canary_samples}, stable {one.stable:.2%} of {one.stable_samples}"
    else:
        values = f"{one.canary:.1f} ms of {one.canary_samples}, stable {one.stable:.1f} ms of {one.stable_samples}"
    return f"{one.metric.replace('_', ' ')} {values}; p {one.harm:.2g}, worse below {one.harm_below:.2g}"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
