"""Lhotse's manifests: cuts, or recordings and supervisions, as JSON lines.

Source: https://lhotse.readthedocs.io/en/latest/cuts.html and
https://lhotse.readthedocs.io/en/latest/corpus.html
"""

from pathlib import Path
from typing import Any, NamedTuple

from asr.data.corpora.entries import ALL, Entry, Kind, Problem, Subset
from asr.data.corpora.json_lines import objects, seconds, string
from asr.errors import CorpusError

_ENDINGS = (".jsonl", ".jsonl.gz")
_TOLERANCE = 0.001  # seconds


def read(source: Path) -> list[Subset]:
    """List the utterances of a file of cuts, or of a folder.

    A folder holds cuts, or recordings and supervisions; names may begin or end with
    that of a subset, as in `librispeech_cuts_train.jsonl.gz`.

    Raises:
        CorpusError: there is none, or a file cannot be read.
    """
    if source.is_file():
        return [_read_cuts(source, ALL)]
    cuts = files(source, "cuts")
    if cuts:
        return [_read_cuts(path, _name(path, "cuts")) for path in cuts]
    supervisions = files(source, "supervisions")
    if not supervisions:
        raise CorpusError(f"{source}: holds no cuts and no supervisions (.jsonl[.gz])")
    return [_read_supervisions(path) for path in supervisions]


def files(folder: Path, what: str) -> list[Path]:
    """Find the files of a folder that hold one kind of manifest."""
    return sorted(
        path
        for path in folder.iterdir()
        if what in path.name and path.name.endswith(_ENDINGS) and path.name[0] != "."
    )


def _name(path: Path, what: str) -> str:
    """Return the subset that a file's name has.

    >>> _name(Path("libri_cuts_dev-clean.jsonl.gz"), "cuts")
    'libri_dev-clean'
    """
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    parts = [part.strip("_-.") for part in stem.split(what)]
    return "_".join(filter(None, parts)) or ALL


def _read_cuts(path: Path, name: str) -> Subset:
    entries, problems = list[Entry](), list[Problem]()
    for number, cut in objects(path, problems):
        try:
            recording = _recording(cut.get("recording"), path.parent)
            start = seconds(cut, "start")
            supervisions = _listed(cut, "supervisions")
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{path}:{number}: {error}"))
            continue
        for line in supervisions:
            line.setdefault("channel", cut.get("channel"))
            _add(line, recording, start, f"{path}:{number}", entries, problems)
    return Subset(name, entries, problems, path)


def _read_supervisions(path: Path) -> Subset:
    folder, problems = path.parent, list[Problem]()
    beside = folder / path.name.replace("supervisions", "recordings")
    recordings, entries = dict[str, _Recording](), list[Entry]()
    for number, line in objects(beside, problems):
        try:
            recordings[string(line, "id")] = _recording(line, folder)
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{beside}:{number}: {error}"))
    for number, line in objects(path, problems):
        try:
            recording = recordings.get(string(line, "recording_id"))
        except ValueError as error:
            problems.append(Problem(Kind.MALFORMED, f"{path}:{number}: {error}"))
            continue
        if recording is None:
            what = f"{path}:{number}: {line['recording_id']} is not in {beside}"
            problems.append(Problem(Kind.NO_AUDIO, what))
            continue
        _add(line, recording, 0.0, f"{path}:{number}", entries, problems)
    return Subset(_name(path, "supervisions"), entries, problems, path)


class _Recording(NamedTuple):
    path: str
    seconds: float
    channels: list[int]
    """Their numbers, from 0; empty where they are not given."""


def _recording(line: Any, folder: Path) -> _Recording:
    if not isinstance(line, dict):
        raise ValueError("has no recording (a JSON object was expected)")
    sources = _listed(line, "sources")
    if len(sources) != 1 or sources[0].get("type") != "file":
        kinds = ", ".join(str(source.get("type")) for source in sources) or "nothing"
        raise ValueError(f"has its audio from {kinds} (one file was expected)")
    name = string(sources[0], "source")
    path = Path(name) if Path(name).exists() else folder / name
    channels = sources[0].get("channels")
    numbers = channels if isinstance(channels, list) else []
    return _Recording(str(path), seconds(line, "duration"), numbers)


def _listed(line: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = line.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"has no {key} (a list was expected)")
    return found


def _add(
    line: dict[str, Any],
    recording: _Recording,
    begin: float,
    place: str,
    entries: list[Entry],
    problems: list[Problem],
) -> None:
    """Add the utterance of a supervision, or what is wrong with it."""
    try:
        entry = _entry(line, recording, begin)
    except ValueError as error:
        problems.append(Problem(Kind.MALFORMED, f"{place}: {error}"))
        return
    if other := _channel(line, recording):
        problems.append(Problem(Kind.CHANNEL, f"{place}: {entry.id} {other}"))
    else:
        entries.append(entry)


def _channel(line: dict[str, Any], recording: _Recording) -> str:
    """Return why a supervision is not of the mix of all channels, which is read."""
    named = line.get("channel")
    wanted = named if isinstance(named, list) else [named]
    if (
        named is None
        or len(recording.channels) < 2
        or (all(channel in wanted for channel in recording.channels))
    ):
        return ""
    name = Path(recording.path).name
    numbers = ", ".join(map(str, wanted))
    return (
        f"is of channel {numbers} of {name}, which has {len(recording.channels)} (make "
        f"a file of each channel, the first one by: sox {name} 0.wav remix 1)"
    )


def _entry(line: dict[str, Any], recording: _Recording, begin: float) -> Entry:
    path, length, _ = recording
    start, duration = begin + _number(line, "start"), seconds(line, "duration")
    start = max(0.0, round(start, 6))
    id, text = string(line, "id"), line.get("text") or ""
    if not isinstance(text, str):
        raise ValueError("has a text that is none")
    speaker = str(line.get("speaker") or "")
    if start < _TOLERANCE and abs(duration - length) < _TOLERANCE:
        return Entry(id, path, text, speaker)
    return Entry(id, path, text, speaker, start, duration)


def _number(line: dict[str, Any], key: str) -> float:
    """Return a time that may lie before its cut."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"has no {key} (seconds were expected)")
    return float(value)
