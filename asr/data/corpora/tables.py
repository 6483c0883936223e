"""Corpora as tables: CSV or TSV with a line an utterance, and Common Voice's.

Encoding, delimiter, quoting and the meaning of the columns are found out where nobody
names them, and reported.

Source: https://commonvoice.mozilla.org/datasets (the layout of a release);
RFC 4180 (CSV).
"""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
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
from asr.data.corpora.text_files import Text, read_text
from asr.errors import CorpusError

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
    rows: list[list[str]]
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
    table = _parse(path)
    meaning, has_header = _meaning(table.rows[0], columns, path)
    entries, problems = list[Entry](), list[Problem]()
    for number, row in enumerate(table.rows[has_header:], 1 + has_header):
        if not any(cell.strip() for cell in row):
            continue
        try:
            entries.append(_entry(row, meaning, path.parent))
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{path}:{number}: {error}"))
    entries = number_parts(entries)
    return Subset(path.stem, entries, problems, path), _notice(
        path, table, meaning, has_header
    )


def _notice(path: Path, table: _Table, meaning: _Meaning, has_header: bool) -> str:
    def name(column: int) -> str:
        return table.rows[0][column] if has_header else f"column {column + 1}"

    delimiter = {"\t": "tab", ",": "comma", ";": "semicolon"}.get(table.delimiter, "|")
    guessed = " (a guess)" if table.text.is_guessed else ""
    speaker = "none" if meaning.speaker is None else name(meaning.speaker)
    return (
        f"{path}: {table.text.encoding}{guessed}, {delimiter} between columns, "
        f"{'with' if table.is_quoted else 'no'} quotes; audio: {name(meaning.audio)}, "
        f"text: {name(meaning.text)}, speaker: {speaker}"
    )


def _parse(path: Path) -> _Table:
    text = read_text(path)
    head = next((line for line in text.content.split("\n") if line.strip()), "")
    if not head:
        raise CorpusError(f"{path}: is empty (a table was expected)")
    delimiter = max(_DELIMITERS, key=head.count)
    if delimiter not in head:
        raise CorpusError(
            f"{path}: has one column only (audio and text were expected, with a tab, "
            "comma, semicolon or | between)"
        )
    is_quoted = _is_quoted(text.content, delimiter)
    csv.field_size_limit(2**24)
    try:
        reader = csv.reader(
            text.content.replace("\0", "").splitlines(keepends=True)
            if not is_quoted
            else _kept_lines(text.content),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
        )
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise CorpusError(f"{path}: is no table ({error})") from error
    return _Table(rows, delimiter, is_quoted, text)


def _kept_lines(content: str) -> Iterable[str]:
    return (line + "\n" for line in content.split("\n"))


def _is_quoted(content: str, delimiter: str) -> bool:
    """Return whether fields stand in quotes; in a TSV a quote is usually just one.

    In quotes is what a field begins and ends with, in each line where one begins so.
    """
    sample = content[: 2**20].split("\n")[:2000]
    fields = [field.strip("\r ") for line in sample for field in line.split(delimiter)]
    begun = [field for field in fields if field.startswith('"')]
    closed = [f for f in begun if f.endswith('"') and len(f) > 1]
    if delimiter == "\t":
        return len(closed) > len(fields) / 10 and len(closed) == len(begun)
    return bool(begun)


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
    if not found and len(header) >= 2 and Path(_found(header[0], path.parent)).exists():
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


def _found(name: str, folder: Path) -> str:
    """Find a recording beside its table, where its ending may be missing."""
    for root in (folder, folder / _CLIPS, folder / "wavs", folder / "wav"):
        path = root / name
        if path.suffix.lower() in AUDIO_SUFFIXES:
            if path.exists():
                return str(path)
            continue
        for suffix in sorted(AUDIO_SUFFIXES):
            if (found := path.with_name(path.name + suffix)).exists():
                return str(found)
        if path.is_file():
            return str(path)
    return str(folder / name)
