"""Kaldi's data folders: wav.scp, text, utt2spk and segments.

    wav.scp    RECORDING PATH
    text       UTTERANCE WORDS…
    utt2spk    UTTERANCE SPEAKER       may be missing
    segments   UTTERANCE RECORDING START END, in seconds; may be missing

A wav.scp may name a command with a pipe behind it, which Kaldi runs. Here nothing of a
corpus is ever run: such a recording is a problem that is listed.

Source: https://kaldi-asr.org/doc/data_prep.html
"""

import math
from collections.abc import Iterator
from pathlib import Path

from asr.data.corpora.entries import ALL, Entry, Kind, Problem, Subset
from asr.data.corpora.text_files import lines, read_text
from asr.errors import CorpusError

_Part = tuple[str, float | None, float | None]
"""A recording; where in it a part begins, if it is one; and its seconds."""

RECORDINGS, TEXT, SPEAKERS, SEGMENTS = "wav.scp", "text", "utt2spk", "segments"


def read(source: Path) -> list[Subset]:
    """List the utterances of a data folder, or of each of several in one folder.

    Raises:
        CorpusError: there is none, or a file of it is missing or cannot be read.
    """
    if (source / RECORDINGS).is_file():
        return [_read_folder(source, ALL)]
    folders = sorted(path.parent for path in source.glob(f"*/{RECORDINGS}"))
    if not folders:
        raise CorpusError(f"{source}: holds no {RECORDINGS} (Kaldi's data folder)")
    return [_read_folder(folder, folder.name) for folder in folders]


def _read_folder(folder: Path, name: str) -> Subset:
    problems = list[Problem]()
    recordings = _recordings(folder, problems)
    texts = dict(_pairs(folder / TEXT, problems, may_be_empty=True))
    speakers = _optional(folder / SPEAKERS, problems)
    entries, segments = list[Entry](), dict[str, _Part]()
    if (folder / SEGMENTS).exists():
        segments = _segments(folder / SEGMENTS, problems)
    else:
        segments = {id: (id, None, None) for id in recordings}
    for id, (recording, start, duration) in segments.items():
        if recording not in recordings:
            problems.append(
                Problem(
                    Kind.NO_AUDIO,
                    f"{folder}: {id} is of {recording}, not in {RECORDINGS}",
                )
            )
        elif id not in texts:
            problems.append(Problem(Kind.NO_TEXT, f"{folder}: {id} has no text"))
        else:
            speaker = speakers.get(id, "")
            entries.append(
                Entry(id, recordings[recording], texts[id], speaker, start, duration)
            )
    problems += [
        Problem(Kind.NO_AUDIO, f"{folder}: {id} has no audio")
        for id in texts.keys() - segments.keys()
    ]
    return Subset(name, entries, problems, folder)


def _recordings(folder: Path, problems: list[Problem]) -> dict[str, str]:
    found = dict[str, str]()
    for id, path in _pairs(folder / RECORDINGS, problems):
        if path.endswith("|") or path.startswith("|"):
            what = f"{folder / RECORDINGS}: {id} is a command, which is not run"
            problems.append(Problem(Kind.UNREADABLE, what))
        else:
            found[id] = _found(path, folder)
    return found


def _found(path: str, folder: Path) -> str:
    """Find a recording: Kaldi's paths start where its recipe was run."""
    for root in (Path(), folder, *folder.resolve().parents):
        if (root / path).exists():
            return str(root / path)
    return path


def _optional(path: Path, problems: list[Problem]) -> dict[str, str]:
    return dict(_pairs(path, problems)) if path.exists() else {}


def _pairs(
    path: Path, problems: list[Problem], *, may_be_empty: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield the key of each line and what stands behind it; each key once."""
    seen = set[str]()
    for number, line in lines(read_text(path).content):
        id, *rest = line.split(maxsplit=1)
        if not rest and not may_be_empty:
            what = f"{path}:{number}: {id} has nothing behind it"
            problems.append(Problem(Kind.MALFORMED, what))
        elif id in seen:
            what = f"{path}:{number}: {id} is there already"
            problems.append(Problem(Kind.DUPLICATE, what))
        else:
            seen.add(id)
            yield id, "".join(rest).strip()


def _segments(path: Path, problems: list[Problem]) -> dict[str, _Part]:
    found = dict[str, _Part]()
    for id, rest in _pairs(path, problems):
        try:
            recording, start, end = rest.split()[:3]
            first, last = float(start), float(end)
            is_open = last == -1  # Kaldi's end of the recording
            if not (0 <= first < math.inf and (is_open or first < last < math.inf)):
                raise ValueError(f"from {start} to {end}")
        except ValueError:
            what = f"{path}: {id} {rest} (RECORDING START END was expected)"
            problems.append(Problem(Kind.MALFORMED, what))
            continue
        found[id] = recording, first, None if is_open else last - first
    return found
