import pytest

from asr.inference.script import read_script
from asr.text import ALPHABET, CharTokenizer, Tokenizer
from asr.tokenizers import Subwords


def spoken(line: str, tokenizer: Tokenizer | None = None) -> dict[str, str]:
    """What is looked for, by the words as they were written."""
    tokenizer = tokenizer or CharTokenizer()
    (read,) = read_script(line, tokenizer)
    found = ("".join(tokenizer.pieces(some)) for some in read.tokens)
    return dict(zip(read.words, found, strict=True))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Go on!", {"Go": "GO", "on!": "ON"}),
        ("12% of 3", {"12%": "TWELVEPERCENT", "of": "OF", "3": "THREE"}),
        (
            "— “Well,” said he — …",
            {"— “Well,”": "WELL", "said": "SAID", "he — …": "HE"},
        ),
        ("$2 million", {"$2 million": "TWOMILLIONDOLLARS"}),
        ("it's 'a b' café", {"it's": "IT'S", "'a": "A", "b'": "B", "café": "CAFE"}),
    ],
)
def test_each_word_knows_its_letters_and_stays_as_it_was_written(
    line: str, found: dict[str, str]
) -> None:
    assert spoken(line) == found


def test_another_alphabet_has_its_own_letters() -> None:
    tokenizer = CharTokenizer(" абвгдежзиклмнопрстуфхцчшщъыьэюя")

    assert spoken("«Привет», мир!", tokenizer) == {"«Привет»,": "привет", "мир!": "мир"}


def test_subwords_begin_with_each_word(subword_model: object) -> None:
    tokenizer = Subwords.make(["THE CAT SAT ON THE MAT", "A DOG SAT ON THE CAT"], 18)

    (line,) = read_script("The cat, sat", tokenizer)

    words = ["".join(tokenizer.pieces(some)).strip() for some in line.tokens]
    assert words == ["THE", "CAT", "SAT"]


def test_a_letter_that_the_alphabet_lacks_is_left_out() -> None:
    tokenizer = CharTokenizer(ALPHABET.replace("'", ""))

    assert spoken("don't", tokenizer) == {"don't": "DONT"}


def test_blank_lines_count_but_are_none() -> None:
    lines = read_script("\n one \n\n two  three\r\n \n", CharTokenizer())

    assert [(line.number, line.text) for line in lines] == [
        (2, "one"),
        (4, "two three"),
    ]


def test_a_line_without_letters_is_one_all_the_same() -> None:
    (line,) = read_script("* * *", CharTokenizer())

    assert (line.text, line.has_letters) == ("* * *", False)


def test_lines_may_come_one_by_one() -> None:
    lines = read_script(iter(["one", "", "two"]), CharTokenizer())

    assert [line.number for line in lines] == [1, 3]
