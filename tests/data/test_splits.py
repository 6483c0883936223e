import math
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.manifest import Utterance
from asr.data.splits import parse_shares, split
from asr.errors import ConfigError


def said(speaker: str, number: int, text: str = "", seconds: float = 1.0) -> Utterance:
    text = text or f"{speaker} {number}"
    return Utterance(f"{speaker}-{number}", "a.wav", seconds, text, speaker)


MANY = [said(f"s{i % 40}", i, seconds=1 + i % 3) for i in range(400)]


def test_parts_have_their_share_of_the_speech_and_no_common_speaker() -> None:
    parts = split(MANY, (80, 10, 10), "speaker")

    assert list(parts) == ["train", "dev", "test"]
    assert sorted(u.id for part in parts.values() for u in part) == sorted(
        u.id for u in MANY
    )
    speakers = [{u.speaker for u in part} for part in parts.values()]
    assert not speakers[0] & speakers[1]
    assert not speakers[0] & speakers[2]
    assert not speakers[1] & speakers[2]
    total = sum(u.duration for u in MANY)
    for part, share in zip(parts.values(), (0.8, 0.1, 0.1), strict=True):
        assert sum(u.duration for u in part) / total == pytest.approx(share, abs=0.03)


def test_the_same_corpus_is_split_the_same_whatever_its_order() -> None:
    shuffled = random.Random(1).sample(MANY, len(MANY))

    one, two = split(MANY, (90, 10), "speaker"), split(shuffled, (90, 10), "speaker")

    assert {u.id for u in one["dev"]} == {u.id for u in two["dev"]}
    assert [u.id for u in two["dev"]] == [u.id for u in shuffled if u in two["dev"]]


def test_another_seed_splits_otherwise() -> None:
    assert split(MANY, (90, 10), "speaker") != split(MANY, (90, 10), "speaker", seed=1)


def test_no_text_is_in_two_parts() -> None:
    utterances = [said(f"s{i % 4}", i, f"text {i // 4}") for i in range(80)]

    parts = split(utterances, (90, 5, 5), "text")

    where = defaultdict(set)
    for name, part in parts.items():
        for utterance in part:
            where[utterance.text].add(name)
    assert {len(names) for names in where.values()} == {1}
    assert all(parts.values())


def test_without_speakers_equal_texts_stay_together() -> None:
    utterances = [said("", i, f"text {i // 2}") for i in range(40)]

    parts = split(utterances, (80, 20), "speaker")

    assert not {u.text for u in parts["train"]} & {u.text for u in parts["dev"]}


def test_one_long_speaker_stays_in_training() -> None:
    utterances = [said("long", i) for i in range(500)]
    utterances += [said(name, i) for name in "abcdef" for i in range(8)]

    parts = split(utterances, (80, 10, 10), "speaker")

    assert {u.speaker for u in parts["train"]} >= {"long"}
    assert [len({u.speaker for u in parts[n]}) for n in ("dev", "test")] == [1, 1]


def test_as_many_speakers_as_parts_have_one_each() -> None:
    utterances = [said(name, i) for name in "abc" for i in range(5)]

    parts = split(utterances, (90, 5, 5), "speaker")

    assert [len(part) for part in parts.values()] == [5, 5, 5]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0.1, 100)), min_size=1),
    st.sampled_from([(90.0, 10.0), (1.0, 1.0), (80.0, 10.0, 10.0), (5.0, 5.0, 90.0)]),
)
def test_all_is_dealt_out_once(
    drawn: list[tuple[str, float]], shares: tuple[float, ...]
) -> None:
    utterances = [said(s, i, seconds=d) for i, (s, d) in enumerate(drawn)]
    if len({s for s, _ in drawn}) < len(shares):
        with pytest.raises(ConfigError, match="cannot be dealt out"):
            split(utterances, shares, "speaker")
        return

    parts = split(utterances, shares, "speaker")

    assert all(parts.values())
    assert math.fsum(len(part) for part in parts.values()) == len(utterances)
    speakers = [{u.speaker for u in part} for part in parts.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers))


def test_too_few_speakers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 speaker cannot .* 2 parts .*by text can"):
        split([said("a", 1), said("a", 2)], (90, 10), "speaker")
    with pytest.raises(ConfigError, match=r"1 text cannot be dealt out to 2 parts$"):
        split([said("a", 1, "GO"), said("b", 1, "GO")], (90, 10), "text")


def test_shares_are_read() -> None:
    assert parse_shares("90:5:5") == (90, 5, 5)
    assert parse_shares("0.9:0.1") == (0.9, 0.1)


@pytest.mark.parametrize(
    "text", ["", "90", "90:10:0", "1:2:3:4", "a:b", "-1:2", "inf:1"]
)
def test_impossible_shares_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--split {text}: two or three numbers"):
        parse_shares(text)
