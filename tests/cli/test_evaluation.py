"""The commands that try a model: tune, calibrate, evaluate."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.cli import main
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.evaluation import robustness
from asr.inference.recognizer import Recognizer
from asr.model.storage import DECODING

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.1 * torch.randn(SAMPLE_RATE // 2).numpy(), SAMPLE_RATE)
    utterances = [Utterance(f"a-{i}", str(path), 0.5, "A B", "s") for i in range(3)]
    write_manifest(tmp_path / "dev.jsonl", utterances)
    return tmp_path / "dev.jsonl"


def test_tune_prints_a_row_a_combination_and_writes_nothing_unasked(
    manifest: Path, model_folder: Path, capsys: Capture
) -> None:
    given = ["decoding.lm_weight=0", "decoding.beam_size=1,2", "--processes", "1"]

    assert main(["tune", str(manifest), str(model_folder), *given]) == 0

    first, head, *rows, best, last = capsys.readouterr().out.rstrip("\n").split("\n")
    assert first == "2 combinations, 3 utterances, without a language model"
    assert head.split() == ["lm_weight", "beam_size", "seconds", "%WER"]
    assert [row.split()[:2] for row in rows] == [["0", "1"], ["0", "2"]]
    assert re.fullmatch(r"best: decoding\.lm_weight=0 decoding\.beam_size=[12]", best)
    assert last.endswith("decoding.json stays as it is (--write puts the best there)")
    assert not (model_folder / DECODING).exists()


def test_tune_writes_what_load_reads(
    manifest: Path, model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = ["decoding.beam_size=1", "decoding.eos_threshold=null", "--write"]
    table = ["--table", str(tmp_path / "table.json"), "--processes", "1"]

    assert main(["tune", str(manifest), str(model_folder), *given, *table]) == 0

    assert "eos_threshold=null" in capsys.readouterr().out
    loaded = Recognizer.load(model_folder).decoding
    assert (loaded.beam_size, loaded.eos_threshold) == (1, None)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["beam_size"] for row in rows] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decoding.beam=1,2"], "decoding.beam: is not a setting (did you mean beam_s"),
        (["decoding.ctc_weight=0.1,2"], "decoding.ctc_weight is a share from 0 to 1"),
        (["decoding.beam_size=1,"], "decoding.beam_size must be a whole number"),
        (["beam_size=1"], "beam_size=1: is not a setting (decoding.key=value was"),
        (["decoding.eos_threshold"], "decoding.eos_threshold: is not a setting (decod"),
        (["--utterances", "0"], "the number of utterances must be at least 1, not 0"),
        (["decoding.lm_weight=0", "--processes", "0"], "processes must be at least 1"),
        (["--language-model", "/none"], "/none: holds no language model"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(
    arguments: list[str],
    message: str,
    manifest: Path,
    model_folder: Path,
    capsys: Capture,
) -> None:
    assert main(["tune", str(manifest), str(model_folder), *arguments]) == 1

    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("asr: ")
    assert error.count("\n") == 1


def test_tune_needs_to_know_what_was_said(
    manifest: Path, model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    silent = tmp_path / "silent.jsonl"
    write_manifest(silent, [replace(one, text="") for one in read_manifest(manifest)])

    assert main(["tune", str(silent), str(model_folder)]) == 1

    assert "silent.jsonl: none of its utterances has a text" in capsys.readouterr().err


def test_calibrate_refuses_too_few_words(
    manifest: Path, model_folder: Path, capsys: Capture
) -> None:
    arguments = ["calibrate", str(manifest), str(model_folder), "--processes", "1"]

    assert main(arguments) == 1

    assert "(at least 100 are needed)" in capsys.readouterr().err


def test_evaluate_robustness_prints_two_tables(
    manifest: Path,
    model_folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(robustness, "LENGTHS", (1,))
    given = ["--model", str(model_folder), "--utterances", "1"]
    given += ["decoding.beam_size=1", "decoding.lm_weight=0"]

    assert main(["evaluate", "robustness", str(manifest), *given]) == 0

    printed = capsys.readouterr().out
    assert "| condition | %WER | taken for noise |" in printed
    assert "\n1 utterance\n" in printed
    assert "| words in | 1 s |" in printed


def test_evaluate_long_recordings_keeps_the_recording_where_asked(
    manifest: Path, model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = ["--model", str(model_folder), "--minutes", "0.03"]
    given += ["decoding.beam_size=1", "decoding.lm_weight=0"]
    arguments = ["evaluate", "long-recordings", str(manifest), *given]

    assert main(arguments) == 0
    path = tmp_path / "long.flac"
    assert main([*arguments, "--output", str(path)]) == 0

    assert capsys.readouterr().out.count("as a whole     %WER") == 2
    assert len(read_waveform(path)) > 1.8 * SAMPLE_RATE


def test_what_is_measured_on_is_not_overwritten(
    manifest: Path, model_folder: Path, capsys: Capture
) -> None:
    before = manifest.read_bytes()
    recording = read_manifest(manifest)[0].audio
    long = ["evaluate", "long-recordings", str(manifest), "-o"]
    tune = ["tune", str(manifest), str(model_folder), "--table", str(manifest)]

    for command in ([*long, str(manifest)], [*long, recording], tune):
        assert main(command) == 1
        line = f"asr: {command[-1]}: would be overwritten (name another file)\n"
        assert capsys.readouterr().err == line

    assert manifest.read_bytes() == before


def test_a_recording_of_no_length_is_refused(manifest: Path, capsys: Capture) -> None:
    arguments = ["evaluate", "long-recordings", str(manifest), "--minutes", "0"]

    assert main(arguments) == 1

    assert "--minutes must be above 0, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["tune", "none.jsonl", "las_mini"],
        ["calibrate", "none.jsonl", "las_mini"],
        ["evaluate", "robustness", "none.jsonl"],
        ["evaluate", "long-recordings", "none.jsonl"],
    ],
)
def test_a_missing_manifest_is_one_line(command: list[str], capsys: Capture) -> None:
    assert main(command) == 1

    error = capsys.readouterr().err
    assert error == "asr: none.jsonl: cannot be read (No such file or directory)\n"


def test_evaluate_wants_to_know_what(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate"])

    assert "MEASUREMENT" in capsys.readouterr().err


# Outputs are checked before the work


OUTPUTS = {
    "tune": ["tune", "{manifest}", "/none", "--table"],
    "explain": ["explain", "{manifest}", "--model", "/none", "--output"],
    "report": ["report", "/none", "/none", "--output"],
    "evaluate": [
        *("evaluate", "long-recordings", "{manifest}", "--model", "/none", "--output"),
    ],
    "demo": ["demo"],
}


@pytest.mark.parametrize("command", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("missing/file", "cannot be written ({folder}/missing is no folder)"),
        (".", "is a folder (name a file)"),
        ("dev.jsonl/file", "cannot be written ({folder}/dev.jsonl is no folder)"),
        ("a" * 300, "cannot be written (File name too long)"),
    ],
    ids=["missing", "folder", "file", "long"],
)
def test_an_output_that_cannot_be_is_reported_before_the_work(
    command: list[str], output: str, message: str, manifest: Path, capsys: Capture
) -> None:
    folder = manifest.parent
    arguments = [argument.format(manifest=manifest) for argument in command]

    status = main([*arguments, str(folder / output)])

    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith(f"asr: {folder}")
    assert error.endswith(f": {message.format(folder=folder)}\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", OUTPUTS.values(), ids=OUTPUTS)
def test_a_folder_that_is_read_only_is_reported_before_the_work(
    command: list[str], manifest: Path, tmp_path: Path, capsys: Capture
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    arguments = [argument.format(manifest=manifest) for argument in command]

    assert main([*arguments, str(closed / "file")]) == 1

    assert f"cannot be written ({closed} is read-only)" in capsys.readouterr().err
