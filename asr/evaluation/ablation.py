"""What is each setting worth? The same training with one difference a run.

`asr ablate PLAN.yaml FOLDER` trains every run that the plan names, with one thread
each, and prints a table in Markdown: each run at the validation where its loss on dev
was lowest. A run that was stopped goes on, one that is finished is not trained again.

    config: configs/las_ablation.yaml     what all runs share, beside this file
    runs:
      base: []
      no dropout: [listener.dropout=0]    settings of `asr train`
    scaling: [a quarter, a half, base]    runs on more and more hours, if wished

To the runs under `scaling` it fits error = a * hours ^ -b, and prints what that
predicts.
"""

import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.config import Config, load_config, read_settings
from asr.errors import AsrError, ConfigError, TrainingError
from asr.processes import end_with_starter
from asr.runs.claim import CONFIG, is_finished
from asr.runs.material import chosen, digests, learned_from
from asr.training.metrics import read_metrics

FOCUS, MONOTONY = 0.5, 0.9
"""Attention is a diagonal where it has more than this of both (see `validation`)."""
PREDICTED = (100.0, 960.0)
"""Hours: the parts of LibriSpeech that others report."""
_NAME = re.compile(r"\w[\w ,.+=-]{0,59}")
_LOOK = {
    *("step", "dev/loss", "dev/spelling_loss", "dev/ctc_loss", "dev/cer", "dev/wer"),
    *("dev/ctc_cer", "dev/focus", "dev/monotony"),
}
"""Metrics of a validation."""
_RATES = {"CTC CER": "dev/ctc_cer", "CER": "dev/cer", "loss": "dev/loss"}


@dataclass(frozen=True)
class Plan:
    """Which runs there are."""

    config: str
    """Of all runs; its path is relative to the plan's."""
    runs: dict[str, list[str]]
    """Name of a run to its own settings, as `asr train` takes them."""
    scaling: list[str] | None = None
    """Names of runs that differ in hours only."""


class Run(NamedTuple):
    """One training."""

    name: str
    source: Path
    """YAML file of what all runs share."""
    settings: list[str]
    """Its own."""
    config: Config
    """Both together."""
    folder: Path


class Result(NamedTuple):
    """What a finished run has come to."""

    run: Run
    best: dict[str, float]
    """Metrics of the validation with the lowest loss."""
    aligned: int | None
    """Update of the first validation at which attention was a diagonal."""
    minutes: float


