import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from asr.data.corpora.entries import Kind
from asr.data.corpora.lhotse import read
from asr.data.exports import export
from asr.data.manifest import Utterance, write_manifest

Json = dict[str, Any]


def recording(channels: list[int]) -> Json:
    source = {"type": "file", "channels": channels, "source": "call.wav"}
    return {"id": "call", "sources": [source], "duration": 60.0}


def supervision(id: str, **further: Any) -> Json:
    line = {"id": id, "recording_id": "call", "start": 1.0, "duration": 2.0}
    return {**line, "text": "go", **further}


def write(folder: Path, name: str, *lines: Json) -> None:
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("are_cuts", [False, True])
def test_a_supervision_of_one_channel_of_several_is_listed(
    are_cuts: bool, tmp_path: Path
) -> None:
    supervisions = [
        supervision("ann", channel=0),
        supervision("bob", channel=1),
        supervision("both", channel=[0, 1]),
        supervision("any"),
    ]
    if are_cuts:
        cut = {"start": 0, "recording": recording([0, 1])}
        write(tmp_path, "cuts.jsonl", {**cut, "supervisions": supervisions})
    else:
        write(tmp_path, "recordings.jsonl", recording([0, 1]))
        write(tmp_path, "supervisions.jsonl", *supervisions)

    (subset,) = read(tmp_path)

    assert [entry.id for entry in subset.entries] == ["both", "any"]
    assert {problem.kind for problem in subset.problems} == {Kind.CHANNEL}
    whats = [problem.what.partition(": ")[2] for problem in subset.problems]
    assert whats == [
        f"{id} is of channel {number} of call.wav, which has 2 (make a file of each "
        "channel, the first one by: sox call.wav 0.wav remix 1)"
        for number, id in enumerate(["ann", "bob"])
    ]


@pytest.mark.parametrize(("channels", "kept"), [([0], 1), ([0, 1], 0)])
def test_a_supervision_is_of_the_channel_of_its_cut(
    channels: list[int], kept: int, tmp_path: Path
) -> None:
    cut = {"start": 0, "channel": 0, "recording": recording(channels)}
    write(tmp_path, "cuts.jsonl", {**cut, "supervisions": [supervision("ann")]})

    (subset,) = read(tmp_path)

    assert len(subset.entries) == kept
    assert len(subset.problems) == 1 - kept


def test_a_bad_supervision_of_a_cut_leaves_the_others(tmp_path: Path) -> None:
    cut = {"start": 0, "recording": recording([0])}
    lines = [supervision("a"), supervision("b", duration=None), supervision("c")]
    write(tmp_path, "cuts.jsonl", {**cut, "supervisions": lines})

    (subset,) = read(tmp_path)

    assert [entry.id for entry in subset.entries] == ["a", "c"]
    assert [problem.what for problem in subset.problems] == [
        f"{tmp_path}/cuts.jsonl:1: has no duration (seconds were expected)"
    ]


def test_an_export_says_that_all_channels_are_heard(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (SAMPLE_RATE, 2))
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE)
    utterances = [Utterance("a", str(tmp_path / "a.wav"), 1.0, "go")]
    write_manifest(tmp_path / "m.jsonl", utterances)
    export(tmp_path / "m.jsonl", tmp_path / "out", "lhotse")

    (subset,) = read(tmp_path / "out")

    assert [entry.id for entry in subset.entries] == ["a"]
