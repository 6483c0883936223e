"""Corpora as JSON lines: NeMo's manifests, and our own.

    {"audio_filepath": "a.wav", "offset": 12.5, "duration": 4.2, "text": "…"}    NeMo
    {"id": "a", "audio": "a.wav", "duration": 4.2, "text": "…", "speaker": "84"} ours

Source: https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/
datasets.html
"""

import math
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from asr.data.corpora.entries import ALL, Entry, Kind, Problem, Subset, id_of, part_id
from asr.data.corpora.text_files import lines, read_text
from asr.data.manifest import read_manifest
from asr.errors import CorpusError
from asr.foreign import parse_table

_SUFFIXES = (".jsonl", ".json")


def read_nemo(source: Path) -> list[Subset]:
    """List the utterances of a manifest of NeMo, or of all that a folder holds.

    Raises:
        CorpusError: there is none, or it cannot be read.
    """
    paths = [source] if source.is_file() else manifests(source)
    if not paths:
        raise CorpusError(f"{source}: holds no manifest of NeMo (.json or .jsonl)")
    name = ALL if len(paths) == 1 else None
    return [_read_nemo(path, name or path.stem) for path in paths]


def read_own(source: Path) -> list[Subset]:
    """List the utterances of a manifest as `asr prepare` writes it, or of a folder.

    Raises:
        ManifestError: one of them cannot be read.
    """
    paths = [source] if source.is_file() else sorted(source.glob("*.jsonl"))
    return [
        Subset(
            path.stem,
            [
                Entry(
                    *(u.id, u.audio, u.text, u.speaker, u.start),
                    u.duration if u.start is not None else None,
                )
                for u in read_manifest(path)
            ],
            [],
            path,
        )
        for path in paths
    ]


def is_own(path: Path) -> bool:
    """Return whether a file begins as a manifest that `asr prepare` writes."""
    return _begins_with(path, {"id", "audio", "duration", "text"})


def manifests(folder: Path) -> list[Path]:
    """Find the files of a folder whose first line is one of NeMo's."""
    found = (path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES)
    return [path for path in found if _begins_with(path, {"audio_filepath"})]


def _begins_with(path: Path, keys: Set[str]) -> bool:
    """Return whether the first object of a file, if it can be read, has these keys."""
    try:
        return keys <= first_object(path).keys()
    except CorpusError:
        return False


def first_object(path: Path) -> dict[str, Any]:
    """Return the first JSON object of a file; an empty one where that is none.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        _, line = next(lines(read_text(path).content))
        return parse_table(line)
    except (StopIteration, ValueError):
        return {}


def objects(
    path: Path, problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON object of each line, with its number; note the others."""
    for number, line in lines(read_text(path).content):
        try:
            entries = parse_table(line)
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{path}:{number}: {error}"))
            continue
        yield number, entries


def _read_nemo(path: Path, name: str) -> Subset:
    entries, problems = list[Entry](), list[Problem]()
    for number, line in objects(path, problems):
        try:
            entries.append(_nemo_entry(line, path.parent))
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{path}:{number}: {error}"))
    return Subset(name, number_parts(entries), problems, path)


def _nemo_entry(line: dict[str, Any], folder: Path) -> Entry:
    audio, text = string(line, "audio_filepath"), string(line, "text")
    path = folder / audio
    id = line.get("id") or line.get("utt_id") or id_of(path, folder)
    start, duration = None, None
    if line.get("offset") is not None:
        start = seconds(line, "offset")
        duration = seconds(line, "duration") if "duration" in line else None
    speaker = line.get("speaker", line.get("speaker_id", ""))
    return Entry(str(id), str(path), text, str(speaker), start, duration)


def number_parts(entries: list[Entry]) -> list[Entry]:
    """Give parts of one recording that have its name an id of their own, by time."""
    counts = Counter(entry.id for entry in entries)
    return [
        entry._replace(id=part_id(entry.id, entry.start))
        if counts[entry.id] > 1 and entry.start is not None
        else entry
        for entry in entries
    ]


def string(line: dict[str, Any], key: str) -> str:
    """Return a text of a JSON object.

    Raises:
        ValueError: it has none.
    """
    value = line.get(key)
    if not isinstance(value, str):
        raise ValueError(f"has no {key} (a text was expected)")
    return value


def seconds(line: dict[str, Any], key: str) -> float:
    """Return a time of a JSON object.

    Raises:
        ValueError: it is no number from 0 on.
    """
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"has no {key} (seconds were expected)")
    if not 0 <= value < math.inf:
        raise ValueError(f"has {key} {value}, not a number of seconds from 0 on")
    return float(value)
