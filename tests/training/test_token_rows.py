"""Where the tokens of a network with another alphabet start."""

import pytest

from asr.model.storage import Model
from asr.text import ALPHABET, CharTokenizer
from asr.training.token_rows import match_tokens

A_TO_Z = CharTokenizer()


def test_the_same_characters_keep_their_rows_in_any_order() -> None:
    matched = match_tokens(A_TO_Z, CharTokenizer(" CBA"))

    first, letters = A_TO_Z.num_special, "CBA"
    places = [first + ALPHABET.index(letter) for letter in letters]
    assert matched.rows == [0, 1, 2, first + ALPHABET.index(" "), *places]
    assert (matched.kept, matched.relatives, matched.drawn) == (" CBA", {}, "")


@pytest.mark.parametrize(
    ("character", "relative"),
    [("a", "A"), ("ä", "A"), ("É", "E"), ("ñ", "N"), ("ß", "S"), ("œ", "O")],
)
def test_another_case_or_accent_starts_as_its_relative(
    character: str, relative: str
) -> None:
    matched = match_tokens(A_TO_Z, CharTokenizer(f" {character}"))

    assert matched.relatives == {character: relative}
    assert matched.rows[-1] == A_TO_Z.encode(relative)[0]


@pytest.mark.parametrize("character", ["ш", "5", ".", "中", "ب", "-"])
def test_what_has_no_relative_is_drawn(character: str) -> None:
    matched = match_tokens(A_TO_Z, CharTokenizer(f" {character}"))

    assert matched.rows[-1] is None
    assert matched.drawn == character


def test_small_letters_are_relatives_of_capitals_in_both_directions() -> None:
    small = CharTokenizer(" aä")

    assert match_tokens(small, CharTokenizer(" AÄ")).relatives == {"A": "a", "Ä": "ä"}


def test_a_line_states_what_is_kept() -> None:
    assert str(match_tokens(A_TO_Z, A_TO_Z)) == "28 of 28 characters keep their weights"
    assert str(match_tokens(A_TO_Z, CharTokenizer(" ABcdefш"))) == (
        "3 of 8 characters keep their weights, 4 start as another (c as C, d as D, "
        "e as E, …), 1 anew (ш)"
    )


def test_subwords_have_no_relatives(subword_model: Model) -> None:
    for pair in ((A_TO_Z, subword_model.tokenizer), (subword_model.tokenizer, A_TO_Z)):
        with pytest.raises(ValueError, match="only characters can be matched"):
            match_tokens(*pair)
