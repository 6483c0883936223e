import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from asr.cli import main
from asr.data.manifest import Utterance, write_manifest

Capture = pytest.CaptureFixture[str]
SAID = Utterance("a", "a.flac", 1.0, "THE CAT SAT")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "noise.flac"
    stereo = 0.1 * torch.randn(44_100 // 2, 2).numpy()
    soundfile.write(path, stereo, 44_100)
    return path


def test_help_answers_without_torch() -> None:
    code = "import sys, asr.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "command", ["transcribe", "train", "decode", "score", "export", "demo", "doctor"]
)
def test_the_help_of_each_command_shows_an_example(
    command: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])

    assert f"example:\n  asr {command} " in capsys.readouterr().out


def test_transcribe_prints_a_line_for_a_file(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    assert main(["transcribe", str(recording), "--model", str(model_folder)]) == 0

    assert len(capsys.readouterr().out.rstrip("\n").split("\n")) == 1


def test_transcribe_goes_on_after_a_bad_file_and_says_so(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()

    status = main(
        ["transcribe", str(empty), str(recording), "--model", str(model_folder)]
    )

    printed = capsys.readouterr()
    assert status == 1
    assert printed.err.startswith(f"asr: {empty}: ")
    assert printed.err.count("\n") == 1
    assert printed.out.startswith(f"{recording}: ")


def test_transcribe_writes_a_page_and_the_nbest(
    model_folder: Path, recording: Path, tmp_path: Path, capsys: Capture
) -> None:
    page = tmp_path / "page.html"

    options = ["--model", str(model_folder), "--page", str(page), "--nbest", "2"]
    assert main(["transcribe", str(recording), *options]) == 0

    assert "data:image/png" in page.read_text(encoding="utf-8")
    assert len(capsys.readouterr().out.rstrip("\n").split("\n")) == 3


def test_a_page_is_of_one_file(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    two = [str(recording), str(recording)]

    assert (
        main(["transcribe", *two, "--page", "p.html", "--model", str(model_folder)])
        == 1
    )

    assert "one recording" in capsys.readouterr().err


def test_an_impossible_beam_is_one_line(
    model_folder: Path, recording: Path, capsys: Capture
) -> None:
    options = ["--model", str(model_folder), "--beam", "0"]

    assert main(["transcribe", str(recording), *options]) == 1

    message = "asr: decoding.beam_size must be at least 1, not 0\n"
    assert capsys.readouterr().err == message


def test_score_prints_the_word_error_rate(tmp_path: Path, capsys: Capture) -> None:
    said, heard = tmp_path / "said.jsonl", tmp_path / "heard.jsonl"
    write_manifest(said, [SAID])
    write_manifest(heard, [replace(SAID, text="THE BAT")])

    assert main(["score", str(said), str(heard), "--details", "--aligned"]) == 0

    printed = capsys.readouterr().out
    assert "%WER 66.67 [ 2 / 3, 0 ins, 1 del, 1 sub ]\n" in printed
    assert "CAT -> BAT" in printed
    assert "bootstrap over utterances" in printed


@pytest.mark.parametrize(
    ("said", "heard", "message"),
    [
        (
            "ab",
            "a",
            "heard.jsonl: 1 of 2 utterances have no hypothesis, the first is b",
        ),
        ("a", "ab", "heard.jsonl: 1 of its utterances are not in"),
    ],
)
def test_score_wants_the_same_utterances_in_both(
    said: str, heard: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    for name, ids in (("said", said), ("heard", heard)):
        path = tmp_path / f"{name}.jsonl"
        write_manifest(path, [replace(SAID, id=id) for id in ids])

    arguments = [str(tmp_path / "said.jsonl"), str(tmp_path / "heard.jsonl")]
    assert main(["score", *arguments]) == 1

    assert message in capsys.readouterr().err


def test_a_fault_is_one_line_and_no_traceback(tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "missing.jsonl"

    assert main(["score", str(missing), str(missing)]) == 1

    message = f"asr: {missing}: cannot be read (No such file or directory)\n"
    assert capsys.readouterr().err == message


def test_export_halves_a_model(
    model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["export", str(model_folder), str(tmp_path / "half")]) == 0

    whole = (model_folder / "model.safetensors").stat().st_size
    half = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert half < 0.6 * whole
    assert '"step": 7' in (tmp_path / "half" / "model.json").read_text()
    capsys.readouterr()
