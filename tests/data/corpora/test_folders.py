from pathlib import Path

import pytest

from asr.data.corpora.entries import Kind, Subset
from asr.data.corpora.folders import read
from asr.errors import CorpusError

NO_TEXT = b"\x81\x8d"
"""Neither UTF-8 nor Windows' Western encoding has them."""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three recordings, which nobody opens, with their texts."""
    for name in ("1", "2", "3"):
        (tmp_path / f"{name}.wav").touch()
        (tmp_path / f"{name}.txt").write_text(f"go {name}")
    return tmp_path


def listed(subset: Subset, folder: Path) -> list[str]:
    return [
        f"{problem.kind}: {problem.what.replace(f'{folder}/', '')}"
        for problem in subset.problems
    ]


@pytest.mark.parametrize(
    ("name", "kept"), [("README.txt", ["1", "2", "3"]), ("2.txt", ["1", "3"])]
)
def test_a_file_that_is_no_text_is_listed_and_the_others_are_read(
    name: str, kept: list[str], corpus: Path
) -> None:
    (corpus / name).write_bytes(NO_TEXT)

    (subset,) = read(corpus)

    assert [entry.id for entry in subset.entries] == kept
    assert listed(subset, corpus) == [
        f"unreadable text: {name}: is no text (cp1252 was tried)"
    ]


def test_a_link_to_nowhere_is_listed_and_the_others_are_read(corpus: Path) -> None:
    (corpus / "1.transcript").symlink_to("none")

    (subset,) = read(corpus)

    assert [entry.text for entry in subset.entries] == ["go 1", "go 2", "go 3"]
    assert listed(subset, corpus) == [
        "unreadable text: 1.transcript: does not exist (a text file was expected)"
    ]


def test_a_list_that_is_no_text_leaves_the_other_lists(corpus: Path) -> None:
    for name in ("1", "2", "3"):
        (corpus / f"{name}.txt").unlink()
    (corpus / "a.txt").write_text("1 go\n2 on\n")
    (corpus / "b.txt").write_bytes(b"3 so \0 \xff\n")

    (subset,) = read(corpus)

    assert [entry.text for entry in subset.entries] == ["go", "on"]
    assert [problem.kind for problem in subset.problems] == [
        Kind.NO_TEXT_FILE,
        Kind.NO_TEXT,
    ]


def test_where_no_text_can_be_read_the_reason_is_that_of_the_first(
    corpus: Path,
) -> None:
    for name in ("1", "2", "3"):
        (corpus / f"{name}.txt").write_bytes(NO_TEXT)

    with pytest.raises(CorpusError, match=r"1\.txt: is no text \(cp1252 was tried\)"):
        read(corpus)


@pytest.mark.parametrize(
    ("number", "names"), [(1, "{0}/1.txt"), (3, "{0}/1.txt, {0}/2.txt, {0}/3.txt")]
)
def test_files_whose_encoding_is_a_guess_are_named(
    number: int, names: str, corpus: Path
) -> None:
    for name in ("1", "2", "3")[:number]:
        (corpus / f"{name}.txt").write_bytes("grüß".encode("cp1252"))

    (subset,) = read(corpus)

    assert subset.notices == (f"{names.format(corpus)}: cp1252 (a guess)",)
    assert subset.entries[0].text == "grüß"


def test_of_many_files_whose_encoding_is_a_guess_three_are_named(corpus: Path) -> None:
    for name in ("1", "2", "3", "4", "5"):
        (corpus / f"{name}.txt").write_bytes("grüß".encode("cp1252"))

    (subset,) = read(corpus)

    (notice,) = subset.notices
    assert notice.endswith("/3.txt and 2 more files: cp1252 (a guess)")
