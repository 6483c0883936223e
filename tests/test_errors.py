import pytest

from asr.cli import main
from asr.errors import LONGEST, AsrError, AudioError, one_line


@pytest.mark.parametrize(
    "text",
    ["a\x1b[2J.wav", "a\nb", "a\rb", "\x07", "\x9b31m", "\udc80", "a\u202eb", "\0"],
)
def test_a_message_never_moves_the_cursor(text: str) -> None:
    message = str(AudioError(f"{text}: is empty"))

    assert message.isprintable()
    assert message.endswith(": is empty")
    message.encode("utf-8")


def test_a_long_message_keeps_its_place_and_its_remedy() -> None:
    message = str(AsrError(f"{'a' * 100}: {'x' * 10**6} is no number (write one)"))

    assert len(message) == LONGEST
    assert message.startswith("a" * 100 + ": xxx")
    assert message.endswith("xxx is no number (write one)")
    assert " … " in message


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST])
def test_a_message_that_fits_stays_as_it_is(length: int) -> None:
    assert str(AsrError("é" * length)) == "é" * length


def test_what_cannot_be_printed_counts_as_it_is_shown() -> None:
    assert len(str(AsrError("\0" * LONGEST))) == LONGEST


def test_an_error_has_its_whole_message_for_programs() -> None:
    (whole,) = AsrError("a\n" * LONGEST).args
    assert whole == "a\n" * LONGEST


def test_arguments_are_shown_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "a", "b", "c\x1b[2J"])

    assert "\x1b" not in capsys.readouterr().err
    assert one_line("c\x1b[2J") == "c\\x1b[2J"
