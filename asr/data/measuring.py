"""Look at the recordings of a corpus, in several processes, and keep what was found.

How long is each, can it be read, and which are the same? Headers alone are read, and
the contents of files of equal size; with `trim` the whole recording. What was found is
appended to a file, so that a preparation that was stopped goes on where it was.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from asr.acoustics import speech_limits
from asr.audio import SAMPLE_RATE, duration, read_waveform
from asr.data.corpora.entries import Entry
from asr.data.recordings import TOLERANCE
from asr.errors import AudioError, CorpusError
from asr.files import errors_of
from asr.processes import worker_pool
from asr.progress import progress_bar

_AT_ONCE = 32
"""Recordings that a process looks at before it reports."""

_MARGIN = 0.1
"""Seconds of silence that stay at both ends: soft sounds begin and end a word."""


class Measured(NamedTuple):
    """What was found out about a recording, or a part of one."""

    seconds: float
    start: float | None
    """Second where it starts; None where it is the whole recording."""
    content: str
    """Equal for recordings that are equal; empty where no other can be."""
    error: str = ""
    """What is wrong with it."""
    is_beyond: bool = False
    """Whether what is wrong is that the part ends after its recording."""


class _Task(NamedTuple):
    audio: str
    start: float | None
    duration: float | None
    trim: float | None
    compare: bool
    """Whether there is another recording of its size."""


def measured(
    entries: Sequence[Entry], journal: Path, processes: int, trim: float | None
) -> list[Measured]:
    """Look at the recordings of entries.

    Args:
        entries: what there is.
        journal: file that keeps what was found; deleted by the caller at the end.
        processes: that read; with 1 it is this one.
        trim: decibels, to leave out the silence at both ends; None to keep it.

    Raises:
        CorpusError: the journal cannot be written.
        ConfigError: a process was killed twice over the same recordings.
    """
    tasks = _tasks(entries, trim)
    keys = [_key(task) for task in tasks]
    found = _read(journal)
    left = [(k, t) for k, t in zip(keys, tasks, strict=True) if k not in found]
    left = list(dict(left).items())
    if not left:
        return [found[key] for key in keys]
    with (
        progress_bar(len(entries), "prepare", "recordings") as bar,
        _appending(journal) as write,
        _mapped(processes) as run,
    ):
        bar.update(len(entries) - len(left))
        groups = [left[i : i + _AT_ONCE] for i in range(0, len(left), _AT_ONCE)]
        for group, results in zip(groups, run(groups), strict=True):
            for (key, _), result in zip(group, results, strict=True):
                found[key] = result
                write({"key": key, **result._asdict()})
            bar.update(len(group))
    return [found[key] for key in keys]


def _tasks(entries: Sequence[Entry], trim: float | None) -> list[_Task]:
    sizes = {entry.audio: _size(entry.audio) for entry in entries}
    counts = Counter(size for size in sizes.values() if size is not None)
    return [
        _Task(e.audio, e.start, e.duration, trim, counts[sizes[e.audio] or -1] > 1)
        for e in entries
    ]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None  # whoever opens it reports it


def _key(task: _Task) -> str:
    """Name a task by the file as it is now, so that a changed one is read again."""
    try:
        stat = os.stat(task.audio)
        version = f"{stat.st_size} {stat.st_mtime_ns}"
    except (OSError, ValueError):
        version = "missing"
    content = json.dumps([*task, version])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:24]


# In several processes


_Group = Sequence[tuple[str, _Task]]


@contextmanager
def _mapped(
    processes: int,
) -> Iterator[Callable[[Iterable[_Group]], Iterator[list[Measured]]]]:
    """Keep processes ready for groups of tasks; results keep their order."""
    if processes == 1:
        yield partial(map, partial(_look_at_all, None))
        return
    with worker_pool(_keep_nothing, processes) as workers:
        yield partial(workers.in_order, _look_at_all)


def _keep_nothing() -> None:
    """Begin a worker: it needs nothing."""


def _look_at_all(kept: None, group: _Group) -> list[Measured]:
    return [_look_at(task) for _, task in group]


def _look_at(task: _Task) -> Measured:
    try:
        with errors_of(task.audio):
            whole = duration(task.audio)
            content = _digest(task.audio) if task.compare else ""
        start, seconds = task.start, task.duration
        if start is not None and seconds is None:
            seconds = whole - start
        if start is None or seconds is None:
            start, seconds = None, whole
        elif start + seconds > whole + TOLERANCE or seconds <= 0:
            what = f"ends at {start + seconds:.2f} s, its recording at {whole:.2f} s"
            return Measured(seconds, start, content, what, is_beyond=True)
        elif start == 0 and abs(seconds - whole) <= TOLERANCE:
            start, seconds = None, whole
        if task.trim is not None:
            start, seconds = _trimmed(task, start, seconds)
    except AudioError as error:
        return Measured(0.0, task.start, "", str(error))
    return Measured(seconds, start, content)


def _trimmed(
    task: _Task, start: float | None, seconds: float
) -> tuple[float | None, float]:
    """Leave out the silence at both ends, but for a moment."""
    assert task.trim is not None
    begin = start or 0.0
    waveform = read_waveform(task.audio, start=begin, end=begin + seconds)
    first, last = speech_limits(waveform, task.trim)
    if last <= first:
        raise AudioError(f"{task.audio}: is silent")
    length = len(waveform) / SAMPLE_RATE
    first, last = max(0.0, first - _MARGIN), min(length, last + _MARGIN)
    if first == 0 and last == length:
        return start, seconds
    return round(begin + first, 3), round(last - first, 3)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


# The journal


def _read(journal: Path) -> dict[str, Measured]:
    """Read what was found before; a last line that was cut short is left out."""
    found = dict[str, Measured]()
    try:
        content = journal.read_bytes()
    except OSError:
        return found
    for line in content.split(b"\n"):
        try:
            entries = json.loads(line)
            key = entries.pop("key")
            found[key] = Measured(**entries)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # it is looked at again
    return found


@contextmanager
def _appending(journal: Path) -> Iterator[Any]:
    try:
        with journal.open("a", encoding="utf-8") as file:
            yield partial(_append, file)
    except OSError as error:
        raise CorpusError(f"{journal}: cannot be written ({error.strerror})") from error


def _append(file: IO[str], line: dict[str, Any]) -> None:
    file.write(f"\n{json.dumps(line)}\n")  # what was cut short before ends here
    file.flush()
