"""What a prompt does."""

from asr.server.transcriptions import names_in

KNOWN = frozenset({"THE", "PRICE", "OF", "IS", "IT'S"})


def test_words_that_the_language_model_lacks_are_taken_as_names() -> None:
    prompt = "It\u2019s the price of ZyntriQix, Digique-Plus; zyntriqix is 42."
    assert names_in(prompt, KNOWN) == ("ZyntriQix", "Digique-Plus", "zyntriqix")


def test_what_the_model_cannot_write_is_left_out_of_a_prompt() -> None:
    assert names_in("\u65e5\u672c is \u041c\u0438\u0440", KNOWN) == ()


def test_without_a_language_model_a_prompt_names_nothing() -> None:
    assert names_in("ZyntriQix", frozenset()) == ()


def test_a_word_that_is_too_long_is_no_name() -> None:
    assert names_in(f"{'Z' * 101} {'Y' * 100}", KNOWN) == ()
    assert names_in(f"{'T' * 101} {'T' * 100}", KNOWN) == ("T" * 100,)
