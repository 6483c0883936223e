"""One experiment: from settings to a trained model in a folder."""

import os
import pickle
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import (
    ProcessException,
    ProcessExitedException,
    spawn,
)

from asr.config import Config
from asr.data.dataset import Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.manifest import spread
from asr.errors import AsrError, ConfigError, TrainingError
from asr.forking import end_with_parent
from asr.locks import locked
from asr.memory import end_process, keep_freed_memory
from asr.model.attention import Attention, note_plain_path, own_attention_name
from asr.model.las import LAS, LASConfig
from asr.model.storage import Model, find_model, stage_folders
from asr.progress import print_if_read
from asr.reports.attention_plot import draw_attention
from asr.runs.claim import claim
from asr.runs.material import TrainingData, read_data
from asr.runs.start import start_from, take_over, tokenizer_after, tokenizer_of
from asr.runtime import pick_device, pick_precision, use_one_thread
from asr.tensor_files import read_metadata
from asr.text import Tokenizer
from asr.training.checkpoint import CHECKPOINT
from asr.training.distributed import (
    Team,
    join_team,
    leave_team,
    started_by_torchrun,
    torchrun_team,
)
from asr.training.parts import freeze
from asr.training.stopping import Stopped, noted_signals
from asr.training.trainer import Trainer

_MEASURED = 300
"""Utterances of the training set that mean and deviation are measured on."""


def train(
    config: Config,
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    attention: type[Attention] | None = None,
) -> None:
    """Train a model; a run that was stopped goes on where it was.

    In a process that torchrun has started, it trains together with the others, each of
    which calls this.

    Args:
        config: all settings.
        folder: of the run, which all processes can read. A folder with a run of another
            corpus or network, or of another order of the data, is refused; how long and
            how fast to learn may change, and how to validate.
        tokenizer: what the speller writes, in place of what the settings name; None for
            them. A kind that is not in `asr.tokenizers` trains, and cannot be loaded.
        attention: a class of the user's own, in place of the built-in attention that
            the settings name. The run keeps its name; the class has to be handed over
            again wherever the run goes on or its model is loaded.

    Raises:
        AsrError: a manifest, recording, setting or checkpoint cannot be used; or
            another process trains in the folder.
        Stopped: Ctrl-C or SIGTERM came; there is a checkpoint of the last update.
    """
    folder = Path(folder)
    if stage_folders(folder):
        raise ConfigError(
            f"{folder}: holds a run in stages (take another folder, or name one of "
            "its stages)"
        )
    keep_freed_memory()
    if started_by_torchrun():
        with torchrun_team(config.training.processes) as team:
            train_once(config, folder, tokenizer, attention, team=team)
    else:
        train_once(config, folder, tokenizer, attention)


def train_once(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    attention: type[Attention] | None = None,
    *,
    team: Team | None = None,
    stage: str = "",
) -> int:
    """Train a model, alone or as one of several trainings; see `train`.

    Args:
        config: all settings.
        folder: of the run.
        tokenizer: in place of what the settings name.
        attention: in place of the built-in one.
        team: the processes that torchrun has started, of which this is one; None for
            those that the settings ask for.
        stage: which of several trainings it is, such as "2 of 4".

    Returns:
        The signal that came too late to stop anything but what is done next; 0 where
        none came. Different processes of a team may have got different ones.

    Raises:
        AsrError: as `train`.
        Stopped: as `train`.
    """
    if team:
        return _train_as_one(config, folder, tokenizer, attention, team, stage)
    with _prepared(config, folder, tokenizer, attention) as (tokenizer, data):
        if config.training.processes > 1:
            return _train_together(config, folder, tokenizer, attention, stage)
        return _run(_trainer(config, folder, tokenizer, attention, data, Team(), stage))


def _run(trainer: Trainer) -> int:
    """Train to the end; return the signal that came after the last update."""
    trainer.run()
    return trainer.stop_signal


