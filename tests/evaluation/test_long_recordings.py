import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.audio import SAMPLE_RATE, encode
from asr.data.manifest import Utterance
from asr.decoding.config import DecodingConfig
from asr.evaluation import long_recordings
from asr.evaluation.long_recordings import Joined, join_utterances, report
from asr.inference.recognizer import Recognizer
from asr.model.storage import Model
from asr.scoring import ErrorRate


def test_a_long_recording_is_made_of_chapters_in_their_order(
    utterances: list[Utterance],
) -> None:
    joined = join_utterances(utterances, 1000.0)

    ids = [utterance.id for utterance in joined.utterances]
    assert sorted(ids) == sorted(utterance.id for utterance in utterances)
    chapters = [id.rsplit("-", 1)[0] for id in ids]
    assert len([a for a, b in itertools.pairwise(chapters) if a != b]) == 3
    for begin, waveform in zip(joined.begins, joined.waveforms, strict=True):
        first = round(begin * SAMPLE_RATE)
        there = joined.waveform[first : first + len(waveform)]
        assert torch.equal(there, waveform)
    assert 6 * 1.2 <= len(joined.waveform) / SAMPLE_RATE <= 6 * 2.5


def test_no_more_utterances_are_taken_than_needed(utterances: list[Utterance]) -> None:
    assert len(join_utterances(utterances, 2.0).utterances) == 2


def test_a_long_recording_is_reported(
    utterances: list[Utterance], model: Model, tmp_path: Path
) -> None:
    joined = join_utterances(utterances, 3.0)
    path = tmp_path / "long.flac"
    path.write_bytes(encode(joined.waveform, "flac"))

    printed = report(joined, path, Recognizer(model, DecodingConfig(beam_size=1)))

    assert len(re.findall(r"%WER", printed)) == 2
    assert re.search(r"real-time factor \d", printed)
    assert len(re.findall(r"start [+-]\d\.\d{3} s, 80 % within", printed)) == 3


def test_a_model_that_finds_no_words_is_reported(
    utterances: list[Utterance], model: Model, tmp_path: Path
) -> None:
    silent = [torch.zeros(SAMPLE_RATE)]
    joined = Joined(silent[0], [replace(utterances[0], text="")], silent, [0.0])
    path = tmp_path / "long.flac"
    path.write_bytes(encode(joined.waveform, "flac"))

    printed = report(joined, path, Recognizer(model, DecodingConfig(beam_size=1)))

    assert printed.count("start (no words)   end (no words)") == 3
    assert "as a whole     %WER 0.00" in printed


@pytest.mark.parametrize(
    ("alone", "whole", "ratio"), [(0, 0, "1.000"), (0, 3, "inf"), (2, 3, "1.500")]
)
def test_errors_of_the_whole_only_are_no_ratio_of_one(
    alone: int,
    whole: int,
    ratio: str,
    utterances: list[Utterance],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined = join_utterances(utterances, 1.0)
    path = tmp_path / "long.flac"
    path.write_bytes(encode(joined.waveform, "flac"))
    rates = iter([ErrorRate(alone, 0, 0, 9), ErrorRate(whole, 0, 0, 9)])
    monkeypatch.setattr(long_recordings, "word_error_rate", lambda *_: next(rates))

    printed = report(joined, path, Recognizer(model, DecodingConfig(beam_size=1)))

    assert f"{whole} sub ] ({ratio})" in printed
