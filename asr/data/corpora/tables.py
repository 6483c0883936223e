"""Corpora as tables: CSV or TSV with a line an utterance, and Common Voice's.

Encoding, delimiter, quoting and the meaning of the columns are found out where nobody
names them, and reported.

Source: https://commonvoice.mozilla.org/datasets (the layout of a release);
RFC 4180 (CSV).
"""

import math
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import mode
from typing import NamedTuple

from asr.audio import AUDIO_SUFFIXES
from asr.data.corpora.entries import (
    ALL,
    Columns,
    Entry,
    Kind,
    Problem,
    Subset,
    id_of,
)
from asr.data.corpora.json_lines import number_parts
from asr.data.corpora.rows import Row, are_quoted, plain_rows, quoted_rows
from asr.data.corpora.text_files import Text, read_text
from asr.errors import CorpusError
from asr.foreign import MOST_IN_A_LINE
from asr.wording import counted

SUFFIXES = (".tsv", ".csv")
COMMON_VOICE = ("train", "dev", "test")
"""The tables of a release that share no speaker; validated holds all of them."""
_CLIPS = "clips"
_NAMES = {
    "audio": (
        *("audio", "path", "file", "filename", "file_name", "audio_path", "wav"),
        *("audio_file", "audio_filepath", "wav_path", "clip"),
    ),
    "text": (
        *("text", "sentence", "transcript", "transcription", "normalized_text"),
        *("utterance", "label"),
    ),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id", "speaker_name"),
    "id": ("id", "utt_id", "utterance_id", "utt", "segment_id"),
    "start": ("start", "offset", "start_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),
}
_DELIMITERS = "\t,;|"


class _Table(NamedTuple):
    rows: list[Row]
    delimiter: str
    is_quoted: bool
    text: Text


class _Meaning(NamedTuple):
    """Numbers of the columns."""

    audio: int
    text: int
    speaker: int | None = None
    id: int | None = None
    start: int | None = None
    end: int | None = None
    duration: int | None = None


def read(source: Path, columns: Columns) -> tuple[list[Subset], list[str]]:
    """List the utterances of a table, or of the tables in a folder.

    Args:
        source: a .csv or .tsv (any other ending will do), or a folder of such.
        columns: names of columns, where their meaning cannot be found out.

    Returns:
        Subsets; and what was guessed of each table, in one line.

    Raises:
        CorpusError: there is no table, it cannot be read, or its columns are not clear.
    """
    paths = [source] if source.is_file() else tables(source)
    if not paths:
        raise CorpusError(f"{source}: holds no table (.tsv or .csv)")
    found = [_read(path, columns) for path in paths]
    if len(found) == 1:
        found = [(found[0][0]._replace(name=ALL), found[0][1])]
    return [subset for subset, _ in found], [notice for _, notice in found]


def read_common_voice(
    source: Path, wanted: Sequence[str] | None
) -> tuple[list[Subset], list[str]]:
    """List the utterances of a release of Common Voice.

    Args:
        source: the folder of one language, with its tables and `clips`.
        wanted: tables, without their ending; train, dev and test where it is None.

    Raises:
        CorpusError: a table is missing, or cannot be read.
    """
    names = wanted or [n for n in COMMON_VOICE if (source / f"{n}.tsv").exists()]
    if not names:
        raise CorpusError(f"{source}: holds none of train.tsv, dev.tsv and test.tsv")
    columns = Columns("path", "sentence", "client_id")
    found = [_read(source / f"{name}.tsv", columns) for name in names]
    return [subset for subset, _ in found], [notice for _, notice in found]


def is_common_voice(folder: Path) -> bool:
    """Return whether a folder is a release of Common Voice."""
    return (folder / _CLIPS).is_dir() and bool(tables(folder))


def tables(folder: Path) -> list[Path]:
    """List the tables in a folder."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )


def _read(path: Path, columns: Columns) -> tuple[Subset, str]:
    table = _parse(path, columns)
    header = table.rows[0].cells
    meaning, has_header = _meaning(header, columns, path)
    width = len(header)
    if not has_header:  # the first text may be cut, too
        width = max(2, mode(len(row.cells) for row in table.rows))
        meaning = meaning._replace(text=width - 1)
    entries, problems = list[Entry](), list[Problem]()
    for row in table.rows[has_header:]:
        try:
            _check_width(row.cells, width)
            entries.append(_entry(row.cells, meaning, path.parent))
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{path}:{row.line}: {error}"))
    entries = number_parts(entries)
    return Subset(path.stem, entries, problems, path), _notice(
        path, table, meaning, has_header
    )


def _notice(path: Path, table: _Table, meaning: _Meaning, has_header: bool) -> str:
    def name(column: int) -> str:
        return table.rows[0].cells[column] if has_header else f"column {column + 1}"

    delimiter = {"\t": "tab", ",": "comma", ";": "semicolon"}.get(table.delimiter, "|")
    guessed = " (a guess)" if table.text.is_guessed else ""
    speaker = "none" if meaning.speaker is None else name(meaning.speaker)
    broken = sum(any("\n" in cell for cell in row.cells) for row in table.rows)
    quotes = "with quotes" if table.is_quoted else "no quotes"
    if broken:
        quotes += f" ({counted(broken, 'row')} over several lines)"
    return (
        f"{path}: {table.text.encoding}{guessed}, {delimiter} between columns, "
        f"{quotes}; audio: {name(meaning.audio)}, text: {name(meaning.text)}, "
        f"speaker: {speaker}"
    )


def _parse(path: Path, columns: Columns) -> _Table:
    text = read_text(path)
    content = text.content.replace("\0", "")
    if "\n" not in content:
        content = content.replace("\r", "\n")  # how a Macintosh ended lines
    lines = content.split("\n")
    if max(map(len, lines)) > MOST_IN_A_LINE:
        raise CorpusError(
            f"{path}: is no table (a line has over {MOST_IN_A_LINE} characters)"
        )
    sample = list(islice(filter(str.strip, lines), 2000))
    if not sample:
        raise CorpusError(f"{path}: is empty (a table was expected)")
    delimiter, audio = _delimiter(sample, columns, path)

    def is_row(line: str) -> bool:
        cells = [cell.strip('" \r') for cell in line.split(delimiter)]
        return len(cells) > audio and (
            Path(cells[audio]).suffix.lower() in AUDIO_SUFFIXES
            or _is_recording(cells[audio], path.parent)
        )

    is_quoted = are_quoted(sample, delimiter)
    rows = (
        quoted_rows(content, delimiter, is_row)
        if is_quoted
        else plain_rows(content, delimiter)
    )
    return _Table([row for row in rows if any(row.cells)], delimiter, is_quoted, text)


def _delimiter(sample: Sequence[str], columns: Columns, path: Path) -> tuple[str, int]:
    """Return what stands between columns, and which of them is the audio.

    It is what makes columns of the first line whose meaning is clear. A text may hold
    any of the others, and more often. Where nothing does, the reason is that of what is
    as often in each line.
    """

    def likelihood(delimiter: str) -> tuple[int, int]:
        counts = {line.count(delimiter) for line in sample[:20]}
        return -len(counts), sample[0].count(delimiter)

    present = [one for one in _DELIMITERS if one in sample[0]]
    if not present:
        raise CorpusError(
            f"{path}: has one column only (audio and text were expected, with a tab, "
            "comma, semicolon or | between)"
        )
    errors = list[CorpusError]()
    for delimiter in sorted(present, key=likelihood, reverse=True):
        (header,) = quoted_rows(sample[0], delimiter, bool)
        try:
            return delimiter, _meaning(header.cells, columns, path)[0].audio
        except CorpusError as error:
            errors.append(error)
    raise errors[0]


def _check_width(row: Sequence[str], width: int) -> None:
    """Refuse a row with more columns than the table has: its text would be cut off."""
    if any(row[width:]):
        raise ValueError(
            f"has {len(row)} columns, not {width} (a text that holds what stands "
            "between columns has to stand in quotes)"
        )


def _meaning(
    header: Sequence[str], columns: Columns, path: Path
) -> tuple[_Meaning, bool]:
    """Return which column is what, and whether the first line names them."""
    names = [cell.strip().lower() for cell in header]
    asked = {"audio": columns.audio, "text": columns.text, "speaker": columns.speaker}
    found = dict[str, int]()
    for what, known in _NAMES.items():
        wish = asked.get(what)
        if wish is not None:
            if wish.lower() not in names:
                raise CorpusError(
                    f"{path}: has no column {wish} (it has {', '.join(header)})"
                )
            found[what] = names.index(wish.lower())
        else:
            places = [names.index(name) for name in known if name in names]
            if places:
                found[what] = places[0]
    if "audio" not in found and "id" in found and "text" in found:
        found["audio"] = found["id"]  # named without its ending
    if "audio" in found and "text" in found:
        return _Meaning(**found), True
    if not found and len(header) >= 2 and _is_recording(header[0], path.parent):
        return _Meaning(audio=0, text=len(header) - 1), False
    raise CorpusError(
        f"{path}: which of its columns are audio and text? It has "
        f"{', '.join(header)} (name them by --audio-column and --text-column)"
    )


def _entry(row: Sequence[str], meaning: _Meaning, folder: Path) -> Entry:
    def cell(column: int | None) -> str:
        if column is None:
            return ""
        if column >= len(row):
            raise ValueError(f"has {len(row)} columns, not {column + 1} or more")
        return row[column].strip()

    name = cell(meaning.audio)
    if not name:
        raise ValueError("names no audio")
    audio = _found(name, folder)
    id = "_".join(cell(meaning.id).split()) or id_of(Path(name), folder)
    start, duration = None, None
    if cell(meaning.start):
        start = _time(cell(meaning.start))
        if cell(meaning.end):
            duration = _time(cell(meaning.end)) - start
        elif cell(meaning.duration):
            duration = _time(cell(meaning.duration))
        if duration is not None and duration <= 0:
            raise ValueError(f"ends before it starts, at {start:g} s")
    return Entry(id, audio, cell(meaning.text), cell(meaning.speaker), start, duration)


def _time(text: str) -> float:
    try:
        seconds = float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"has a time {text!r} (seconds were expected)") from None
    if not 0 <= seconds < math.inf:
        raise ValueError(f"has a time {text} (seconds from 0 on were expected)")
    return seconds


def _is_recording(name: str, folder: Path) -> bool:
    return bool(name) and os.path.isfile(_found(name, folder))


def _found(name: str, folder: Path) -> str:
    """Find a recording beside its table, where its ending may be missing."""
    for root in (folder, folder / _CLIPS, folder / "wavs", folder / "wav"):
        path = str(root / name)
        if Path(name).suffix.lower() in AUDIO_SUFFIXES:
            if os.path.exists(path):
                return path
            continue
        for suffix in sorted(AUDIO_SUFFIXES):
            if os.path.exists(path + suffix):
                return path + suffix
        if os.path.isfile(path):
            return path
    return str(folder / name)
