"""Shards: a corpus as a few large files, which are read from front to back.

A disk or a network reads a file of an hour of speech much faster than its 300 short
recordings. A shard is a tar file in WebDataset's layout: of each utterance KEY.json,
its line of the manifest, and KEY.flac (or .opus, .wav …), its audio as it was; a part
of a long recording is cut out of it, as FLAC.

    corpus/manifest.jsonl     a manifest like any other, whose audio is
                              shard-000003.tar:OFFSET:SIZE
    corpus/shard-000000.tar   the utterances in random order, so that each shard is a
    corpus/shard-000001.tar   sample of the corpus

Whatever reads a manifest reads this one. Training does so without holding it in memory:
of an utterance stay its duration, its shard and the place of its line in the file.

Source: the layout of https://github.com/webdataset/webdataset.
"""

import json
import os
import random
import tarfile
import weakref
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload
from urllib.parse import quote

import numpy as np

from asr.audio import AUDIO_SUFFIXES, encode
from asr.audio.archives import Location, location, source
from asr.audio.errors import cut_short
from asr.data.manifest import Utterance, parse_line, read_manifest, write_manifest
from asr.data.recordings import read_utterance
from asr.errors import AudioError, ConfigError, ManifestError
from asr.files import whole_folder
from asr.foreign import read_lines
from asr.progress import progress_bar
from asr.wording import counted

MANIFEST = "manifest.jsonl"
"""In the folder of shards."""
_READ_AT_ONCE = 2**20  # bytes
_SHARDS_READ_AHEAD = 32
"""How many of the shards that were read last are not read ahead once more."""

# Writing


class Sharded(NamedTuple):
    """What was written."""

    folder: Path
    num_utterances: int
    seconds: float
    num_shards: int

    def __str__(self) -> str:
        """Write it in one line."""
        return (
            f"{self.folder / MANIFEST}: {counted(self.num_utterances, 'utterance')}, "
            f"{self.seconds / 3600:.2f} h, in {counted(self.num_shards, 'shard')}"
        )


def write_shards(manifest: str | Path, folder: str | Path, hours: float) -> Sharded:
    """Write a corpus as shards of equal length, whole or not at all.

    Args:
        manifest: of the corpus.
        folder: for the shards and their manifest; is made, and must not hold anything.
        hours: in a shard, about, at most.

    Raises:
        ConfigError: the hours are not above 0.
        ManifestError: the manifest cannot be read, or the folder not be written to.
        AudioError: a recording is missing or empty; its id is named.
    """
    if not hours > 0:
        raise ConfigError(f"--hours must be above 0, not {hours:g}")
    folder = Path(folder)
    utterances = read_manifest(manifest)
    for utterance in utterances:
        with closing(_opened(utterance)):
            pass
    random.Random("shards").shuffle(utterances)
    with whole_folder(folder) as partial:
        num_shards = _write(utterances, partial, 3600 * hours)
    seconds = sum(utterance.duration for utterance in utterances)
    return Sharded(folder, len(utterances), seconds, num_shards)


