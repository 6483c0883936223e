"""`asr ablate`: one difference a run."""

import json
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from asr.cli import main
from asr.config import Config, DataConfig, load_config, to_yaml
from asr.data.manifest import Utterance, write_manifest
from asr.errors import ConfigError
from asr.evaluation.ablation import read_plan
from asr.runs.material import chosen, digests
from asr.tensor_files import read_metadata, write_tensors
from asr.training.checkpoint import Place

Capture = pytest.CaptureFixture[str]
PLAN = """
config: configs/base.yaml
runs:
  base: []
  half a mile: [data.every=2]
  a quarter: [data.every=4, training.epochs=3]
scaling: [a quarter, half a mile, base]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    data = [Utterance(str(i), f"{i}.wav", 450.0, "A") for i in range(16)]
    write_manifest(tmp_path / "train.jsonl", data)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text(
        f"data: {{train: [{tmp_path}/train.jsonl], dev: {tmp_path}/dev.jsonl}}\n"
    )
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were called; each wrote what a training would have written."""
    called: list[list[str]] = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert how["env"]["OMP_NUM_THREADS"] == "1"
        called.append(command)
        folder = Path(command[5])
        if folder.name == "a-quarter" and "training.epochs=4" in command:
            how["stdout"].write(b"warming up \xff\nasr: the disk is full\n")
            return subprocess.CompletedProcess(command, 1)
        if folder.name == "a-quarter" and "training.epochs=5" in command:
            return subprocess.CompletedProcess(command, -9)
        finish(folder, load_config(command[4], command[6:]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return called


def finish(folder: Path, config: Config, epochs: int | None = None) -> None:
    """Write what a training leaves that has come to its end, or so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "metrics.jsonl").write_text(history(0.1 * config.data.every))
    place = Place(
        epoch=config.training.epochs if epochs is None else epochs,
        validations=config.training.validations,
    )
    metadata = {"place": asdict(place), "config": asdict(config)}
    write_tensors(folder / "checkpoint.safetensors", {}, metadata)


def history(rate: float) -> str:
    """Two validations, the first one better; the second one sees a diagonal."""
    looks = [
        {"step": 10, "progress": 0.5, "seconds": 60.0},
        {"step": 10, **look(rate, focus=0.4)},
        {"step": 20, "progress": 1.0, "seconds": 120.0},
        {"step": 20, **look(2 * rate, focus=0.6)},
    ]
    return "".join(json.dumps(line) + "\n" for line in looks)


def look(rate: float, focus: float) -> dict[str, float]:
    names = ("loss", "spelling_loss", "ctc_loss", "cer", "ctc_cer", "wer")
    rates = {f"dev/{name}": rate for name in names}
    return {**rates, "dev/focus": focus, "dev/monotony": 0.95}


def test_every_run_is_trained_with_its_own_settings_and_shown(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    assert main(["ablate", str(plan), str(tmp_path / "runs"), "--jobs", "1"]) == 0

    config = str(tmp_path / "configs" / "base.yaml")
    folders = [str(tmp_path / "runs" / n) for n in ("base", "half-a-mile", "a-quarter")]
    assert [command[2:] for command in trained] == [
        ["asr", "train", config, folders[0]],
        ["asr", "train", config, folders[1], "data.every=2"],
        ["asr", "train", config, folders[2], "data.every=4", "training.epochs=3"],
    ]
    printed = capsys.readouterr().out
    row = "| half a mile | `data.every=2` | 0.200 | 0.200 | 20.0 | 20.0 | 20.0 | 0.40 |"
    assert f"{row} 0.95 | 20 | 2 |" in printed
    assert "On 0.50, 1.00, 2.00 hours" in printed  # the rate is 0.2 / hours
    assert "CER = 20.0 % * hours ^ -1.000 (within a factor of 1.000" in printed
    assert "predicted: 0.2 % on 100 hours, 0.0 % on 960 hours" in printed


def test_what_is_finished_is_not_trained_again(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    arguments = [str(plan), str(tmp_path / "runs")]
    assert main(["ablate", *arguments, "base", "half a mile"]) == 0
    assert len(trained) == 2
    config = load_config(plan.parent / "configs" / "base.yaml")
    finish(tmp_path / "runs" / "base", config, epochs=1)
    assert "hours ^" not in capsys.readouterr().out  # two points fit any law

    assert main(["ablate", *arguments]) == 0

    assert sorted(command[5].rsplit("/")[-1] for command in trained[2:]) == [
        "a-quarter",
        "base",
    ]
    assert len(re.findall(r"^\| (base|half|a q)", capsys.readouterr().out, re.M)) == 3


def test_a_run_that_fails_does_not_stop_the_others(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    plan.write_text(PLAN.replace("epochs=3", "epochs=4"))

    assert main(["ablate", str(plan), str(tmp_path / "runs"), "--jobs", "1"]) == 1

    printed = capsys.readouterr()
    assert "| base |" in printed.out
    assert "a quarter |" not in printed.out
    assert (
        "asr: a quarter: asr: the disk is full (all that it printed is in"
        in printed.err
    )

    plan.write_text(PLAN.replace("epochs=3", "epochs=5"))
    assert main(["ablate", str(plan), str(tmp_path / "runs"), "--jobs", "1"]) == 1
    assert "a quarter: ended by signal 9 (all that it" in capsys.readouterr().err


def test_figures_of_another_corpus_are_not_shown_as_of_this(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    write_manifest(tmp_path / "dev.jsonl", [Utterance("d", "d.wav", 1.0, "A")])
    arguments = ["ablate", str(plan), str(tmp_path / "runs")]
    assert main(arguments) == 0
    path = tmp_path / "runs" / "base" / "checkpoint.safetensors"
    config = load_config(tmp_path / "runs" / "base" / "config.yaml")
    metadata = read_metadata(path)
    metadata["config"]["corpus"] = digests(config)
    write_tensors(path, {}, metadata)
    assert main(arguments) == 0

    manifest = tmp_path / "train.jsonl"
    manifest.write_text(manifest.read_text().replace('"A"', '"B"'))
    assert main(arguments) == 1
    assert "base: holds a run on another corpus than" in capsys.readouterr().err

    manifest.unlink()  # what is finished is true still
    assert read_plan(plan, tmp_path / "runs")


def test_figures_of_other_settings_are_not_shown_as_these(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    arguments = [str(plan), str(tmp_path / "runs")]
    assert main(["ablate", *arguments]) == 0
    plan.write_text(PLAN.replace("data.every=2", "training.seed=2"))

    assert main(["ablate", *arguments]) == 1

    printed = capsys.readouterr()
    assert "half-a-mile: holds a run with other settings (take another" in printed.err
    assert len(trained) == 3


def test_a_run_may_be_made_longer(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    arguments = [str(plan), str(tmp_path / "runs"), "a quarter"]
    assert main(["ablate", *arguments]) == 0
    plan.write_text(PLAN.replace("epochs=3", "epochs=7"))

    assert main(["ablate", *arguments]) == 0

    assert trained[1][-1] == "training.epochs=7"
    assert "| a quarter | `data.every=4` `training.epochs=7` |" in (
        capsys.readouterr().out
    )


def test_figures_of_a_longer_run_are_not_shown_as_of_a_shorter_one(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    arguments = [str(plan), str(tmp_path / "runs")]
    assert main(["ablate", *arguments]) == 0
    plan.write_text(PLAN.replace("epochs=3", "epochs=2"))

    assert main(["ablate", *arguments]) == 1

    assert "a-quarter: holds a run of 3 epochs, not 2 (" in capsys.readouterr().err


def test_hours_that_are_all_the_same_make_no_law(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    plan.write_text(re.sub(r"data\.every=\d", "training.seed=2", PLAN))
    assert main(["ablate", str(plan), str(tmp_path / "runs")]) == 0
    assert "hours ^" not in capsys.readouterr().out


def test_what_cannot_be_written_is_an_error(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    (tmp_path / "runs").write_text("a file")
    assert main(["ablate", str(plan), str(tmp_path / "runs"), "base"]) == 1
    assert "train.log cannot be written (" in capsys.readouterr().err
    assert trained == []


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("data.every=2", "data.every=0", "data.every must be at least 1, not 0"),
        ("data.every=2", "data.evry=2", "evry"),
        ("base: []", "base: 3", "base"),
        ("base: []", "half-a-mile: []", "runs: two would be in"),
        ("base: []", "../base: []", "not '../base'"),
        ("base: []", '"": []', "not ''"),
        ("data.every=2", '"data.every=["', "half a mile: data.every=[: is not"),
        ("[a quarter,", "[a third,", "scaling: there is no run 'a third'"),
        ("runs:", "rums:", "rums"),
        ("configs/base", "configs/nothing", "nothing.yaml: cannot be read"),
    ],
)
def test_a_plan_is_checked_before_anything_is_trained(
    plan: Path,
    tmp_path: Path,
    trained: list[list[str]],
    capsys: Capture,
    before: str,
    after: str,
    error: str,
) -> None:
    plan.write_text(PLAN.replace(before, after))

    assert main(["ablate", str(plan), str(tmp_path / "runs")]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("asr: ")
    assert error in printed
    assert printed.count("\n") == 1
    assert trained == []


def test_the_command_line_is_checked(
    plan: Path, tmp_path: Path, trained: list[list[str]], capsys: Capture
) -> None:
    runs = str(tmp_path / "runs")
    assert main(["ablate", str(tmp_path / "no.yaml"), runs]) == 1
    assert "no.yaml: cannot be read" in capsys.readouterr().err
    assert main(["ablate", str(plan), runs, "bass"]) == 1
    assert "has no run 'bass'" in capsys.readouterr().err
    assert main(["ablate", str(plan), runs, "--jobs", "0"]) == 1
    assert "jobs must be at least 1, not 0" in capsys.readouterr().err
    assert trained == []


def test_the_plan_that_is_here_is_one() -> None:
    path = Path(__file__).parents[2] / "recipes" / "librispeech" / "ablation.yaml"

    plan, runs = read_plan(path, Path("runs"))

    assert plan.scaling
    assert len({run.folder for run in runs}) == len(runs) > 10
    base = runs[0].config
    for run in runs[1:]:
        config = run.config
        assert config != base
        if run.name in plan.scaling:
            read = config.training.epochs / config.data.every
            assert read == base.training.epochs


def test_each_disturbance_is_tried_alone() -> None:
    path = Path(__file__).parents[2] / "recipes" / "librispeech" / "disturbances.yaml"

    _, (none, *others) = read_plan(path, Path("runs"))

    assert none.settings == []
    for run in others:
        same = replace(run.config, augment=none.config.augment)
        assert same == none.config
        assert run.config.augment != none.config.augment


def test_a_part_of_the_corpus_is_spread_over_it(plan: Path, tmp_path: Path) -> None:
    train = str(tmp_path / "train.jsonl")
    data = DataConfig([train], "dev.jsonl", every=5)
    assert [u.id for u in chosen(data)] == ["0", "5", "10", "15"]
    with pytest.raises(ConfigError, match="names no manifest"):
        chosen(DataConfig([], "dev.jsonl"))
