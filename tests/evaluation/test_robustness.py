import re
from types import SimpleNamespace

import pytest
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.manifest import Utterance
from asr.decoding.config import DecodingConfig
from asr.evaluation import robustness
from asr.evaluation.robustness import (
    CONDITIONS,
    SOUNDS,
    clear_without_speech,
    under_conditions,
    without_speech,
)
from asr.inference.recognizer import Recognizer
from asr.model.storage import Model


def test_all_conditions_are_tried(model: Model, utterances: list[Utterance]) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=1))

    found = under_conditions(recognizer, utterances[:2])

    rows = re.findall(r"^\| ([^|]+) \| (\d+\.\d) \| \d \|$", found, re.MULTILINE)
    assert [name for name, _ in rows] == list(CONDITIONS)
    assert rows[0][1] == rows[-1][1]  # loudness changes nothing


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_changes_a_recording_and_leaves_it_finite(name: str) -> None:
    speech = read_waveform("asr/assets/sample.opus")

    changed, _ = CONDITIONS[name]([speech, speech.flip(0)])

    assert changed.isfinite().all()
    if name != "as it is":
        same = len(changed) == len(speech) and torch.equal(changed, speech)
        assert not same


def test_noise_is_as_loud_as_its_name_says() -> None:
    torch.manual_seed(0)
    speech = read_waveform("asr/assets/sample.opus")

    (noisy,) = CONDITIONS["pink noise, 10 dB below"]([speech])

    ratio = speech.square().mean() / (noisy - speech).square().mean()
    assert 10 * ratio.log10() == pytest.approx(10.0, abs=0.1)


def test_other_voices_are_of_the_other_recordings_as_loud_as_the_name_says() -> None:
    torch.manual_seed(0)
    first, second, third = torch.randn(900), torch.randn(400), torch.randn(700)

    heard = CONDITIONS["four other voices, 10 dB below"]([first, second, third])

    for speech, disturbed in zip((first, second, third), heard, strict=True):
        behind = disturbed - speech
        ratio = speech.square().mean() / behind.square().mean()
        assert 10 * ratio.log10() == pytest.approx(10.0, abs=0.01)
    # Behind the first: the second and the third once each, then itself and the second.
    parts = [torch.cat((second, second, second[:100])), torch.cat((third, third[:200]))]
    parts += [first, parts[0]]
    sources = (second, third, first, second)
    expected = sum(
        part / source.square().mean().sqrt()
        for part, source in zip(parts, sources, strict=True)
    )
    behind = heard[0] - first
    assert torch.corrcoef(torch.stack((behind, torch.as_tensor(expected))))[
        0, 1
    ] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_silent_recording_leaves_the_others_finite(name: str) -> None:
    speech, silence = torch.randn(3200).clamp(-1, 1), torch.zeros(1600)

    for changed in CONDITIONS[name]([speech, silence]):
        assert changed.isfinite().all()
    for changed in CONDITIONS[name]([silence, silence]):
        assert changed.isfinite().all()


def test_words_in_sounds_without_speech_are_counted(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "LENGTHS", (1,))

    found = without_speech(Recognizer(model, DecodingConfig(beam_size=1)))

    rows = re.findall(r"^\| ([^|]+) \| \d+(?: \([a-z, ]+\))? \|$", found, re.MULTILINE)
    assert rows == list(SOUNDS)


def test_texts_of_sounds_are_as_clear_as_the_head_is_sure(model: Model) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=1))

    found = clear_without_speech(recognizer, 1)

    assert len(found) == len(SOUNDS)
    assert all(0.0 <= clear <= 1.0 for clear in found)
    assert found == clear_without_speech(recognizer, 1)


def test_where_nothing_is_found_nothing_is_clear(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=1))
    lengths = list[int]()

    def search(waveforms: list[torch.Tensor]) -> list[SimpleNamespace]:
        lengths.extend(map(len, waveforms))
        found = [SimpleNamespace(texts=["A"], clear=0.25) for _ in waveforms]
        return [*found[:-1], SimpleNamespace(texts=[""], clear=1.0)]

    monkeypatch.setattr(recognizer, "search", search)

    found = clear_without_speech(recognizer, 2)

    assert found == [0.25] * (len(SOUNDS) - 1) + [0.0]
    assert lengths == [2 * SAMPLE_RATE] * len(SOUNDS)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_is_neither_silence_nor_over_full_scale(name: str) -> None:
    times = torch.arange(SAMPLE_RATE) / SAMPLE_RATE

    sound = SOUNDS[name](times)

    assert sound.shape == times.shape
    assert 0.001 < float(sound.square().mean().sqrt()) < 0.5
