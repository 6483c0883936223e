import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.foreign import (
    LARGEST,
    MOST_DEPTH,
    check_file,
    check_name,
    check_path,
    check_text,
    number_in,
    parse_json,
    parse_table,
    read_file,
    read_lines,
    read_text,
    settings_of,
)

NUMBERS = st.integers(-LARGEST, LARGEST) | st.floats(
    allow_nan=False, allow_infinity=False
)
TEXTS = st.text(st.characters(codec="utf-8"))
TREES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=20,
)


# JSON


@given(tree=TREES, plain=st.booleans())
def test_json_of_plain_values_is_read_as_it_is(tree: Any, plain: bool) -> None:
    text = json.dumps(tree, ensure_ascii=plain)
    assert parse_json(text) == parse_json(text.encode()) == tree


def read_or_refused(text: str | bytes) -> Any:
    """Return what was read; "refused" is none that the texts below can hold."""
    try:
        return parse_json(text)
    except UnicodeError:
        raise
    except ValueError:
        return "refused"


@given(text=st.text() | st.text('[]{}"\\\\,:u0d81eE-.9NaInfinity', max_size=80))
def test_any_text_is_read_as_json_reads_it_or_refused(text: str) -> None:
    found = read_or_refused(text)
    assert found == "refused" or found == json.loads(text.removeprefix("\ufeff"))


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    read_or_refused(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e400", "the number 1e400 is too large"),
        ("1" * 400, "the number 1{20}… is too large"),
        ("-" + "9" * 5000, "is too large"),
        (str(LARGEST + 1), "is too large"),
        ("[" * 10**6, "is nested deeper than 32 times"),
        ('{"a":' * 40 + "1" + "}" * 40, "is nested deeper than 32 times"),
        (r'"\ud800"', r"a text holds a lone surrogate"),
        (r'{"\udfff": 1}', r"a text holds a lone surrogate"),
        (r'[{"a": ["\uD800x"]}]', r"a text holds a lone surrogate"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
    ],
)
def test_what_no_reader_expects_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_brackets_in_texts_are_not_nested() -> None:
    text = json.dumps(["[" * 100, '\\"[[' * 100, {"{": "{" * 100}])
    assert parse_json(text) == json.loads(text)


def test_the_deepest_that_may_be_is_read() -> None:
    text = "[" * MOST_DEPTH + "1" + "]" * MOST_DEPTH
    assert parse_json(f"[{'[],' * 100}1]")[-1] == 1
    assert parse_json(text) == json.loads(text)
    with pytest.raises(ValueError, match="deeper"):
        parse_json(f"[{text}]")


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"


def test_losses_may_be_no_numbers() -> None:
    found = parse_json('{"loss": NaN, "best": [Infinity, 1]}', finite=False)
    assert math.isnan(found["loss"])
    assert found["best"] == [math.inf, 1]
    with pytest.raises(ValueError, match="is too large"):
        parse_json("1e400", finite=False)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        parse_json(b'"\xff"')


@pytest.mark.parametrize("text", ["[]", "3", '"a"', "null"])
def test_a_table_is_a_table(text: str) -> None:
    with pytest.raises(ValueError, match="a JSON object was expected"):
        parse_table(text)


# Files


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]\n")

    assert parse_json(read_file(path)) == [1]
    assert read_text(path) == "[1]\n"
    assert list(read_lines(path)) == ["[1]\n"]


@pytest.mark.parametrize("make", ["device", "pipe", "folder", "link", "zero byte"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: str) -> None:
    path = tmp_path / "a"
    if make == "device":
        path = Path("/dev/zero")
    elif make == "pipe":
        os.mkfifo(path)
    elif make == "folder":
        path.mkdir()
    elif make == "link":
        path.symlink_to("/dev/zero")
    else:
        path = tmp_path / "a\0b"

    with pytest.raises(OSError, match=r"it is no file|its name is imposs"):
        read_file(path)
    with pytest.raises(OSError, match=r"it is no file|its name is imposs"):
        check_file(path)


def test_a_file_is_not_larger_than_its_kind_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(2**40)  # has no room on the disk
    with pytest.raises(OSError, match="has 1099511627776 bytes, at most 16777216 can"):
        read_file(path)


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    monkeypatch.setattr("asr.foreign.check_file", lambda path, most: None)
    with pytest.raises(OSError, match="has more than 4 bytes"):
        read_file(path, 4)


def test_a_line_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="a line has over 16777216 characters"):
        list(read_lines(Path("/dev/zero")))


