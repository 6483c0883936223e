"""How the model learned: the curves of a run, from its metrics."""

import base64
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from asr.reports.charts import Curve, Show, curves, whole
from asr.reports.templates import Markup, render
from asr.training.metrics import History, read_metrics

_MOST_POINTS = 240
"""Of a line: more than that is closer together than eyes can see."""
_VALIDATED = {
    "dev/wer": "WER, attention",
    "dev/cer": "CER, attention",
    "dev/ctc_wer": "WER, CTC head",
    "dev/ctc_cer": "CER, CTC head",
}

Points = list[tuple[float, float]]


def show_learning(run: Path) -> Markup:
    """Show the learning curves of a run.

    Raises:
        CheckpointError: the folder has no metrics.
    """
    history = read_metrics(run)
    last = max(1.0, *(metrics["step"] for metrics in history.steps))
    validated = [
        Curve(name, points, is_marked=True)
        for key, name in _VALIDATED.items()
        if (points := values(history, key))
    ]
    losses = [
        Curve("training", thinned(values(history, "loss"))),
        Curve("dev", values(history, "dev/loss"), is_marked=True),
    ]
    rates = thinned(values(history, "learning_rate"))
    keys = [key for key in _VALIDATED if values(history, key)]
    return render(
        "reports/training.html",
        run=run.resolve(),
        summary=_summary(history, last),
        loss=_drawn(losses, last, lambda value: f"{value:.3g}"),
        dev=_drawn(validated, last, lambda value: f"{100 * value:.4g} %"),
        rate=_drawn([Curve("learning rate", rates)], last, lambda rate: f"{rate:.2g}"),
        validation_names=["update", *(_VALIDATED[key] for key in keys)],
        validations=_validations(history, keys),
        picture=_last_picture(run),
    )


def values(history: History, name: str) -> Points:
    """Collect the finite values of a metric, by update."""
    return [
        (metrics["step"], metrics[name])
        for metrics in history.steps
        if name in metrics and isfinite(metrics[name])
    ]


def thinned(points: Points, most: int = _MOST_POINTS) -> Points:
    """Take the means of neighbours until there are few enough points.

    >>> thinned([(1, 4.0), (2, 2.0), (3, 1.0)], most=2)
    [(1.5, 3.0), (3.0, 1.0)]
    """
    size = -(-len(points) // most) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _summary(history: History, last: float) -> str:
    """Describe how long it took and its result."""
    said = f"Updates: {whole(last)}"
    if seconds := values(history, "seconds"):
        said += f" in {seconds[-1][1] / 3600:.1f} hours"
    if losses := values(history, "dev/loss"):
        step, loss = min(losses, key=lambda point: point[1])
        said += f"; the lowest loss on dev was {loss:.3f}, at update {whole(step)}"
    else:
        said += "; there was no validation yet"
    if history.num_broken:
        said += f"; lines of the metrics that could not be read: {history.num_broken}"
    return said + "."


def _drawn(lines: Sequence[Curve], last: float, show: Show) -> Markup | None:
    drawn = [line for line in lines if line.points]
    return curves(drawn, last, "update", show) if drawn else None


def _validations(history: History, keys: Sequence[str]) -> list[list[str]]:
    """Make a row of each validation: the update, and what was measured then."""
    return [
        [whole(metrics["step"]), *(_percent(metrics.get(key)) for key in keys)]
        for metrics in history.steps
        if any(key in metrics for key in keys)
    ]


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.2f} %"


def _last_picture(run: Path) -> dict[str, str] | None:
    """Read the last picture of the run's attention, if there is one."""
    pictures = sorted((run / "attention").glob("step-*.png"))
    try:
        content = base64.b64encode(pictures[-1].read_bytes()).decode()
    except (IndexError, OSError):
        return None
    step = pictures[-1].stem.removeprefix("step-").lstrip("0")
    return {"base64": content, "step": step}
