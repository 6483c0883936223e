import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.alphabet import (
    NORMALIZATIONS,
    alphabet_of,
    as_file,
    clusters,
    fitted,
    normalizer,
    read_alphabet,
    shown,
    strangers,
)
from asr.errors import ConfigError
from asr.text import ALPHABET

GERMAN = " abcdefghijklmnopqrstuvwxyzßäöü"

# Normalizing


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", " Straße\u00a0 no.\t5\n", "Straße no. 5"),
        ("none", "cafe\u0301", "café"),
        ("none", "cafe\u00ad\u0301", "café"),
        ("none", "so\u00adft\u200b \u202bhi\u202c\x07", "soft hi"),
        ("none", "می\u200cخواهم", "می\u200cخواهم"),
        ("lower", "ÀÉ Straße, 5", "àé straße, 5"),
        ("lower", "ПРИВЕТ", "привет"),
        ("lower", "İzmir I\u0307zmir ışık", "izmir izmir ışık"),
        ("upper", "Straße été", "STRASSE ÉTÉ"),
        ("plain", "«Он сказал: «Привет!»»", "он сказал привет"),
        ("plain", "l’été, don't 'quote' 3.5", "l'été don't quote 3 5"),
        ("plain", "п'ять п\u2019ять п\u02bcять", "п'ять п'ять п'ять"),
        ("plain", "„İzmir“", "izmir"),
        ("plain", "हिन्दी।", "हिन्दी"),
        ("english", "Straße 5", "STRASSE FIVE"),
    ],
)
def test_a_text_is_spelled_as_asked(name: str, text: str, expected: str) -> None:
    assert normalizer(name)(text) == expected


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(ConfigError, match="--normalize loud: is not known"):
        normalizer("loud")


@given(st.sampled_from(NORMALIZATIONS), st.text(max_size=30))
def test_normalizing_twice_changes_nothing_more(name: str, text: str) -> None:
    once = normalizer(name)(text)

    assert normalizer(name)(once) == once
    assert once == " ".join(once.split())
    assert unicodedata.is_normalized("NFC", once)


# Alphabets


def test_an_alphabet_is_what_the_texts_have_and_begins_with_the_space() -> None:
    assert alphabet_of(["über!", "ab"]) == " !aberü"


def test_texts_of_some_english_letters_have_all_of_them() -> None:
    assert alphabet_of(["GO ON"]) == ALPHABET


def test_too_many_characters_are_no_alphabet() -> None:
    texts = map(chr, range(0x4E00, 0x4E00 + 20_001))

    with pytest.raises(ConfigError, match="20002 different characters"):
        alphabet_of(texts)


def test_an_alphabet_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_text("\ufeffabc\nu\u0308ß\r\n", encoding="utf-8")

    assert read_alphabet(path) == " abcßü"


@pytest.mark.parametrize(
    "texts",
    [["جامعي سأل", "كٔ"], ["z m\u0301"], ["\u1100 \u1161"], ["GO ON"], ["हिन्दी क़लम"]],
    ids=["Arabic", "Latin", "Korean", "English", "Hindi"],
)
def test_an_alphabet_is_read_as_it_was_written(
    texts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "alphabet.txt"
    alphabet = alphabet_of(texts)

    path.write_text(as_file(alphabet), encoding="utf-8")

    assert read_alphabet(path) == alphabet


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 characters"),
        (b"\xff", "is not UTF-8 text"),
        (b"ab\x07", r"holds '\\x07', which is no letter"),
        (b"a\tb", r"holds '\\t', which is no letter"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_an_alphabet_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "alphabet.txt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=f"alphabet.txt: {message}"):
        read_alphabet(path)


# Bringing any text into an alphabet


@pytest.mark.parametrize(
    ("text", "alphabet", "expected"),
    [
        ("It's 5!", ALPHABET, "IT'S FIVE"),
        ("ÜBER Straße", GERMAN, "über straße"),
        ("U\u0308ber", GERMAN, "über"),
        ("café, naïve", GERMAN, "cafe naive"),
        ("Über", " ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ", "ÜBER"),
        ("grün", " ABCDEFGHIJKLMNOPQRSTUVWXYZ!", "GRUN"),
        ("Don’t stop.", " 'DONTdontsp.", "Don't stop."),
        ("L'été", " \u2019eélt", "l\u2019été"),
        ("Été l’", " elt\u0301", "e\u0301te\u0301 l"),
        ("q\u0323", " qr", "q"),
        ("Łódź, Ørsted", GERMAN, "lodz orsted"),
        ("ŁÓDŹ Þór", " ABCDEFGHIJKLMNOPQRSTUVWXYZ!", "LODZ THOR"),
        ("Straße ẞ", " abcdefghijklmnopqrstuvwxyz!", "strasse ss"),
        ("Æon æ", " abcdefghijklmnopqrstuvwxyz!", "aeon ae"),
        ("ΟΔΟΣ ΟΔΟΣ", " δοσς", "οδος οδος"),
        ("οδος ΟΔΟΣ", " δοσ", "οδοσ οδοσ"),
        ("你好 hi", GERMAN, "hi"),
        ("", GERMAN, ""),
    ],
)
def test_a_text_is_fitted_into_an_alphabet(
    text: str, alphabet: str, expected: str
) -> None:
    assert fitted(text, alphabet) == expected


@given(st.text(max_size=30), st.text(max_size=20).map(lambda t: alphabet_of([t])))
def test_what_was_fitted_holds_nothing_else(text: str, alphabet: str) -> None:
    assert set(fitted(text, alphabet)) <= set(alphabet)


@given(st.text("Zäh am Sée", max_size=30))
def test_a_text_that_fits_stays(text: str) -> None:
    text = normalizer("none")(text)

    assert fitted(text, " Zähm ameSé") == text


def test_strangers_are_named_once_and_in_order() -> None:
    assert strangers("zu ö und ß, ö", " uzdn") == "öß,"


def test_a_long_alphabet_is_shown_in_part() -> None:
    assert shown("x" * 101) == "x" * 100 + " … (101)"


# Letters as a reader counts them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ab", [0, 1]),
        ("e\u0323\u0302x", [0, 0, 0, 1]),
        ("\u0301a", [0, 1]),
        ("क्षि", [0, 0, 1, 1]),
        ("👩\u200d🔬!", [0, 0, 0, 1]),
    ],
)
def test_marks_belong_to_their_letter(text: str, expected: list[int]) -> None:
    assert list(clusters(text)) == expected


def test_pieces_of_several_characters_are_letters_of_their_own() -> None:
    assert list(clusters(["", " the", "", "re"])) == [0, 1, 2, 3]
