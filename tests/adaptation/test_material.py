"""What a model is adapted to."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from asr.adaptation.material import (
    DECODED_SECONDS,
    HELD_SECONDS,
    Material,
    hold_out,
    read_material,
    speakers,
)
from asr.data.manifest import Utterance, write_manifest
from asr.errors import ConfigError, ManifestError


def utterances(
    number: int, names: str = "abcd", text: str = "GO {}", seconds: float = 6.0
) -> list[Utterance]:
    return [
        Utterance(
            f"u{n}", f"{n}.wav", seconds, text.format(n), names[n % len(names) :][:1]
        )
        for n in range(number)
    ]


def written(folder: Path, **parts: Sequence[Utterance]) -> Path:
    for name, some in parts.items():
        write_manifest(folder / f"{name}.jsonl", some)
    return folder


def test_a_folder_is_taken_as_it_was_prepared(tmp_path: Path) -> None:
    train, dev = utterances(8, text="GO"), utterances(3, "x", text="ON")
    dev = [Utterance(f"d{u.id}", u.audio, 6.0, "ON", "x") for u in dev]
    material = read_material(written(tmp_path, train=train, dev=dev, test=dev))

    assert [u.id for u in material.train] == [u.id for u in train]
    assert [u.id for u in material.dev] == [u.id for u in dev]
    assert material.test == tmp_path / "test.jsonl"
    assert not material.split_here
    assert material.hours == pytest.approx(8 * 6 / 3600)


def test_speakers_are_held_out_where_nothing_is(tmp_path: Path) -> None:
    material = read_material(written(tmp_path, train=utterances(40)))

    assert material.split_here
    assert material.test is None
    assert len(material.train) + len(material.dev) == 40
    assert len(speakers(material.dev)) == 1
    assert not speakers(material.train) & speakers(material.dev)
    again = read_material(tmp_path / "train.jsonl")
    assert again.dev == material.dev


def test_of_one_speaker_texts_are_held_out() -> None:
    twice = [*utterances(20, "a"), *utterances(20, "a")]
    train, dev = hold_out(twice, Path("x"))

    assert len(train) == 36
    assert len(dev) == 4
    assert not {u.text for u in train} & {u.text for u in dev}


def test_not_more_than_half_an_hour_is_held_out() -> None:
    many = utterances(3000, "".join(map(chr, range(500, 1000))), seconds=10.0)

    _, dev = hold_out(many, Path("x"))

    assert HELD_SECONDS * 0.9 < sum(u.duration for u in dev) <= HELD_SECONDS


def test_what_is_decoded_is_no_more_than_that_either() -> None:
    material = Material(utterances(2), utterances(3000), " ", None, False)

    assert len(material.decoded()) == DECODED_SECONDS / 6
    few = Material(utterances(2), utterances(30), " ", None, False)
    assert few.decoded() == few.dev


def test_an_alphabet_file_adds_what_no_text_has(tmp_path: Path) -> None:
    (tmp_path / "alphabet.txt").write_text("aäz", encoding="utf-8")
    folder = written(tmp_path, train=utterances(40, text="ha {}"))

    assert read_material(folder).alphabet == " 0123456789ahzä"


def test_what_there_is_is_described() -> None:
    train = utterances(1200, text="GO")
    lines = Material(train, utterances(20, "az", text="ÄH"), " GOÄH", None, False)
    assert lines.describe() == [
        "to learn from: 2.0 h, 1200 utterances of 4 speakers",
        "held out: 2.0 min, 20 utterances of 2 speakers",
        "the texts have 5 characters: ␣GOÄH",
        "1 of the 2 speakers that are held out are learned from, too: for others less "
        "may be gained",
    ]


def test_characters_that_are_hardly_learned_are_named() -> None:
    train = [*utterances(60, text="GO"), *utterances(3, text="ЖЖ")]
    material = Material(train, utterances(2, "z"), " GOЖ", None, True)

    assert material.describe()[1] == "held out here: 12.0 s, 2 utterances of 1 speaker"
    assert material.describe()[-1] == "written less than 20 times, hardly learned: Ж"


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"holds no train\.jsonl \(asr prepare .* --split"
    ):
        read_material(tmp_path)


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.jsonl: cannot be read"):
        read_material(tmp_path / "gone.jsonl")
    with pytest.raises(ManifestError, match=r"other\.jsonl: cannot be read"):
        read_material(written(tmp_path, train=utterances(4)), tmp_path / "other.jsonl")


@pytest.mark.parametrize("name", ["train", "dev"])
def test_utterances_without_a_text_are_refused(tmp_path: Path, name: str) -> None:
    parts = {"train": utterances(4), "dev": utterances(4)}
    written(tmp_path, **(parts | {name: utterances(3, text=" ")}))

    with pytest.raises(
        ManifestError, match=rf"{name}\.jsonl: 3 of its utterances have no text, .* u0"
    ):
        read_material(tmp_path)


def test_one_text_cannot_be_divided(tmp_path: Path) -> None:
    written(tmp_path, train=utterances(4, "a", text="GO"))

    with pytest.raises(ManifestError, match=r"one text only.*--dev FILE"):
        read_material(tmp_path)


def test_a_damaged_alphabet_is_refused(tmp_path: Path) -> None:
    written(tmp_path, train=utterances(8))
    (tmp_path / "alphabet.txt").write_bytes(b"\xff")

    with pytest.raises(ConfigError, match=r"alphabet\.txt: is not UTF-8"):
        read_material(tmp_path)
