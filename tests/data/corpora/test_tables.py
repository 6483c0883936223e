from pathlib import Path

import pytest

from asr.data.corpora.entries import Columns, Subset
from asr.data.corpora.tables import read


def table(folder: Path, content: str, name: str = "m.csv") -> tuple[Subset, str]:
    """Read a table beside recordings 1.wav to 5.wav, which nobody opens."""
    for number in range(1, 6):
        (folder / f"{number}.wav").touch()
    (folder / name).write_bytes(content.encode())
    ((subset,), (notice,)) = read(folder / name, Columns())
    return subset, notice


def texts(subset: Subset) -> dict[str, str]:
    assert not subset.problems
    return {entry.id: entry.text for entry in subset.entries}


def problems(subset: Subset, folder: Path) -> list[str]:
    return [problem.what.replace(f"{folder}/", "") for problem in subset.problems]


# Quotes


def test_an_unclosed_quote_does_not_swallow_rows(tmp_path: Path) -> None:
    subset, _ = table(
        tmp_path, 'audio,text\n1,one\n2,"Go on he said\n3,three\n4,four\n'
    )

    assert texts(subset) == {
        **{"1": "one", "2": '"Go on he said'},
        **{"3": "three", "4": "four"},
    }


@pytest.mark.parametrize("last", ['4,he said"', '4,"he said"', '4,he said"\n5,"x"'])
def test_a_quote_that_a_later_recording_closes_does_not_swallow_rows(
    last: str, tmp_path: Path
) -> None:
    subset, notice = table(tmp_path, f'audio,text\n1,one\n2,"Go on\n3,three\n{last}\n')

    assert list(texts(subset)) == ["1", "2", "3", "4", "5"][: 4 + last.count("\n")]
    assert texts(subset)["2"] == '"Go on'
    assert "with quotes; audio" in notice


def test_a_quote_does_not_swallow_a_row_whose_recording_is_missing(
    tmp_path: Path,
) -> None:
    subset, _ = table(tmp_path, 'audio,text\n1.wav,"Go on\n9.wav,so\n2.wav,he said"\n')

    assert [entry.text for entry in subset.entries] == ['"Go on', "so", 'he said"']


def test_lines_and_delimiters_and_quotes_in_quotes_stay(tmp_path: Path) -> None:
    subset, notice = table(
        tmp_path,
        'audio,text\r\n"1.wav","Go, ""he""\r\nsaid"\r\n2.wav, "so, so" \r\n'
        '3.wav,5" long\r\n4.wav,"Go on," he said\n',
    )

    assert {entry.id: entry.text for entry in subset.entries} == {
        **{"1": 'Go, "he"\r\nsaid', "2": "so, so", "3": '5" long'},
    }
    assert "with quotes (1 row over several lines); audio" in notice
    (problem,) = problems(subset, tmp_path)
    assert problem.startswith("m.csv:6: has 3 columns, not 2 (a text that holds")


@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_quotes_of_sentences_over_several_recordings_stay(
    ending: str, tmp_path: Path
) -> None:
    delimiter = {"tsv": "\t", "csv": "|"}[ending]
    rows = ['1|"Go on|"Go on', '2|he said."|he said."', '3|"No."|"No."', "4|a|a"]
    content = "".join(row.replace("|", delimiter) + "\n" for row in rows)

    subset, notice = table(tmp_path, content, f"m.{ending}")

    assert texts(subset) == {
        **{"1": '"Go on', "2": 'he said."', "3": '"No."', "4": "a"},
    }
    assert "no quotes" in notice


def test_a_table_that_doubles_its_quotes_has_quotes(tmp_path: Path) -> None:
    rows = ["audio|text", '1|"Go ""on"""', *(f"{n}|x" for n in (2, 3, 4, 5))]

    subset, _ = table(tmp_path, "\n".join(rows))

    assert texts(subset)["1"] == 'Go "on"'


@pytest.mark.parametrize("head", ["audio,text\n", ""])
def test_a_text_that_its_delimiter_would_cut_is_listed(
    head: str, tmp_path: Path
) -> None:
    subset, _ = table(tmp_path, f"{head}1,Go, on\n2,so,\n3,no\n4,x\n5,y\n")

    texts = {entry.id: entry.text for entry in subset.entries}
    assert texts == {"2": "so", "3": "no", "4": "x", "5": "y"}
    assert problems(subset, tmp_path) == [
        f"m.csv:{2 if head else 1}: has 3 columns, not 2 (a text that holds what "
        "stands between columns has to stand in quotes)"
    ]


# Delimiters


def test_commas_in_the_first_text_do_not_part_a_table_of_lj_speech(
    tmp_path: Path,
) -> None:
    (tmp_path / "wavs").mkdir()
    said = "Printing, in the only sense with which we are at present concerned, differs"
    for number in (1, 2):
        (tmp_path / "wavs" / f"LJ001-000{number}.wav").touch()

    subset, notice = table(
        tmp_path,
        f"LJ001-0001|{said}|{said}\nLJ001-0002|in 1872;|in eighteen\n",
        "metadata.csv",
    )

    assert texts(subset) == {"LJ001-0001": said, "LJ001-0002": "in eighteen"}
    assert "| between columns" in notice


def test_the_header_shows_the_delimiter(tmp_path: Path) -> None:
    subset, notice = table(
        tmp_path, "audio;text;notes (room, noise, microphone)\n1;Go, on;a, b, c\n"
    )

    assert texts(subset) == {"1": "Go, on"}
    assert "semicolon between columns" in notice


# Lines


@pytest.mark.parametrize("stranger", ["\u2028", "\x85", "\v", "\f", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_row(stranger: str, tmp_path: Path) -> None:
    subset, _ = table(tmp_path, f"audio,text\n1,Go{stranger}on\r\n2,so\n")

    assert texts(subset) == {"1": f"Go{stranger}on", "2": "so"}


def test_a_table_of_an_old_macintosh_is_read(tmp_path: Path) -> None:
    subset, _ = table(tmp_path, "audio,text\r1,go\r2,on\r")

    assert texts(subset) == {"1": "go", "2": "on"}


@pytest.mark.parametrize("text", ["go", '"Go,\n\non"'])
def test_blank_lines_count_where_a_row_is_named(text: str, tmp_path: Path) -> None:
    subset, _ = table(tmp_path, f"\naudio,text\n\n \n1,{text}\n,lost\n")

    line = 6 + text.count("\n")
    assert problems(subset, tmp_path) == [f"m.csv:{line}: names no audio"]


def test_names_that_no_file_can_have_are_no_recordings(tmp_path: Path) -> None:
    subset, _ = table(tmp_path, f"audio,text\n{'x' * 5000},go\n1,on\n/,so\n")

    assert [entry.text for entry in subset.entries] == ["go", "on", "so"]