@contextmanager
def _prepared(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer | None,
    attention: type[Attention] | None,
) -> Iterator[tuple[Tokenizer, TrainingData]]:
    """Make tokenizer and datasets, and only then the run's folder: for this process."""
    tokenizer = tokenizer or tokenizer_of(config, folder)
    data = read_data(config, tokenizer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error
    with locked(folder, "asr train"):
        claim(folder, config, tokenizer, own_attention_name(attention), data)
        note_plain_path(attention)
        if data.num_empty:
            print_if_read(
                f"data.train: {data.num_empty} of {len(data.train)} texts are empty "
                "(they teach that nothing is said there)"
            )
        yield tokenizer, data


def _train_as_one(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer | None,
    attention: type[Attention] | None,
    team: Team,
    stage: str,
) -> int:
    """Train as one of the processes that torchrun has started."""
    if team.size > 1:
        use_one_thread()
    if team.leads:
        with _prepared(config, folder, tokenizer, attention) as (tokenizer, data):
            team.share(tokenizer)
            return _run(
                _trainer(config, folder, tokenizer, attention, data, team, stage)
            )
    shared = team.share(tokenizer)  # waits until the folder is claimed
    assert shared is not None
    data = read_data(config, shared)
    return _run(_trainer(config, folder, shared, attention, data, team, stage))


def _train_together(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer,
    attention: type[Attention] | None,
    stage: str,
) -> int:
    """Train in several processes; the first error of any of them is raised here.

    They ignore Ctrl-C, which reaches all of them at once, and stop by SIGTERM, which
    this one sends for either.

    Returns:
        The signal that came after the last update; 0 where none came.
    """
    _check_importable(attention)
    size = config.training.processes
    errors, stops = (get_context("spawn").SimpleQueue() for _ in range(2))
    with tempfile.TemporaryDirectory() as temporary:
        meeting_point = str(Path(temporary) / "meeting-point")
        found = (config, folder, tokenizer, attention, stage, errors, stops)
        context = spawn(  # type: ignore[no-untyped-call]
            _work, (size, meeting_point, *found), nprocs=size, join=False
        )

        def stop(number: int) -> None:
            for process in context.processes:
                process.terminate()

        try:
            with noted_signals(stop) as request:
                while not context.join():
                    pass
        except ProcessException as error:  # maybe of one that missed another
            if request.number and errors.empty():
                raise KeyboardInterrupt from error  # before there was what to save
            if not errors.empty():
                raise TrainingError(errors.get()) from error
            if isinstance(error, ProcessExitedException):
                raise TrainingError(
                    f"{folder}: a process of the training died ({error})"
                ) from error
            raise
        finally:
            for process in context.processes:
                process.kill()
    if not stops.empty():
        raise Stopped(request.number or signal.SIGTERM, stops.get())
    return request.number


def _check_importable(attention: type[Attention] | None) -> None:
    """Refuse a class that another process could not find by its name."""
    try:
        pickle.dumps(attention)
    except (pickle.PicklingError, AttributeError) as error:
        name = own_attention_name(attention)
        raise ConfigError(
            f"training.processes: other processes cannot import {name} (define the "
            "class at the top of a module)"
        ) from error


def _work(
    rank: int,
    size: int,
    meeting_point: str,
    config: Config,
    folder: Path,
    tokenizer: Tokenizer,
    attention: type[Attention] | None,
    stage: str,
    errors: Any,
    stops: Any,
) -> None:
    """Be one of the processes."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    use_one_thread()
    try:
        team = join_team(rank, size, meeting_point)
        data = read_data(config, tokenizer)
        try:
            _trainer(config, folder, tokenizer, attention, data, team, stage).run()
        except Stopped as stopped:
            if team.leads:
                stops.put(str(stopped))
        leave_team(team)
        status = 0
    except AsrError as error:
        errors.put(str(error))
        status = 1
    end_process(status)


def _trainer(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer,
    attention: type[Attention] | None,
    data: TrainingData,
    team: Team,
    stage: str,
) -> Trainer:
    train_set, dev_set = data.train, data.dev
    pick_precision(config.training.precision, pick_device(config.training.device))
    own = own_attention_name(attention)
    torch.manual_seed(config.training.seed)
    las_config = LASConfig(config.listener, config.attention, config.speller)
    las = LAS(las_config, tokenizer.size, attention)
    if (folder / CHECKPOINT).exists():
        taken = read_metadata(folder / CHECKPOINT).get("config", {}).get("taken", ())
    else:
        taken = ()
        if config.training.start:
            start = find_model(config.training.start)
            taken, matched = start_from(start, las, tokenizer, attention)
            if matched and team.leads:
                print_if_read(f"training.start: {start}: {matched}")
        else:
            plain = Dataset(spread(train_set.utterances, _MEASURED), tokenizer)
            las.norm.measure([plain.example(i).features for i in range(len(plain))])
    return Trainer(
        las,
        tokenizer,
        train_set,
        dev_set,
        (config.training, config.loss, config.schedule),
        folder=folder,
        run_config={
            **asdict(config),
            "tokenizer": tokenizer.to_dict(),
            "corpus": data.digests,
            **({"attention_class": own} if own else {}),
            **({"taken": sorted(taken)} if config.training.kept_rate != 1 else {}),
        },
        draw=_draw,
        team=team,
        corpus=_device_corpus(config, train_set, team),
        taken=taken,
        stage=stage,
    )


def _draw(path: Path, weights: Tensor, tokens: Sequence[str], waveform: Tensor) -> None:
    draw_attention(path, weights, tokens, waveform=waveform)


def _device_corpus(
    config: Config, train_set: Dataset, team: Team
) -> DeviceCorpus | None:
    """Make the training set a corpus on the device, if training takes fixed shapes."""
    training = config.training
    device = team.device(pick_device(training.device))
    is_better_without = config.no_fixed_shapes or device.type != "cuda"
    wanted = training.fixed_shapes
    if wanted == "never" or (wanted == "auto" and is_better_without):
        return None
    processes = max(1, len(os.sched_getaffinity(0)) // team.local_size)
    return DeviceCorpus(train_set, device, training.device_hours, processes)


def check(config: Config, folder: Path, before: Model | None = None) -> Model:
    """Refuse settings that a training cannot begin with, and train nothing.

    Args:
        config: all settings.
        folder: of the run.
        before: the model of the training before, which this one starts from; None
            where it is not known.

    Returns:
        The network that would be trained, with weights of chance.

    Raises:
        AsrError: a manifest or setting cannot be used.
    """
    if before:
        tokenizer = tokenizer_after(config, before.tokenizer)
    else:
        tokenizer = tokenizer_of(config, folder)
    read_data(config, tokenizer)
    las = check_network(config, tokenizer, before)
    return Model(las, tokenizer, {})


def check_network(config: Config, tokenizer: Tokenizer, before: Model | None) -> LAS:
    """Refuse a network that cannot be trained, or not on this machine.

    Args:
        config: all settings.
        tokenizer: of what it writes.
        before: the model that it starts from; None where it is not known.

    Returns:
        The network, with weights of chance.

    Raises:
        ConfigError: precision, device, a frozen part or the start cannot be.
    """
    training = config.training
    pick_precision(training.precision, pick_device(training.device))
    las_config = LASConfig(config.listener, config.attention, config.speller)
    las = LAS(las_config, tokenizer.size)
    freeze(las, training.freeze)
    if before:
        take_over(before, las, tokenizer, "training.start: the model before")
    return las
