"""Datasets of Hugging Face: a folder that `save_to_disk` wrote, or a name on the Hub.

The audio is taken as it was recorded, undecoded: a file that lies on the disk stays
where it is, the bytes of others are written to files.

The library is an optional extra: `pip install "listen-attend-spell[datasets]"`.

Source: https://huggingface.co/docs/datasets/audio_load
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.audio import AUDIO_SUFFIXES, duration, encode
from asr.data.corpora.entries import ALL, Columns, Entry, Kind, Problem, Subset
from asr.data.manifest import Utterance
from asr.data.recordings import read_utterance
from asr.errors import CorpusError

_TEXT = ("text", "sentence", "transcription", "transcript", "normalized_text")
_SPEAKER = ("speaker", "speaker_id", "client_id")
_ID = ("id", "utterance_id", "utt_id", "segment_id")
_MARKS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is what `save_to_disk` writes."""
    names = ("dataset_dict.json", "state.json")
    return any((folder / name).is_file() for name in names)


def read(
    source: str, audio: Path, columns: Columns, wanted: Sequence[str] | None = None
) -> list[Subset]:
    """List the utterances of a dataset, each of its splits a subset.

    Args:
        source: a folder, or a name on the Hub, with its configuration behind a colon
            (mozilla-foundation/common_voice_17_0:de).
        audio: folder for recordings that are no files yet.
        columns: names of columns, where they are not the usual ones.
        wanted: names of splits; None for all.

    Raises:
        CorpusError: the library is missing, or the dataset cannot be read.
    """
    splits = _load(source)
    names = list(wanted or splits)
    if missing := [name for name in names if name not in splits]:
        raise CorpusError(
            f"{source}: has no split {missing[0]} (it has {', '.join(splits)})"
        )
    return [_subset(source, n, splits[n], audio / n, columns) for n in names]


def save(utterances: Sequence[Utterance], folder: Path) -> None:
    """Write a dataset as `load_from_disk` reads it; its audio stays undecoded.

    Args:
        utterances: parts of long recordings are cut out of them, as FLAC.
        folder: for the dataset; what is there already is replaced.

    Raises:
        CorpusError: the library is missing, or the folder cannot be written.
        AudioError: a recording cannot be read.
    """
    datasets = _library(str(folder))
    rows = {
        "id": [utterance.id for utterance in utterances],
        "audio": [_audio(utterance) for utterance in utterances],
        "text": [utterance.text for utterance in utterances],
        "speaker": [utterance.speaker for utterance in utterances],
    }
    made = datasets.Dataset.from_dict(rows)
    made = made.cast_column("audio", datasets.Audio(decode=False))
    try:
        made.save_to_disk(str(folder))
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be written ({error})") from error


def _audio(utterance: Utterance) -> dict[str, Any]:
    path = Path(utterance.audio).resolve()
    if utterance.start is None:
        duration(path, name=utterance.audio)  # which reports what is wrong with it
        return {"bytes": None, "path": str(path)}
    content = encode(read_utterance(utterance), "flac")
    return {"bytes": content, "path": f"{_file_name(utterance.id)}.flac"}


def _library(place: str) -> Any:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise CorpusError(
            f"{place}: needs the library of Hugging Face (pip install "
            '"listen-attend-spell[datasets]")'
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _load(source: str) -> dict[str, Any]:
    datasets = _library(source)
    try:
        if Path(source).is_dir():
            found: Any = datasets.load_from_disk(source)
        else:
            name, _, configuration = source.partition(":")
            found = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # of a large library, and of the network
        lines = str(error).splitlines() or [type(error).__name__]
        raise CorpusError(f"{source}: cannot be loaded ({lines[0]})") from error
    splits = {ALL: found} if isinstance(found, datasets.Dataset) else dict(found)
    undecoded = datasets.Audio(decode=False)
    for name, split in splits.items():
        for column, feature in split.features.items():
            if isinstance(feature, datasets.Audio):
                splits[name] = split.cast_column(column, undecoded)
    return splits


def _subset(
    source: str, name: str, split: Any, folder: Path, columns: Columns
) -> Subset:
    entries, problems = list[Entry](), list[Problem]()
    names = list(split.features)
    audio = columns.audio or _column(split, source)
    text = columns.text or next((n for n in _TEXT if n in names), None)
    if text is None or text not in names or audio not in names:
        raise CorpusError(
            f"{source}: which of its columns are audio and text? It has "
            f"{', '.join(names)} (name them by --audio-column and --text-column)"
        )
    speaker = columns.speaker or next((n for n in _SPEAKER if n in names), "")
    known = next((n for n in _ID if n in names), "")
    used = set[str]()
    for number, row in enumerate(split):
        try:
            given = "_".join(str(row.get(known) or "").split())
            path, id = _file(row[audio], folder, given, f"{name}-{number:06d}", used)
        except ValueError as error:
            problems.append(
                Problem(Kind.NO_AUDIO, f"{source}: {name} {number} {error}")
            )
            continue
        said = "" if row[text] is None else str(row[text])
        entries.append(Entry(id, str(path), said, str(row.get(speaker, "") or "")))
    return Subset(name, entries, problems, Path(source))


def _column(split: Any, source: str) -> str:
    for name, feature in split.features.items():
        if type(feature).__name__ == "Audio":
            return str(name)
    raise CorpusError(f"{source}: has no column of audio")


def _file(
    audio: Any, folder: Path, given: str, numbered: str, used: set[str]
) -> tuple[Path, str]:
    """Return the file of a recording, which is written if there is none; and an id.

    The id is the given one; or else the name of the file, if no other recording had it
    before; or else a number.
    """
    if not isinstance(audio, dict):
        raise ValueError("has no audio")
    content, path = audio.get("bytes"), audio.get("path")
    stem = "_".join(Path(path or "").stem.split())
    id = given or (stem if stem and stem not in used else numbered)
    used.add(id)
    if not content:
        if not path:
            raise ValueError("has no audio")
        return Path(path), id
    suffix = Path(path or "").suffix.lower()
    if suffix not in AUDIO_SUFFIXES:
        suffix = next(
            (s for mark, s in _MARKS.items() if content[:4].startswith(mark)), ".audio"
        )
    name = f"{_file_name(id)}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    if not file.exists() or file.stat().st_size != len(content):
        partial = folder / f".{hashlib.sha1(name.encode()).hexdigest()[:16]}.partial"
        partial.write_bytes(content)
        partial.replace(file)
    return file, id


def _file_name(id: str) -> str:
    """Return a name for a file that no id can turn into a path."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in id).lstrip(".")
    if kept == id and len(kept) < 100:
        return kept
    return f"{kept[:80]}-{hashlib.sha1(id.encode()).hexdigest()[:12]}"
