import gc
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr.cli import main
from asr.config import Config, DataConfig, load_config, to_yaml
from asr.errors import AsrError, CheckpointError, ConfigError, InUseError
from asr.locks import locked
from asr.model.storage import find_model, load_model, stage_folders
from asr.stages import _free_memory, are_finished, train_stages
from asr.tokenizers import TokenizerConfig
from asr.train import train, train_once
from asr.training.metrics import read_metrics
from asr.training.stopping import Stopped
from asr.training.trainer import Trainer
from tests.training.test_trainer import (
    PowerCut,
    assert_same,
    assert_same_run,
    cut_off,
    draw_nothing,
    place,
    settings,
    signal_at,
    weights_of_model,
    write_corpus,
)

ROOT = Path(__file__).parents[1]
slow = pytest.mark.slow
STEPS = 4  # of a stage: an epoch of 8 utterances, 2 at a time
TEXTS = ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", TEXTS)
    write_corpus(folder, "dev", ["GO AT", "SEE", "IT"])
    return folder


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than such a training."""
    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
    monkeypatch.setattr("asr.stages._free_memory", lambda: None)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def staged(corpus: Path, **training: Any) -> list[Config]:
    """Three stages of an epoch; the listener grows in the second, and then stays."""
    first = settings(corpus, epochs=1, validations=1, **training)
    wider = replace(first, listener=replace(first.listener, size=6))
    slower = replace(wider, schedule=replace(wider.schedule, learning_rate=1e-4))
    return [first, wider, slower]


def changed(config: Config, section: str, **values: Any) -> Config:
    """The same with other values in one section."""
    return replace(config, **{section: replace(getattr(config, section), **values)})


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `staged(corpus)`, in one go."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch)
        train_stages(staged(corpus), folder)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def assert_same_stages(folder: Path, whole: Path) -> None:
    assert stage_folders(folder).keys() == stage_folders(whole).keys()
    for number, stage in stage_folders(folder).items():
        assert_same_run(stage, stage_folders(whole)[number])


# What a run in stages is


def test_each_stage_is_the_training_that_starts_from_the_one_before(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    before: Path | None = None
    for number, config in enumerate(staged(corpus), 1):
        start = before and str(before)
        ours = tmp_path / str(number)

        train(changed(config, "training", start=start), ours)

        assert_same_run(whole / f"stage-{number}", ours)
        before = ours


def test_a_stage_is_a_run_with_its_settings(corpus: Path, whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        *("stage-1", "stage-2", "stage-3")
    ]
    second = load_config(whole / "stage-2" / "config.yaml")
    start = str(whole / "stage-1")
    assert second == changed(staged(corpus)[1], "training", start=start)
    assert load_model(whole / "stage-2" / "model").las.config.listener.size == 6


def test_the_first_stage_may_start_from_a_model(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    first = changed(staged(corpus)[0], "training", start=str(whole / "stage-1"))

    train_stages([first], tmp_path)

    train(first, tmp_path / "plain")
    assert_same_run(tmp_path / "stage-1", tmp_path / "plain")


def test_the_lines_of_a_training_name_the_stage(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    train_stages(staged(corpus)[:2], run)

    lines = capfd.readouterr().out.splitlines()
    assert [line.split(" | update")[0] for line in lines] == [
        f"stage 1 of 2: {run}/stage-1, from nothing",
        "stage 1 of 2 | 100.0 %",
        f"stage 2 of 2: {run}/stage-2, from {run}/stage-1",
        "stage 2 of 2 | 100.0 %",
    ]


def test_what_a_stage_held_in_memory_is_gone_when_the_next_begins(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.stages._free_memory", _free_memory)
    make, kept = Trainer.__init__, list[weakref.ref[Trainer]]()

    def make_and_note(self: Trainer, *args: Any, **kwargs: Any) -> None:
        assert not [trainer for trainer in kept if trainer()]
        kept.append(weakref.ref(self))
        make(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", make_and_note)

    gc.disable()  # it would find it, sooner or later
    try:
        train_stages(staged(corpus)[:2], tmp_path)
    finally:
        gc.enable()

    assert len(kept) == 2


# The whole as a model


def test_a_run_is_the_model_of_its_last_stage_that_has_one(run: Path) -> None:
    assert find_model(run) == run / "stage-3" / "model"

    shutil.rmtree(run / "stage-3" / "model")
    assert find_model(run) == run / "stage-2" / "model"

    shutil.copytree(run / "stage-2", run / "stage-10")  # the tenth is after the second
    assert find_model(run) == run / "stage-10" / "model"


def test_what_is_called_otherwise_is_no_stage(run: Path) -> None:
    for name in ("stage-", "stage-0", "stage-4.old", "my-stage-4", "stage-4"):
        (run / name).mkdir()
    (run / "stage-5").write_text("a file")

    assert list(stage_folders(run)) == [1, 2, 3, 4]
    assert stage_folders(run / "none") == stage_folders(Path("\0")) == {}
    shutil.rmtree(run / "stage-4")
    assert find_model(run) == run / "stage-3" / "model"


def test_without_a_model_a_run_in_stages_is_none(tmp_path: Path) -> None:
    (tmp_path / "stage-1").mkdir()

    with pytest.raises(CheckpointError, match="holds no model"):
        find_model(tmp_path)


def test_the_metrics_are_those_of_a_stage(run: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"run: holds a run in stages \(name one of them: .*/run/stage-3\)$",
    ):
        read_metrics(run)

    assert read_metrics(run / "stage-3").steps


# A run that was stopped goes on where it was


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_that_was_stopped_goes_on_in_its_stage(
    corpus: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    stage: int,
) -> None:
    if stage == 2:
        train_stages(staged(corpus)[:1], tmp_path)
    with monkeypatch.context() as patch:
        signal_at(patch, 2, signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped after update 3, with a") as caught:
            train_stages(staged(corpus), tmp_path)
    assert caught.value.status == 143
    assert list(stage_folders(tmp_path)) == list(range(1, stage + 1))
    assert place(tmp_path / f"stage-{stage}")["step"] == 3
    capfd.readouterr()

    train_stages(staged(corpus), tmp_path)

    assert_same_stages(tmp_path, whole)
    lines = [line for line in capfd.readouterr().out.splitlines() if "|" not in line]
    assert lines == [
        *(f"stage {n} of 3: was finished before" for n in range(1, stage)),
        f"stage {stage} of 3: goes on in {tmp_path}/stage-{stage}",
        *(
            f"stage {n} of 3: {tmp_path}/stage-{n}, from {tmp_path}/stage-{n - 1}"
            for n in range(stage + 1, 4)
        ),
    ]


def test_a_signal_after_the_last_update_of_a_stage_keeps_the_next_from_beginning(
    corpus: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        signal_at(patch, STEPS, signal.SIGINT)
        with pytest.raises(Stopped, match="stopped after stage 1 of 3: the same com"):
            train_stages(staged(corpus), tmp_path)
    assert_same_run(tmp_path / "stage-1", whole / "stage-1")
    assert list(stage_folders(tmp_path)) == [1]

    train_stages(staged(corpus), tmp_path)

    assert_same_stages(tmp_path, whole)


def test_after_the_last_update_of_all_it_lets_the_run_finish(
    run: Path, whole: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run / "stage-3")
    signal_at(monkeypatch, STEPS, signal.SIGINT)

    train_stages(staged(corpus), run)

    assert_same_stages(run, whole)


def test_a_stage_without_a_checkpoint_begins_anew(
    corpus: Path, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run / "stage-2")
    shutil.rmtree(run / "stage-3")
    with monkeypatch.context() as patch:
        cut_off(patch, "asr.training.plain_updates.losses", 2)
        with pytest.raises(PowerCut):
            train_stages(staged(corpus), run)
    assert (run / "stage-2" / "config.yaml").exists()
    assert not (run / "stage-2" / "checkpoint.safetensors").exists()

    train_stages(staged(corpus), run)

    assert_same_stages(run, whole)


def test_a_stage_that_is_over_is_not_trained_again(corpus: Path, run: Path) -> None:
    def written() -> dict[Path, int]:
        paths = [*(run / "stage-1").rglob("*"), *(run / "stage-2").rglob("*")]
        return {path: path.stat().st_mtime_ns for path in paths}

    before = written()
    shutil.rmtree(run / "stage-3")

    train_stages(staged(corpus), run)

    assert written() == before
    assert are_finished(staged(corpus), run)


def test_nor_is_one_whose_folder_is_gone(corpus: Path, run: Path) -> None:
    shutil.rmtree(run / "stage-1")
    (run / "stage-2" / "config.yaml").unlink()

    train_stages(staged(corpus), run)

    assert list(stage_folders(run)) == [2, 3]


def test_a_run_that_has_moved_goes_on(
    corpus: Path, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run / "stage-3")
    with monkeypatch.context() as patch:
        signal_at(patch, 1, signal.SIGTERM)
        with pytest.raises(Stopped):
            train_stages(staged(corpus), run)
    moved = run.rename(run.with_name("moved"))

    train_stages(staged(corpus), moved)

    assert_same_stages(moved, whole)


def test_the_last_stage_may_become_longer_and_be_followed_by_another(
    corpus: Path, run: Path
) -> None:
    stages = staged(corpus)
    stages[2] = changed(stages[2], "training", epochs=2)
    assert not are_finished(stages, run)

    train_stages(stages, run)
    assert place(run / "stage-3")["step"] == 2 * STEPS

    train_stages([*stages, stages[1]], run)
    assert are_finished([*stages, stages[1]], run)
    assert find_model(run) == run / "stage-4" / "model"


def test_a_folder_is_for_one_run_in_stages_at_a_time(corpus: Path, run: Path) -> None:
    with locked(run, "asr train"), pytest.raises(InUseError, match="run: is in use"):
        train_stages(staged(corpus), run)


def test_the_vocabulary_of_subwords_is_that_of_the_first_stage(
    corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "others"
    folder.mkdir()
    texts = ["SEA TEA", "SAW TEA", "TIDE", "US USE", "GO", "GOWN ON"]
    write_corpus(folder, "train", texts)
    first = replace(staged(corpus)[0], tokenizer=TokenizerConfig("subwords", 16))
    second = changed(first, "data", train=[str(folder / "train.jsonl")])

    train_stages([first, second], tmp_path / "run")

    one, two = (load_model(tmp_path / "run" / f"stage-{n}" / "model") for n in (1, 2))
    assert one.tokenizer == two.tokenizer != first.tokenizer.make(texts)


# What is refused, before the first stage begins


Change = Callable[[Config, Path], Config]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config, _: changed(config, "speller", size=5),
            r"training.start: the model before holds another network .*speller.size",
        ),
        (
            lambda config, _: changed(config, "listener", size=4),
            "listener.size was 6 and cannot shrink to 4",
        ),
        (
            lambda config, _: changed(config, "training", freeze=["lisener"]),
            r"training.freeze: lisener: is no part of the network \(did you mean li",
        ),
        (
            lambda config, folder: changed(config, "data", dev=str(folder / "n.jsonl")),
            r"n.jsonl: cannot be read",
        ),
        (
            lambda config, _: changed(config, "data", train=[config.data.dev]),
            "3 of its utterances are in the training set",
        ),
        (
            lambda config, _: changed(config, "training", batch_seconds=0.5),
            r"training.batch_seconds: train-\d is",
        ),
        (
            lambda config, _: changed(config, "training", precision="float8"),
            "precision float8",
        ),
        (
            lambda config, _: replace(
                config, tokenizer=TokenizerConfig("subwords", 16)
            ),
            "the model before has another tokenizer",
        ),
    ],
)
def test_what_the_last_stage_could_not_begin_with_is_refused_at_once(
    corpus: Path, tmp_path: Path, change: Change, message: str
) -> None:
    stages = staged(corpus)
    stages[2] = change(stages[2], tmp_path)

    with pytest.raises(AsrError, match=f"^stage 3: .*{message}"):
        train_stages(stages, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_other_settings_of_a_stage_that_is_over_are_refused(
    corpus: Path, run: Path
) -> None:
    stages = staged(corpus)
    stages[0] = changed(stages[0], "training", epochs=2)
    stages[0] = changed(stages[0], "schedule", learning_rate=0.1)

    with pytest.raises(
        ConfigError,
        match=r"run/stage-1: stage 1 is over, with other settings of schedule."
        r"learning_rate, training.epochs \(bring them back; stages.2.key=value sets",
    ):
        train_stages(stages, run)


def test_those_of_the_machine_may_be_others(corpus: Path, run: Path) -> None:
    others = {"device": "auto", "cache_hours": 1.0, "checkpoint_minutes": 9.0}
    stages = [changed(stage, "training", **others) for stage in staged(corpus)]

    train_stages(stages, run)

    assert load_config(run / "stage-3" / "config.yaml").training.cache_hours == 1.0


def test_a_stage_goes_on_with_its_own_settings_only(corpus: Path, run: Path) -> None:
    stages = staged(corpus)
    stages[2] = changed(stages[2], "training", seed=9)

    with pytest.raises(ConfigError, match=r"stage-3: .* other settings of training.s"):
        train_stages(stages, run)


def test_a_corpus_may_move_when_a_stage_is_over(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(corpus, tmp_path / "moved"))
    data = DataConfig([str(moved / "train.jsonl")], str(moved / "dev.jsonl"))
    stages = [replace(stage, data=data) for stage in staged(corpus)]

    train_stages(stages, run)

    lines = (moved / "train.jsonl").read_text().splitlines(keepends=True)
    (moved / "train.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(ConfigError, match=r"stage 1 is over, .* of data.train, data.d"):
        train_stages(stages, run)


def test_a_run_without_stages_is_no_run_in_stages(corpus: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage-1: holds a run without stages"):
        train_stages(staged(corpus), run / "stage-1")
    with pytest.raises(ConfigError, match=r"model: holds a run without stages, or a m"):
        train_stages(staged(corpus), run / "stage-1" / "model")
    with pytest.raises(ConfigError, match=r"run: holds a run in stages \(take another"):
        train(staged(corpus)[0], run)


def test_a_run_with_more_stages_is_another(corpus: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage-3: is of a run with more than 2 sta"):
        train_stages(staged(corpus)[:2], run)


def test_a_folder_that_cannot_be_made_is_reported(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run: cannot be made \(Not a dir"):
        train_stages(staged(corpus), tmp_path / "file" / "run")


# On the command line


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path) -> Path:
    """The settings of `staged` in a file."""
    path = tmp_path / "las.yaml"
    path.write_text(
        to_yaml(staged(corpus)[0])
        + "stages:\n- {}\n- listener: {size: 6}\n"
        + "- listener: {size: 6}\n  schedule: {learning_rate: 0.0001}\n"
    )
    return path


def test_asr_train_does_all_stages(
    recipe: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    assert main(["train", str(recipe), str(run)]) == 0
    assert_same_stages(run, whole)
    assert capsys.readouterr().err == ""

    assert main(["train", str(recipe), str(run)]) == 0
    assert capsys.readouterr().err == (
        f"asr: {run}: was finished before (a larger stages.3.training.epochs or "
        "stages.3.training.minutes trains longer)\n"
    )
    assert_same(weights_of_model(run / "stage-3"), weights_of_model(whole / "stage-3"))


def test_a_stage_that_was_stopped_is_named(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signal_at(monkeypatch, 2, signal.SIGINT)

    assert main(["train", str(recipe), str(tmp_path / "run")]) == 130

    assert f"asr: {tmp_path}/run/stage-1: stopped after" in capsys.readouterr().err


def test_a_wrong_setting_of_a_stage_is_reported_in_a_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(recipe), str(tmp_path / "run")]

    assert main([*arguments, "stages.3.speller.size=9"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("asr: stage 3: training.start: the model before holds an")
    assert not (tmp_path / "run").exists()


# Several processes


@slow
def test_two_processes_train_in_stages_and_stop_between_them(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, once = staged(corpus, processes=2)[:2], list[int]()
    train_stages(stages, tmp_path / "whole")

    def train_and_signal(*args: Any, **kwargs: Any) -> int:
        """As if the signal came after the last update."""
        found = train_once(*args, **kwargs)
        once.append(found)
        return signal.SIGTERM if len(once) == 1 else found

    with monkeypatch.context() as patch:
        patch.setattr("asr.stages.train_once", train_and_signal)
        with pytest.raises(Stopped, match="stopped after stage 1 of 2"):
            train_stages(stages, tmp_path / "run")
    train_stages(stages, tmp_path / "run")

    assert once == [0]
    assert_same_stages(tmp_path / "run", tmp_path / "whole")


@slow
def test_processes_of_torchrun_train_in_stages(
    recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    """They are the same processes in all stages, and give what local ones give."""
    local, ours = tmp_path / "local", tmp_path / "torchrun"
    train_stages(staged(corpus, processes=2), local)

    shutil.copytree(local / "stage-1", ours / "stage-1")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "asr", "train", str(recipe), str(ours)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert_same_stages(ours, local)
    assert [line for line in done.stdout.splitlines() if "|" not in line] == [
        "stage 1 of 3: was finished before",
        f"stage 2 of 3: {ours}/stage-2, from {ours}/stage-1",
        f"stage 3 of 3: {ours}/stage-3, from {ours}/stage-2",
    ]
