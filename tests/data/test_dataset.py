import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.dataset import Augmentation, Dataset, Example
from asr.data.manifest import Utterance
from asr.errors import AudioError, ManifestError
from asr.features import AugmentConfig, log_mel
from asr.text import CharTokenizer

TOKENIZER = CharTokenizer()
SECONDS = (0.5, 0.6, 0.7)
SPEEDS, MASKS = [0.9, 1.0, 1.1], AugmentConfig(speeds=[1.0])


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Three recordings of noise."""
    noise, utterances = np.random.default_rng(0), []
    for number, seconds in enumerate(SECONDS):
        path = tmp_path / f"{number}.wav"
        samples = noise.normal(0, 0.1, round(seconds * SAMPLE_RATE))
        soundfile.write(path, samples, SAMPLE_RATE)
        text = "GO ON"[: number + 2]
        utterances.append(Utterance(f"{number}", str(path), seconds, text, "A"))
    return utterances


def augmented(
    utterances: list[Utterance],
    config: AugmentConfig | None = None,
    seed: int = 1,
    cache_hours: float = 0.0,
) -> Dataset:
    config = config or AugmentConfig(speeds=SPEEDS)
    return Dataset(utterances, TOKENIZER, Augmentation(config, seed), cache_hours)


def assert_same(one: Example, other: Example) -> None:
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.tokens, other.tokens)


# Validation takes what is there


def test_validation_takes_the_recordings_as_they_are(
    utterances: list[Utterance],
) -> None:
    dataset = Dataset(utterances, TOKENIZER)

    assert len(dataset) == 3
    for index, utterance in enumerate(utterances):
        example = dataset.example(index, epoch=index, strength=1.0)
        waveform = read_waveform(utterance.audio)
        assert torch.equal(example.features, log_mel(waveform))
        assert example.tokens.tolist() == TOKENIZER.encode(utterance.text)
        assert example.tokens.dtype == torch.int64
        assert dataset.duration(index, epoch=index) == SECONDS[index]


# Invariance: chance is a function of (seed, epoch, utterance) alone


def test_an_example_is_a_function_of_seed_epoch_and_place(
    utterances: list[Utterance],
) -> None:
    places = [(index, epoch) for epoch in range(4) for index in range(3)]
    forwards = {place: augmented(utterances).example(*place) for place in places}

    other = augmented(utterances)
    random.seed(5)
    torch.manual_seed(5)

    for place in reversed(places):
        assert_same(other.example(*place), forwards[place])


def test_a_dataset_draws_no_chance_of_others(utterances: list[Utterance]) -> None:
    before, torch_before = random.getstate(), torch.get_rng_state()

    augmented(utterances).example(0)

    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize("change", ["seed", "epoch", "place"])
def test_another_seed_epoch_or_place_is_masked_otherwise(
    utterances: list[Utterance], change: str
) -> None:
    twice = [utterances[0], replace(utterances[0], id="again")]
    one = augmented(twice, MASKS)
    other = augmented(twice, MASKS, seed=2) if change == "seed" else one
    index, epoch = int(change == "place"), int(change == "epoch")

    assert not torch.equal(
        other.example(index, epoch).features, one.example(0, 0).features
    )


@pytest.mark.parametrize("change", ["seed", "epoch", "place"])
def test_another_seed_epoch_or_place_is_played_at_other_speeds(
    utterances: list[Utterance], change: str
) -> None:
    one = Augmentation(AugmentConfig(speeds=SPEEDS), seed=1)
    other = replace(one, seed=2) if change == "seed" else one
    place, epoch = int(change == "place"), int(change == "epoch")

    speeds = [one.speed(epoch=i, index=i) for i in range(60)]
    others = [other.speed(epoch=i + epoch, index=i + place) for i in range(60)]

    assert set(speeds) == set(others) == set(SPEEDS)
    assert speeds != others


def test_an_utterance_is_as_long_as_it_is_played(utterances: list[Utterance]) -> None:
    dataset = augmented(utterances)
    lengths = set()
    for epoch in range(9):
        example, seconds = dataset.example(1, epoch), dataset.duration(1, epoch)
        assert len(example.features) == pytest.approx(100 * seconds, abs=1.5)
        lengths.add(seconds)
    assert lengths == {0.6 / speed for speed in SPEEDS}


def test_masks_of_no_strength_hide_nothing(utterances: list[Utterance]) -> None:
    plain, masked = Dataset(utterances, TOKENIZER), augmented(utterances, MASKS)
    assert_same(masked.example(0, strength=0.0), plain.example(0))
    assert not torch.equal(masked.example(0).features, plain.example(0).features)


# The cache


def test_a_cache_changes_nothing(utterances: list[Utterance]) -> None:
    plain = augmented(utterances)
    cached = augmented(utterances, cache_hours=1.0)
    for epoch in range(3):
        for index in range(3):
            assert_same(cached.example(index, epoch), plain.example(index, epoch))


def test_a_cache_keeps_to_its_limit(utterances: list[Utterance]) -> None:
    dataset = Dataset(utterances, TOKENIZER, cache_hours=1.25 / 3600)
    examples = [dataset.example(index) for index in range(3)]
    for utterance in utterances:
        Path(utterance.audio).unlink()

    # 0.5 s and 0.6 s found room in 1.25 s; 0.7 s did not.
    assert_same(dataset.example(0), examples[0])
    assert_same(dataset.example(1), examples[1])
    with pytest.raises(AudioError, match=r"2\.wav: cannot be read"):
        dataset.example(2)


def test_nothing_is_kept_without_a_cache(utterances: list[Utterance]) -> None:
    dataset = Dataset(utterances, TOKENIZER)
    dataset.example(0)
    Path(utterances[0].audio).unlink()
    with pytest.raises(AudioError, match=r"0\.wav: cannot be read"):
        dataset.example(0)


def test_several_threads_may_ask_at_once(utterances: list[Utterance]) -> None:
    plain = augmented(utterances)
    cached = augmented(utterances, cache_hours=1.2 / 3600)
    indexes = [0, 1, 2] * 8

    with ThreadPoolExecutor(4) as pool:
        examples = list(pool.map(cached.example, indexes))

    for index, example in zip(indexes, examples, strict=True):
        assert_same(example, plain.example(index))


# Errors


def test_a_text_outside_the_alphabet_is_refused_by_id() -> None:
    stranger = Utterance("84-1-7", "a.wav", 1.0, "GO 2 IT")
    message = r"^84-1-7: '2' is not among .* \(tokenizer\.alphabet=auto lea"
    with pytest.raises(ManifestError, match=message):
        Dataset([stranger], TOKENIZER)


# Disturbances


DISTURBED = AugmentConfig(
    [0.9, 1.1], noise=0.5, babble=0.3, room=0.5, band=0.3, clipping=0.3, stretch=0.1
)


def test_a_disturbed_example_hangs_on_seed_epoch_and_utterance_alone(
    utterances: list[Utterance],
) -> None:
    wanted = [(epoch, index) for epoch in range(3) for index in range(3)]
    dataset = augmented(utterances, DISTURBED)
    in_order = {at: dataset.example(at[1], at[0]) for at in wanted}
    shuffled = augmented(utterances, DISTURBED, cache_hours=1.0)
    random.Random(0).shuffle(wanted)

    for epoch, index in wanted:
        again = shuffled.example(index, epoch)
        assert_same(again, in_order[epoch, index])
        other = augmented(utterances, DISTURBED, seed=2).example(index, epoch)
        assert not torch.equal(other.features, again.features)
    assert not torch.equal(in_order[0, 0].features, in_order[1, 0].features)


def test_without_strength_a_recording_is_not_disturbed(
    utterances: list[Utterance],
) -> None:
    plain = augmented(utterances, AugmentConfig([0.9, 1.1])).example(0, strength=0.0)

    assert_same(augmented(utterances, DISTURBED).example(0, strength=0.0), plain)


# Neighbours in one


def neighbours(
    utterances: list[Utterance], join: float = 1.0, speeds: tuple[float, ...] = (1.0,)
) -> Dataset:
    config = AugmentConfig(list(speeds), 0, 15, 0, 40, join=join)
    return augmented(utterances, config)


def test_an_utterance_goes_on_with_the_next_one(utterances: list[Utterance]) -> None:
    dataset = neighbours(utterances)

    joined = dataset.example(0)

    sound = torch.cat([dataset.waveform(0), dataset.waveform(1)])
    torch.testing.assert_close(joined.features, log_mel(sound))
    assert TOKENIZER.decode(joined.tokens.tolist()) == "GO GO "
    assert dataset.duration(0, 0) == pytest.approx(1.1)
    assert_same(dataset.example(2), Dataset(utterances, TOKENIZER).example(2))


def test_both_are_played_at_one_speed(utterances: list[Utterance]) -> None:
    dataset = neighbours(utterances, speeds=(0.9, 1.1))

    for epoch in range(4):
        assert dataset.augmentation is not None
        speed = dataset.augmentation.speed(epoch, 1)
        seconds = len(dataset.example(1, epoch).features) / 100
        assert seconds == pytest.approx(1.3 / speed, abs=0.02)
        assert dataset.duration(1, epoch) == pytest.approx(1.3 / speed)


def test_only_neighbours_of_a_speaker_go_together(utterances: list[Utterance]) -> None:
    voices = [
        replace(one, speaker=voice)
        for one, voice in zip(utterances, "AAB", strict=True)
    ]

    durations = [neighbours(voices).duration(index, 0) for index in range(3)]

    assert durations == pytest.approx([1.1, 0.6, 0.7])


def test_of_unknown_speakers_only_parts_of_a_recording_go_together(
    utterances: list[Utterance],
) -> None:
    parts = [
        replace(one, id=id, speaker="")
        for one, id in zip(utterances, ("talk-1", "talk-2", "clip"), strict=True)
    ]
    clips = [replace(one, id=f"clip_{one.id}", speaker="") for one in utterances]

    for some, expected in ((parts, [1.1, 0.6, 0.7]), (clips, [0.5, 0.6, 0.7])):
        durations = [neighbours(some).duration(index, 0) for index in range(3)]
        assert durations == pytest.approx(expected)


def test_two_that_no_batch_has_room_for_stay_apart(utterances: list[Utterance]) -> None:
    config = AugmentConfig([1.0], join=1.0)
    dataset = Dataset(utterances, TOKENIZER, Augmentation(config, 1, room=1.2))

    durations = [dataset.duration(index, 0) for index in range(3)]

    assert durations == pytest.approx([1.1, 0.6, 0.7])


def test_two_long_ones_stay_apart(
    utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.data.dataset.LONGEST_JOINED", 1.2)

    durations = [neighbours(utterances).duration(index, 0) for index in range(3)]

    assert durations == pytest.approx([1.1, 0.6, 0.7])


def test_a_share_of_them_is_joined_others_in_each_epoch() -> None:
    some = [Augmentation(AugmentConfig([1.0], join=0.3), seed=1)] * 2
    drawn = [
        [one.joins(epoch, index) for index in range(1000)]
        for epoch, one in enumerate(some)
    ]

    assert drawn[0] != drawn[1]
    assert all(0.25 < sum(row) / 1000 < 0.35 for row in drawn)


def test_an_empty_text_adds_nothing(utterances: list[Utterance]) -> None:
    silent = [replace(utterances[0], text=""), *utterances[1:]]

    joined = neighbours(silent).example(0)

    assert TOKENIZER.decode(joined.tokens.tolist()) == "GO "