def ablate(plan: Path, folder: Path, names: Sequence[str] = (), jobs: int = 2) -> None:
    """Train the runs of a plan, and print what they have come to.

    Args:
        plan: YAML file that names the runs.
        folder: for the folders of the runs.
        names: of some of the runs; all, if there are none.
        jobs: trainings at a time, with one thread each.

    Raises:
        ConfigError: the plan is wrong, or a folder holds a run with other settings.
        TrainingError: a run failed; the others were trained.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    planned, runs = read_plan(plan, folder)
    unknown = set(names) - {run.name for run in runs}
    if unknown:
        raise ConfigError(f"{plan}: has no run {min(unknown)!r}")
    chosen_runs = [run for run in runs if run.name in names or not names]
    with ThreadPoolExecutor(jobs) as pool:
        errors = [error for error in pool.map(_train, chosen_runs) if error]
    results = list(_results(runs))
    print("\n".join(_table(results)), flush=True)
    scaling = planned.scaling or ()
    for line in _scaling([r for r in results if r.run.name in scaling]):
        print(line)
    if errors:
        raise TrainingError(errors[0])


def read_plan(path: Path, folder: Path) -> tuple[Plan, list[Run]]:
    """Read a plan, and check all its runs before the first trains.

    Raises:
        ConfigError: it cannot be read, or names an impossible run.
    """
    plan = read_settings(Plan, path)
    source = path.parent / plan.config
    runs = list[Run]()
    for name, settings in plan.runs.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: runs: a name is made of up to 60 letters, digits, spaces and "
                f"a few signs, not {name!r}"
            )
        try:
            config = load_config(source, settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: runs: {name}: {error}") from error
        place = folder / name.replace(" ", "-")
        _check_kept(place, config)
        runs.append(Run(name, source, settings, config, place))
    if not runs:
        raise ConfigError(f"{path}: runs: there is none")
    places = Counter(run.folder for run in runs)
    for run in runs:
        if places[run.folder] > 1:
            raise ConfigError(f"{path}: runs: two would be in {run.folder}")
    unknown = set(plan.scaling or ()) - set(plan.runs)
    if unknown:
        raise ConfigError(f"{path}: scaling: there is no run {min(unknown)!r}")
    return plan, runs


def _check_kept(folder: Path, config: Config) -> None:
    """Refuse a folder of a run of something else: its figures are of that.

    Raises:
        ConfigError: its settings, or what its manifests hold, are others.
    """
    kept = folder / CONFIG
    if not kept.exists():
        return
    before = load_config(kept)
    longer = replace(before.training, epochs=config.training.epochs)
    if replace(before, training=longer) != config:
        raise ConfigError(
            f"{folder}: holds a run with other settings (take another folder, or "
            "delete this one)"
        )
    was, now = before.training.epochs, config.training.epochs
    in_epochs = config.training.minutes is None
    if in_epochs and was > now and is_finished(config, folder):
        raise ConfigError(
            f"{folder}: holds a run of {was} epochs, not {now} (take another folder, "
            "or delete this one)"
        )
    if _has_other_corpus(folder, config):
        raise ConfigError(
            f"{folder}: holds a run on another corpus than data.train and data.dev "
            "name now (bring it back, take another folder, or delete this one)"
        )


def _has_other_corpus(folder: Path, config: Config) -> bool:
    """Return whether what a run learned from is known, and not what is there now."""
    learned = learned_from(folder)
    try:
        return learned is not None and learned != digests(config)
    except AsrError:  # it is gone: what a finished run has come to is true still
        return False


def _train(run: Run) -> str | None:
    """Train to the end, unless that is done; return the error, if there is one."""
    if is_finished(run.config, run.folder):
        return None
    log = run.folder / "train.log"
    command = [sys.executable, "-m", "asr", "train", str(run.source), str(run.folder)]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            done = subprocess.run(
                [*command, *run.settings],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
                preexec_fn=end_with_starter,
            )
        output = log.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return f"{run.name}: {log} cannot be written ({error.strerror})"
    if done.returncode == 0:
        print(f"{run.name}: done", file=sys.stderr, flush=True)
        return None
    reason = output.splitlines()[-1] if output else "it printed nothing"
    if done.returncode < 0:
        reason = f"ended by signal {-done.returncode}"
    return f"{run.name}: {reason} (all that it printed is in {log})"


def _results(runs: Sequence[Run]) -> Iterator[Result]:
    for run in runs:
        if not is_finished(run.config, run.folder):
            continue
        steps = read_metrics(run.folder).steps
        looks = [step for step in steps if step.keys() >= _LOOK]
        if not looks:
            raise TrainingError(f"{run.folder}: its metrics hold no validation")
        diagonal = [
            int(look["step"])
            for look in looks
            if look["dev/focus"] > FOCUS and look["dev/monotony"] > MONOTONY
        ]
        seconds = max(step.get("seconds", 0) for step in steps)
        yield Result(
            run,
            min(looks, key=lambda look: look["dev/loss"]),
            diagonal[0] if diagonal else None,
            seconds / 60,
        )


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "| run | settings | dev loss: speller | CTC | CER | CTC CER | WER "
        "| focus | monotony | diagonal from update | minutes |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for run, best, aligned, minutes in results:
        losses = (
            f"{best[f'dev/{name}']:.3f}" for name in ("spelling_loss", "ctc_loss")
        )
        rates = (
            f"{100 * best[f'dev/{name}']:.1f}" for name in ("cer", "ctc_cer", "wer")
        )
        habits = (f"{best[f'dev/{name}']:.2f}" for name in ("focus", "monotony"))
        cells = [
            *(run.name, " ".join(f"`{setting}`" for setting in run.settings)),
            *(*losses, *rates, *habits),
            *("never" if aligned is None else str(aligned), f"{minutes:.0f}"),
        ]
        yield f"| {' | '.join(cells)} |"


def _scaling(results: Sequence[Result]) -> Iterator[str]:
    """Fit a power law to runs on more and more hours, and extrapolate it."""
    hours = [_hours(result.run.config) for result in results]
    if len(set(hours)) < 3:  # two points fit any law
        return
    yield f"\nOn {', '.join(f'{h:.2f}' for h in sorted(hours))} hours:\n"
    for label, name in _RATES.items():
        rates = [result.best[name] for result in results]
        if min(rates) <= 0:
            continue
        a, b, spread = power_law(hours, rates)
        predicted = ", ".join(
            f"{_shown(label, a * h**-b)} on {h:.0f} hours" for h in PREDICTED
        )
        yield (
            f"- {label} = {_shown(label, a)} * hours ^ {-b:.3f} (within a factor of "
            f"{spread:.3f} of what was measured); predicted: {predicted}"
        )


def _shown(label: str, value: float) -> str:
    return f"{value:.3f}" if label == "loss" else f"{100 * value:.1f} %"


def power_law(
    hours: Sequence[float], rates: Sequence[float]
) -> tuple[float, float, float]:
    """Fit rate = a * hours ^ -b by least squares of the logarithms.

    Returns:
        a, b, and the factor by which the worst of the rates is off.

    >>> power_law([1, 2, 4], [0.8, 0.4, 0.2])
    (0.8, 1.0, 1.0)
    """
    x, y = np.log(hours), np.log(rates)
    slope, intercept = np.polyfit(x, y, 1)
    off = float(np.abs(y - (slope * x + intercept)).max())
    a, b, spread = math.exp(intercept), -float(slope), math.exp(off)
    return round(a, 6), round(b, 6), round(spread, 6)


def _hours(config: Config) -> float:
    return sum(u.duration for u in chosen(config.data)) / 3600
