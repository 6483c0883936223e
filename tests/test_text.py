import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import CheckpointError
from asr.text import ALPHABET, CharTokenizer, collapse_ctc, normalize

NORMAL_TEXT = st.text(ALPHABET)
ANY_TEXT = st.text() | st.text("AEst'’\"., -–$£%&0159", max_size=30)  # noqa: RUF001

# Normalizing: golden


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("GO DO YOU HEAR", "GO DO YOU HEAR"),
        ("  go,\tdo\nyou\u00a0hear?! ", "GO DO YOU HEAR"),
        ("well-known—yes…no", "WELL KNOWN YES NO"),
        ("naïve Ångström façade", "NAIVE ANGSTROM FACADE"),
        (
            "Ærø, Œuvre, Łódź, Straße, GROẞ, þorn",
            "AERO OEUVRE LODZ STRASSE GROSS THORN",
        ),
        ("ﬁne ﬂow Ｗｉｄｅ", "FINE FLOW WIDE"),  # noqa: RUF001
        ("co\u00adoperate\u200b \ufeffnow", "COOPERATE NOW"),
        ("AT&T", "AT AND T"),
        ("привет 你好", ""),
    ],
)
def test_text_is_brought_into_the_alphabet(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't", "DON'T"),
        ("Don\u2019t don\u02bct don`t don\u00b4t", "DON'T DON'T DON'T DON'T"),
        ("'Tis the boys' house", "'TIS THE BOYS' HOUSE"),
        ("(the boys') the boys'.", "THE BOYS' THE BOYS'"),
        ("rock 'n' roll with 'em", "ROCK 'N' ROLL WITH 'EM"),
        ("he said 'hello there' to 'em", "HE SAID HELLO THERE TO 'EM"),
        (
            "\u2018Hello,\u2019 he said, \u2018it\u2019s me.\u2019",
            "HELLO HE SAID IT'S ME",
        ),
        ("'Oh!' 'What?'", "OH WHAT"),
        ("'Tis true,' he said", "'TIS TRUE HE SAID"),
        ("'What 'he' said'", "WHAT HE SAID"),
        ("'a 'b c' d'", "A B C D"),
        ("''hello'' \"you\"", "HELLO YOU"),
        ("' a ' '' b", "A B"),
        ('\'ere is "it"', "'ERE IS IT"),
    ],
)
def test_an_apostrophe_stays_where_it_is_no_quotation_mark(
    text: str, expected: str
) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", "FORTY TWO"),
        ("the 3rd and the 21ST", "THE THIRD AND THE TWENTY FIRST"),
        ("1,000", "ONE THOUSAND"),
        ("1,000th", "ONE THOUSANDTH"),
        ("1,2 or 1,2345", "ONE TWO OR ONE TWO THOUSAND THREE HUNDRED AND FORTY FIVE"),
        ("3.5 and 0.05", "THREE POINT FIVE AND ZERO POINT ZERO FIVE"),
        ("3.", "THREE"),
        ("10:30", "TEN THIRTY"),
        ("agent 007", "AGENT ZERO ZERO SEVEN"),
        ("B2B", "B TWO B"),
        ("the 1980s, aged 6s", "THE ONE THOUSAND NINE HUNDRED AND EIGHTIES AGED SIXES"),
        ("5%", "FIVE PERCENT"),
        ("$5 $1 £1,000 €2", "FIVE DOLLARS ONE DOLLAR ONE THOUSAND POUNDS TWO EUROS"),
        (
            "$3.50 £1.01 $4.00",
            "THREE DOLLARS FIFTY CENTS ONE POUND ONE PENNY FOUR DOLLARS",
        ),
        ("$1.5 million", "ONE POINT FIVE MILLION DOLLARS"),
        ("$2 thousand £7 billion", "TWO THOUSAND DOLLARS SEVEN BILLION POUNDS"),
        ("$", ""),
        ("٤٢", "FORTY TWO"),
        ("1" * 16, " ".join(["ONE"] * 16)),
        ("999999999999999", normalize("999,999,999,999,999")),
    ],
)
def test_numbers_are_spelled_out(text: str, expected: str) -> None:
    assert normalize(text) == expected


def test_a_number_of_any_length_is_spelled_out() -> None:
    assert normalize("7" * 5000) == " ".join(["SEVEN"] * 5000)


# Normalizing: property


@settings(deadline=None)  # on a busy machine
@given(ANY_TEXT)
def test_only_the_alphabet_is_left(text: str) -> None:
    normal = normalize(text)
    assert set(normal) <= set(ALPHABET)
    assert normal == " ".join(normal.split())


@settings(deadline=None)
@given(ANY_TEXT)
def test_a_normal_text_is_left_alone(text: str) -> None:
    normal = normalize(text)
    assert normalize(normal) == normal


# Tokens


def test_the_tokens_have_these_numbers_in_every_checkpoint() -> None:
    tokenizer = CharTokenizer()
    assert (tokenizer.pad, tokenizer.sos, tokenizer.eos) == (0, 1, 2)
    assert tokenizer.encode(" 'AZ") == [3, 4, 5, 30]
    assert tokenizer.size == 31


@settings(deadline=None)
@given(NORMAL_TEXT)
def test_decoding_undoes_encoding(text: str) -> None:
    tokenizer = CharTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_not_spelled_out() -> None:
    assert CharTokenizer().decode([1, 5, 0, 6, 2, 0]) == "AB"


@pytest.mark.parametrize("character", ["a", "É", "-", "\n"])
def test_a_character_outside_the_alphabet_is_named(character: str) -> None:
    message = re.escape(f"{character!r} is not among")
    with pytest.raises(ValueError, match=message):
        CharTokenizer().encode(f"AB{character}")


@pytest.mark.parametrize("token", [-1, 31])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match=f"tokens are 0 to 30, got {token}"):
        CharTokenizer().decode([5, token])


@pytest.mark.parametrize(
    ("characters", "message"),
    [("", "needs a character"), ("ABA", "a character is there twice in 'ABA'")],
)
def test_an_impossible_alphabet_is_refused(characters: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CharTokenizer(characters)


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), CharTokenizer("абв ")])
def test_round_trip(tokenizer: CharTokenizer) -> None:
    entries = json.loads(json.dumps(tokenizer.to_dict()))
    assert CharTokenizer.from_dict(entries) == tokenizer


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["A"], "tokenizer: is of no known kind"),
        ({}, "tokenizer: is of no known kind"),
        ({"kind": "words", "characters": "AB"}, "is of no known kind"),
        ({"kind": "characters"}, "tokenizer: has no characters"),
        ({"kind": "characters", "characters": ["A"]}, "has no characters"),
        ({"kind": "characters", "characters": "AA"}, "tokenizer: a character is there"),
    ],
)
def test_a_malformed_tokenizer_is_refused(entries: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        CharTokenizer.from_dict(entries)


# CTC


@pytest.mark.parametrize(
    ("path", "spelled"),
    [
        ([], []),
        ([0, 0], []),
        ([5, 5, 5], [5]),
        ([5, 0, 5], [5, 5]),
        ([0, 5, 5, 0, 0, 5, 6, 6, 0], [5, 5, 6]),
    ],
)
def test_a_ctc_path_is_reduced_to_what_it_spells(
    path: list[int], spelled: list[int]
) -> None:
    assert collapse_ctc(path, blank=0) == spelled


def test_the_blank_need_not_be_the_first_token() -> None:
    assert collapse_ctc([0, 0, 9, 0, 9], blank=9) == [0, 0]
