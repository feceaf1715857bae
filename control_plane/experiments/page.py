"""Experiments and mirrorings on the status page."""

import time
from html import escape

from control_plane.experiments.evidence import Evidence, Pairs
from control_plane.experiments.results import Paired, Row, paired, results
from control_plane.experiments.state import Experiment, Mirroring, Trial


def section(trial: Trial, evidence: Evidence | Pairs) -> str:
    """HTML; the evidence is of the trial's kind."""
    if isinstance(trial, Experiment):
        return _experiment(trial, evidence if isinstance(evidence, Evidence) else Evidence())
    return _mirroring(trial, evidence if isinstance(evidence, Pairs) else Pairs())


def _experiment(trial: Experiment, evidence: Evidence) -> str:
    seen = results(trial, evidence)
    arms = ", ".join(f"{name} {weight}" for name, weight in trial.arms.items())
    warnings = "".join(f"<p><strong>{escape(one)}</strong></p>" for one in seen.warnings)
    headings = "<th>measure</th><th>arm</th><th>n</th><th>value</th><th>difference</th><th>interval</th><th>p</th>"
    return (
        f"<h2>{escape(trial.model)}: {escape(arms)}, by {trial.by}</h2>{_state(trial)}{warnings}"
        f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(map(_row, seen.rows))}</tbody></table>"
    )


def _mirroring(trial: Mirroring, pairs: Pairs) -> str:
    title = f"{trial.model}: copies of {trial.mirror.fraction:.0%} for {trial.mirror.arm.name}"
    rows = "".join(map(_pair, paired(trial, pairs)))
    return (
        f"<h2>{escape(title)}</h2>{_state(trial)}<p>{pairs.copies} copies, {pairs.failed} failed, of their originals "
        f"{pairs.originals_failed}</p><table><thead><tr><th>measure</th><th>pairs</th><th>copy against original</th>"
        f"<th>interval</th><th>p</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _state(trial: Trial) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(trial.started_at))
    state = "under way" if trial.under_way else "over"
    return f"<p><code>{escape(trial.id)}</code> · <strong>{state}</strong> · since {since}</p>"


def _row(row: Row) -> str:
    difference = "" if row.difference is None else f"{row.difference:.4g} {row.kind}"
    found, p_value = row.difference_interval, row.p_value
    interval = escape(row.missing) if found is None else f"{found.low:.4g} – {found.high:.4g}"
    return (
        f"<tr><td>{row.measure.replace('_', ' ')}</td><td>{escape(row.arm)}</td><td>{row.count}</td>"
        f"<td>{row.value:.4g}</td><td>{difference}</td><td>{interval}</td>"
        f"<td>{'' if p_value is None else format(p_value, '.2g')}</td></tr>"
    )


def _pair(row: Paired) -> str:
    interval = escape(row.missing) if row.interval is None else f"{row.interval.low:.4g} – {row.interval.high:.4g}"
    return (
        f"<tr><td>{row.measure.replace('_', ' ')}</td><td>{row.count}</td><td>{row.difference:.4g}</td>"
        f"<td>{interval}</td><td>{'' if row.p_value is None else format(row.p_value, '.2g')}</td></tr>"
    )