def test_lines_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        list(read_lines(tmp_path / "a"))
    with pytest.raises(OSError, match="its name is impossible"):
        list(read_lines(tmp_path / "a\0"))


# Texts


@pytest.mark.parametrize("name", ["\x1b[2J", "a\n", "\x7f", "\x9b", "\0", "\ud800"])
def test_a_name_holds_nothing_that_a_terminal_obeys(name: str) -> None:
    with pytest.raises(ValueError, match=r"id holds (the control char|a lone sur)"):
        check_name(name, "id")


@pytest.mark.parametrize("name", ["84-1-0", "é ü", "\u200dक", "a\u202fb", "😀"])
def test_a_name_may_be_in_any_script(name: str) -> None:
    check_name(name, "id")
    check_path(name, "audio")
    check_text(name + "\n", "text")


def test_a_path_holds_no_zero_byte() -> None:
    check_path("a\nb", "audio")
    check_path(os.fsdecode(b"\xff.wav"), "audio")  # a name that is not UTF-8
    with pytest.raises(ValueError, match="audio holds a lone surrogate"):
        check_path("\ud800", "audio")
    with pytest.raises(ValueError, match="audio holds a zero byte"):
        check_path("a\0b", "audio")


# Numbers and settings


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_a_number_is_a_float(value: float) -> None:
    assert number_in(value, 0, 1) == value
    assert type(number_in(value, 0, 1)) is float


@pytest.mark.parametrize("value", [True, "1", None, [1], {}])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a number was expected, not"):
        number_in(value, 0, 1)


@pytest.mark.parametrize("value", [-0.1, 2, 10**18, math.nan, math.inf])
def test_a_number_out_of_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 1 was expected, not"):
        number_in(value, 0, 1)


@dataclass(frozen=True)
class Settings:
    size: int
    share: float = 0.5
    name: str | None = None
    kind: Literal["a", "b"] = "a"
    sizes: list[int] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    on: bool = False
    rest: Any = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must be at least 0")


def test_a_table_becomes_settings() -> None:
    tree = {"size": 1, "share": 1, "name": None, "sizes": [1], "on": True, "rest": ()}
    found = settings_of(Settings, tree)
    assert found == Settings(1, 1, None, "a", [1], {}, True, ())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "a table of Settings was expected"),
        (None, "a table of Settings was expected"),
        ({}, "missing 1 required positional argument: 'size'"),
        ({"size": 1, "sise": 2}, "Settings has no 'sise'"),
        ({"size": "1"}, "size: int was expected, not '1'"),
        ({"size": 1.0}, "size: int was expected, not 1.0"),
        ({"size": True}, "size: int was expected, not True"),
        ({"size": None}, "size: int was expected, not None"),
        ({"size": 1, "share": "x"}, "share: float was expected, not 'x'"),
        ({"size": 1, "share": False}, "share: float was expected, not False"),
        ({"size": 1, "name": 3}, r"name: str \| None was expected, not 3"),
        ({"size": 1, "kind": "c"}, "kind: .* was expected, not 'c'"),
        ({"size": 1, "kind": ["a"]}, "kind: .* was expected"),
        ({"size": 1, "sizes": [1.5]}, r"sizes: list.* was expected, not \[1.5\]"),
        ({"size": 1, "sizes": 1}, "sizes: list.* was expected, not 1"),
        ({"size": 1, "more": []}, "more: dict.* was expected"),
        ({"size": 1, "on": 1}, "on: bool was expected, not 1"),
        ({"size": 1, "name": ["x" * 1000]}, ".{0,100}$"),
        ({"size": -1}, "size must be at least 0"),
    ],
)
def test_settings_of_another_type_are_refused(tree: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(Settings, tree)