def _write(utterances: Sequence[Utterance], folder: Path, seconds: float) -> int:
    """Write shards and manifest; return the number of shards."""
    total = sum(utterance.duration for utterance in utterances)
    seconds = total / -(-total // seconds)  # shards of equal length
    written, before = list[Utterance](), 0.0
    shards = list[list[Utterance]]()
    for utterance in utterances:
        if before >= len(shards) * seconds:
            shards.append([])
        shards[-1].append(utterance)
        before += utterance.duration
    with progress_bar(len(utterances), "shard", "utterances") as bar:
        for number, shard in enumerate(shards):
            path = folder / f"shard-{number:06d}.tar"
            for utterance in _write_shard(path, shard):
                written.append(utterance)
                bar.update()
    write_manifest(folder / MANIFEST, written)
    return len(shards)


def _write_shard(path: Path, utterances: Sequence[Utterance]) -> Iterator[Utterance]:
    """Write one shard; yield each utterance with its place in it."""
    with path.open("xb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for utterance in utterances:
                place = _append(tar, path, utterance)
                yield replace(utterance, audio=str(place), start=None)
        file.flush()
        os.fsync(file.fileno())


def _append(tar: tarfile.TarFile, path: Path, utterance: Utterance) -> Location:
    """Append an utterance to a shard; return where its audio is."""
    key = quote(utterance.id, safe="").replace(".", "%2E")
    with closing(_opened(utterance)) as audio:
        name = f"{key}{_suffix(utterance)}"
        whole = replace(utterance, audio=name, start=None)
        line = json.dumps(whole.to_dict(), ensure_ascii=False)
        _add(tar, f"{key}.json", BytesIO(line.encode()))
        size = _add(tar, name, audio)
    blocks = -(-size // tarfile.BLOCKSIZE)
    return Location(str(path), tar.offset - blocks * tarfile.BLOCKSIZE, size)


def _add(tar: tarfile.TarFile, name: str, file: BinaryIO) -> int:
    """Add a file to an archive, the same bytes each time; return its size."""
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    tar.addfile(entry, file)
    return entry.size


def _opened(utterance: Utterance) -> BinaryIO:
    """Open the audio of an utterance; a part of a recording is cut out of it."""
    place = f"{utterance.id}: {utterance.audio}"
    if utterance.start is not None:
        return BytesIO(encode(read_utterance(utterance), "flac"))
    try:
        file = source(Path(utterance.audio), place).open("rb")
        if not file.read(1):
            file.close()
            raise AudioError(f"{place}: is empty (a recording was expected)")
    except OSError as error:
        raise AudioError(f"{place}: cannot be read ({error.strerror})") from error
    return file


def _suffix(utterance: Utterance) -> str:
    """Return the ending of an utterance's audio, which shows others its format."""
    if utterance.start is not None:
        return ".flac"
    file = source(Path(utterance.audio), utterance.id)
    suffix = file.suffix.lower()
    return suffix if suffix in AUDIO_SUFFIXES else ".audio"


# Reading


def read_corpus(paths: Sequence[str | Path]) -> Sequence[Utterance]:
    """Read manifests to learn from, all together.

    Returns:
        A list; or, where the manifests name shards, `ShardedUtterances`.

    Raises:
        ManifestError: a manifest cannot be read, or some name shards and some do not.
        AudioError: a shard is missing, or is cut short.
    """
    plain = [path for path in paths if not _names_shards(Path(path))]
    if len(plain) == len(paths):
        return [u for path in paths for u in read_manifest(path)]
    if plain:
        raise ManifestError(
            f"{plain[0]}: names no shards, as another manifest of data.train does "
            "(`asr data shard` writes them)"
        )
    return ShardedUtterances(paths)


def _names_shards(path: Path) -> bool:
    """Return whether the first line of a manifest has its audio in a shard."""
    try:
        first = next((line for line in read_lines(path) if not line.isspace()), "")
        return location(parse_line(first, path, 1).audio) is not None
    except (OSError, ValueError, ManifestError):
        return False  # whoever reads it reports it


class _Lines:
    """The lines of a manifest, which stay in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[type["_Lines"], tuple[Path]]:
        """Let another process open the file for itself."""
        return _Lines, (self.path,)

    def read(self, start: int, length: int) -> bytes:
        """Read a line that starts at a byte; from any thread."""
        return os.pread(self._file, length, start)


class ShardedUtterances(Sequence[Utterance]):
    """The utterances of manifests that name shards; each is read when it is asked for.

    In memory stay 30 bytes of each.

    Args:
        paths: of the manifests.

    Raises:
        ManifestError: a manifest cannot be read, a line of it is no utterance in a
            shard, or an id occurs twice.
        AudioError: a shard is missing, or is cut short.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.durations = array("d")
        """Seconds of each utterance."""
        self.shards = array("i")
        """Number of the shard of each utterance."""
        self._names = list[Path]()  # of the shards, by number
        self._manifests = list[_Lines]()
        self._manifest = array("H")  # number of each one's manifest
        self._starts = array("q")  # of each one's line in the manifest, in bytes
        self._lengths, self._numbers = array("i"), array("i")  # of each one's line
        self._ahead = deque[int](maxlen=_SHARDS_READ_AHEAD)
        for path in map(Path, paths):
            try:
                self._add(path)
            except OSError as error:
                raise ManifestError(
                    f"{path}: cannot be read ({error.strerror})"
                ) from error
            except UnicodeDecodeError as error:
                raise ManifestError(f"{path}: is not UTF-8 text") from error

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self.durations)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> "ShardedUtterances": ...

    def __getitem__(self, index: int | slice) -> "Utterance | ShardedUtterances":
        """Read an utterance from its manifest, or choose some without reading them."""
        if isinstance(index, slice):
            return self._some(index)
        lines = self._manifests[self._manifest[index]]
        line = lines.read(self._starts[index], self._lengths[index])
        return parse_line(line.decode(), lines.path, self._numbers[index])

    def read_ahead(self, index: int) -> None:
        """Read the shard of an utterance from front to back, if it was not of late.

        It then is in the memory of the system, which drops it when it needs the room.

        Raises:
            AudioError: it cannot be read.
        """
        number = self.shards[index]
        if number in self._ahead:
            return
        self._ahead.append(number)
        path, room = self._names[number], bytearray(_READ_AT_ONCE)
        try:
            with path.open("rb", buffering=0) as shard:
                while shard.readinto(room):
                    pass
        except OSError as error:
            raise AudioError(f"{path}: cannot be read ({error.strerror})") from error

    def _some(self, chosen: slice) -> "ShardedUtterances":
        some = ShardedUtterances([])
        some.durations, some.shards = self.durations[chosen], self.shards[chosen]
        some._names, some._manifests = self._names, self._manifests
        some._manifest, some._starts = self._manifest[chosen], self._starts[chosen]
        some._lengths = self._lengths[chosen]
        some._numbers = self._numbers[chosen]
        return some

    def _add(self, path: Path) -> None:
        """Read a manifest."""
        numbers, hashes = dict[str, int](), array("q")
        ends, first, start = Counter[int](), len(self), 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    start += len(line)
                    continue
                utterance = parse_line(line.decode(), path, number)
                place = location(utterance.audio)
                if place is None:
                    raise ManifestError(
                        f"{path}:{number}: {utterance.id} is in no shard, as the "
                        "utterances before are"
                    )
                if place.archive not in numbers:
                    numbers[place.archive] = len(self._names)
                    self._names.append(Path(place.archive))
                shard = numbers[place.archive]
                ends[shard] = max(ends[shard], place.offset + place.size)
                hashes.append(hash(utterance.id))
                self.durations.append(utterance.duration)
                self.shards.append(shard)
                self._starts.append(start)
                self._lengths.append(len(line))
                self._numbers.append(number)
                start += len(line)
        self._manifest.extend([len(self._manifests)] * len(hashes))
        self._manifests.append(_Lines(path))
        self._check_ids(path, hashes, first)
        for shard, end in ends.items():
            _check_shard(self._names[shard], end, path)

    def _check_ids(self, path: Path, hashes: "array[int]", first: int) -> None:
        """Refuse an id that occurs twice; only those of equal hashes are read."""
        found = np.frombuffer(hashes, np.int64)
        order = np.argsort(found, kind="stable")
        for place in np.flatnonzero(np.diff(found[order]) == 0):
            one, other = (first + int(i) for i in order[place : place + 2])
            id = self[other].id
            if self[one].id == id:
                raise ManifestError(
                    f"{path}:{self._numbers[other]}: {id} is already on line "
                    f"{self._numbers[one]}"
                )


def _check_shard(shard: Path, end: int, manifest: Path) -> None:
    """Refuse a shard that is missing or does not hold all that the manifest names."""
    try:
        size = shard.stat().st_size
    except OSError as error:
        raise AudioError(
            f"{shard}: cannot be read ({error.strerror}; {manifest} names it)"
        ) from error
    if size < end:
        raise cut_short(str(shard), size, end, "bytes")
