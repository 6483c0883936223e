"""The tool that decodes a manifest with an exported model."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.cli.scripts import run_main
from asr.data.manifest import Utterance
from tools.decode_onnx import main, waveform


def test_a_part_of_a_recording_is_read_as_that_part(tmp_path: Path) -> None:
    samples = np.arange(16_000, dtype=np.float32) / 32_000
    soundfile.write(tmp_path / "talk.wav", samples, 16_000, subtype="FLOAT")
    path = str(tmp_path / "talk.wav")

    part = waveform(Utterance("a", path, 0.25, "A", start=0.5))
    whole = waveform(Utterance("b", path, 1.0, "B"))

    np.testing.assert_array_equal(part, samples[8000:12_000])
    np.testing.assert_array_equal(whole, samples)


def test_a_folder_without_an_export_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [tmp_path, tmp_path / "dev.jsonl", tmp_path / "out.jsonl"]
    monkeypatch.setattr(sys, "argv", ["decode_onnx", *map(str, given)])

    assert run_main("decode_onnx", main) == 1

    printed = capsys.readouterr().err
    assert printed.startswith(
        f"decode_onnx: {tmp_path}: holds no model for onnxruntime"
    )
    assert printed.count("\n") == 1
