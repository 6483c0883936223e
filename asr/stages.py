"""A training in stages: one after the other, each from the weights of the one before.

What teaches a network at first is not what teaches it later: attention is found on
undisturbed speech, by a small network; disturbed speech and a wider listener come when
it is there. `load_stages` reads the settings of all stages from one file.

The folder of the run holds one of a run for each stage:

stage-1/         as `asr.training.trainer` writes it
stage-2/         started from the model of stage-1
…

The folder itself can be given as a model anywhere: it is that of the last stage that
has one. A stage that another one has started from is over: it is not trained again, and
its settings cannot change. To train from a stage on anew, delete its folder and all
after it.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from asr.config import Config, load_config
from asr.errors import AsrError, ConfigError
from asr.locks import locked
from asr.memory import keep_freed_memory
from asr.model.storage import DESCRIPTION, Model, stage_folder, stage_folders
from asr.progress import print_if_read
from asr.runs.claim import CONFIG, changed_settings, is_finished
from asr.runs.material import digests, learned_from
from asr.train import check, train_once
from asr.training.best_model import MODEL
from asr.training.checkpoint import CHECKPOINT
from asr.training.distributed import Team, started_by_torchrun, torchrun_team
from asr.training.stopping import Stopped


def train_stages(stages: Sequence[Config], folder: str | Path) -> None:
    """Train one stage after the other; a run that was stopped goes on where it was.

    All settings are checked before the first stage begins. In a process that torchrun
    has started, it trains together with the others, each of which calls this.

    Args:
        stages: all settings of each, as `load_stages` returns them.
        folder: of the whole run, which all processes can read.

    Raises:
        AsrError: a manifest, recording, setting or checkpoint of one of the stages
            cannot be used; or another process trains in the folder.
        Stopped: Ctrl-C or SIGTERM came; the same call goes on from there.
    """
    keep_freed_memory()
    run = _StagedRun(stages, Path(folder))
    if not started_by_torchrun():
        run.train(None)
        return
    processes = max(stage.training.processes for stage in stages)
    with torchrun_team(processes) as team:
        run.train(team)


def are_finished(stages: Sequence[Config], folder: str | Path) -> bool:
    """Return whether a folder holds a run in stages that has nothing more to train.

    Raises:
        CheckpointError: the checkpoint of the last stage is damaged.
    """
    return is_finished(stages[-1], stage_folder(Path(folder), len(stages)))


class _StagedRun:
    """One run: all its stages, by their numbers, and its folder."""

    def __init__(self, stages: Sequence[Config], folder: Path) -> None:
        self.folder, self.num_stages = folder, len(stages)
        self._stages = dict(enumerate(stages, 1))

    def train(self, team: Team | None) -> None:
        """Train what is not finished; where torchrun started this, with its team."""
        leads = team is None or team.leads
        first = self._check() if leads else 0
        with self._claimed() if leads else nullcontext():
            if team:
                first = team.share(first)
            for number in range(1, first):
                self._print(leads, number, "was finished before")
            for number in range(first, self.num_stages + 1):
                self._train(number, team, leads)
                if number < self.num_stages:
                    _free_memory()

    def _train(self, number: int, team: Team | None, leads: bool) -> None:
        place, config = self._place(number), self._settled(number)
        line = f"{place}, from {config.training.start or 'nothing'}"
        if self._is_begun(number):
            over = is_finished(config, place)
            line = "was finished before" if over else f"goes on in {place}"
        self._print(leads, number, line)
        stage = f"{number} of {self.num_stages}"
        asked = train_once(config, place, team=team, stage=stage)
        if team:
            asked = max(team.gather(asked))
        if asked and number < self.num_stages:
            raise Stopped(
                asked,
                f"stopped after stage {stage}: the same command goes on from there",
            )

    def _print(self, leads: bool, number: int, line: str) -> None:
        if leads:
            print_if_read(f"stage {number} of {self.num_stages}: {line}")

    def _place(self, number: int) -> Path:
        return stage_folder(self.folder, number)

    def _is_begun(self, number: int) -> bool:
        return (self._place(number) / CHECKPOINT).exists()

    def _settled(self, number: int) -> Config:
        """Return the settings of a stage, with the folder that it starts from.

        One that has begun keeps what is written in its folder: the run may have moved.
        """
        config = self._stages[number]
        if number == 1:
            return config
        start: str | None = str(self._place(number - 1))
        kept = self._place(number) / CONFIG
        if self._is_begun(number) and kept.exists():
            start = load_config(kept).training.start
        return replace(config, training=replace(config.training, start=start))

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Keep the folder, which is made if it is missing, for this process."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: cannot be made ({error.strerror})"
            ) from error
        with locked(self.folder, "asr train"):
            yield

    def _check(self) -> int:
        """Refuse what any stage could not begin with; return the first to train.

        Raises:
            AsrError: a manifest or setting cannot be used; or the folder holds another
                run, or stages that are over with other settings.
        """
        self._check_folder()
        first = self._first()
        for number in range(1, first):
            self._check_over(number)
        before: Model | None = None
        for number in range(first, self.num_stages + 1):
            with _naming(number):
                before = check(self._settled(number), self._place(number), before)
        return first

    def _first(self) -> int:
        """Return the first stage that has something to train, or the last one.

        What the next stage has started from is over.
        """
        begun = [number for number in self._stages if self._is_begun(number)]
        if not begun:
            return 1
        last = begun[-1]
        over = is_finished(self._settled(last), self._place(last))
        return min(last + over, self.num_stages)

    def _check_folder(self) -> None:
        """Refuse a folder with a run that has no stages, or more of them."""
        if any(
            (self.folder / name).exists() for name in (CHECKPOINT, DESCRIPTION, MODEL)
        ):
            raise ConfigError(
                f"{self.folder}: holds a run without stages, or a model (take another "
                "folder)"
            )
        for number, place in stage_folders(self.folder).items():
            if number > self.num_stages:
                raise ConfigError(
                    f"{place}: is of a run with more than {self.num_stages} stages "
                    "(take another folder, or delete this one)"
                )

    def _check_over(self, number: int) -> None:
        """Refuse other settings of a stage that is over: they would change nothing."""
        place = self._place(number)
        if not (place / CONFIG).exists():
            return
        now, config = self._settled(number), load_config(place / CONFIG)
        changed = changed_settings(config, now)
        of_data = [name for name in changed if name.startswith("data.")]
        if changed and changed == of_data and _has_learned_from(place, number, now):
            return  # it was moved
        if changed:
            raise ConfigError(
                f"{place}: stage {number} is over, with other settings of "
                f"{', '.join(changed)} (bring them back; stages.{number + 1}.key=value "
                "sets those of another stage)"
            )


def _has_learned_from(place: Path, number: int, config: Config) -> bool:
    """Return whether a stage has learned from what its settings name now."""
    with _naming(number):
        return learned_from(place) == digests(config)


def _free_memory() -> None:
    """Let go of what the stage before held: its corpus, and its graphs on a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Name the stage in the message of an error."""
    try:
        yield
    except AsrError as error:
        raise type(error)(f"stage {number}: {error}") from error
