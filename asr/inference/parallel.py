"""Many recordings: in several processes of one thread each (see `processes`), on a GPU,
or on the machines of a cluster (see `cluster`).

`transcribe_files` takes recordings, in their order. `decode` takes a manifest, from
long to short utterances and several at a time, and writes a folder (see `hypotheses`);
or a shard of one (see `shards`). What is done is kept: a second start does the rest.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.data.manifest import Utterance, read_manifest
from asr.data.recordings import read_utterance
from asr.errors import AsrError
from asr.files import errors_of
from asr.inference.cluster import Cluster, in_order
from asr.inference.hypotheses import Decoded, DecodedBatch, prepare
from asr.inference.long_audio import (
    BATCH,
    GPU_PIECES,
    Progress,
    Recording,
    transcripts,
)
from asr.inference.processes import (
    batches,
    number_of_processes,
    recognizer_pool,
)
from asr.inference.recognizer import Recognizer
from asr.inference.recognizer_settings import RecognizerSettings
from asr.inference.segmentation import LONGEST, WHOLE
from asr.inference.shards import Shard, finish, settings_of, shard_file
from asr.inference.situations import Decoding
from asr.locks import locked
from asr.memory import return_freed_memory
from asr.model.attention import Attention
from asr.model.storage import pinned_model
from asr.processes import Workers
from asr.progress import progress_bar
from asr.runtime import one_thread
from asr.transcript import Segment, Transcript

Item = TypeVar("Item")

_MUCH = 60.0
"""Seconds of audio from which the start of more processes pays."""


def decode(
    model: str | Path | None,
    manifest: Path,
    folder: Path,
    decoding: Decoding = None,
    *,
    precision: str = "float32",
    processes: int | None = None,
    language_model: str | Path | None = None,
    attention: type[Attention] | None = None,
    device: str = "cpu",
    shard: Shard | None = None,
    cluster: Cluster | None = None,
) -> Decoded:
    """Decode a manifest into a folder.

    Where it was stopped before, it goes on with what is missing.

    Args:
        model: a model's or a run's folder; None for the bundled model.
        manifest: what to decode.
        folder: is made where it is missing.
        decoding: settings of the search; see `Recognizer.load`.
        precision: of the weights, float32 or int8.
        processes: one thread each; None for one a core, or for one alone on a GPU,
            which several share.
        language_model: folder of a word n-gram; None for the bundled one.
        attention: the class that the model was trained with, if it is not built in;
            other processes import it by its name.
        device: cpu or cuda.
        shard: decode only this part, and write its file only; see `shards.merge`.
        cluster: have workers of it decode, `processes` of them at most.

    Raises:
        AsrError: model or manifest cannot be read, or the folder not be written; or it
            holds what was begun with others; or another process decodes into it.
    """
    number = number_of_processes(processes, device)
    utterances = read_manifest(manifest)  # before seconds of loading
    settings = RecognizerSettings(
        pinned_model(model), decoding, precision, language_model, attention, device
    )
    settings.check()
    # Fail here, not in each worker; those of a cluster may be where the GPUs are.
    recognizer = (settings._replace(device="cpu") if cluster else settings).load()
    prepare(folder, manifest)
    about = settings_of(manifest, settings.files(), settings.metadata(recognizer))
    if cluster:
        work = partial(_decode_on_cluster, cluster, settings, processes)
    elif number == 1:
        work = partial(_decode_here, recognizer)
    else:
        work = partial(_decode_elsewhere, settings, number)
    del recognizer
    if work.func is not _decode_here:
        return_freed_memory()
    parts = batches(utterances, device)
    if shard:
        return _decode_shard(folder, shard, about, utterances, parts, work)
    with locked(folder, "asr decode"):
        decoded = _decode_shard(folder, Shard(0, 1), about, utterances, parts, work)
        finish(folder, about["metadata"], utterances, decoded)
    return decoded


_Batches = Sequence[list[Utterance]]


def _decode_shard(
    folder: Path,
    shard: Shard,
    about: Mapping[str, Any],
    utterances: Sequence[Utterance],
    parts: _Batches,
    work: Callable[[_Batches], Iterator[DecodedBatch]],
) -> Decoded:
    """Decode what is left of a shard."""
    own = [part for part in parts if shard.has(part[0].id)]
    with shard_file(folder, shard, about) as file:
        started, resumed = time.perf_counter(), bool(file.done)
        left = file.left(own)
        for batch in _with_progress(work(left), left):
            file.append(batch)
    ids = {utterance.id for part in own for utterance in part}
    return Decoded.of(
        [utterance for utterance in utterances if utterance.id in ids],
        file.done,
        0.0 if resumed else time.perf_counter() - started,
    )


def _with_progress(
    found: Iterator[DecodedBatch], parts: Sequence[Sequence[Utterance]]
) -> Iterator[DecodedBatch]:
    durations = {u.id: u.duration for part in parts for u in part}
    total = round(sum(durations.values()))
    with progress_bar(total, "decode", "s of audio") as bar:
        for batch in found:
            bar.update(sum(durations[id] for id in batch.ids))
            yield batch


def transcribe_files(
    model: str | Path | None,
    recordings: Sequence[Recording],
    decoding: Decoding = None,
    *,
    precision: str = "float32",
    processes: int | None = None,
    language_model: str | Path | None = None,
    attention: type[Attention] | None = None,
    device: str = "cpu",
    cluster: Cluster | None = None,
    seconds: float = inf,
    progress: Progress | None = None,
) -> Iterator[Transcript | AsrError]:
    """Transcribe recordings, with pieces of the same one in several processes.

    Args:
        model: a model's name or folder, or a run's; None for the bundled model.
        recordings: what to transcribe.
        decoding: settings of the search; see `Recognizer.load`.
        precision: of the weights, float32 or int8.
        processes: None for one a core, but one only where there is little to do, and
            one alone on a GPU, which several share.
        language_model: folder of a word n-gram; None for the bundled one.
        attention: the class that the model was trained with, if it is not built in;
            other processes import it by its name.
        device: cpu or cuda.
        cluster: have workers of it transcribe, `processes` of them at most, each whole
            recordings.
        seconds: of all recordings, as far as it is known.
        progress: called now and then with the seconds that were done since.

    Yields:
        What was said in each, or what is wrong with it, in their order.

    Raises:
        AsrError: the model cannot be read, or a setting is impossible.
    """
    settings = RecognizerSettings(
        pinned_model(model), decoding, precision, language_model, attention, device
    )
    number = number_of_processes(processes, device)
    if cluster:
        yield from _transcribe_on_cluster(
            cluster, settings, recordings, processes, progress
        )
        return
    settings.check()  # before anything is read
    processes = 1 if processes is None and seconds <= _MUCH else number
    share = seconds / processes / LONGEST
    most = BATCH if device == "cpu" else GPU_PIECES
    batch_size = most if share > most else max(1, round(share))
    with _Engine(settings, processes) as engine:
        found = transcripts(
            recordings, engine.recognize, batch_size=batch_size, progress=progress
        )
        for one in found:
            yield one if isinstance(one, AsrError) else engine.labelled(one)


class _Engine(contextlib.ExitStack):
    """Recognises batches, here or elsewhere; loads nothing before there is one."""

    def __init__(self, settings: RecognizerSettings, processes: int) -> None:
        super().__init__()
        self._settings, self._processes = settings, processes
        self._label: dict[str, Any] = {}

    def recognize(self, batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
        """Recognise batches in their order; one may be empty."""
        for batch in batches:
            if batch:
                yield from self._begin()(itertools.chain([batch], batches))
            else:
                yield []

    def labelled(self, transcript: Transcript) -> Transcript:
        """Note in a transcript whose it is."""
        if not self._label:
            self._load()
        return replace(transcript, **self._label)

    def _begin(self) -> Callable[[Iterator[list[Tensor]]], Iterator[list[Segment]]]:
        recognizer = self._load()  # here too: a wrong setting is reported once
        if self._processes == 1:
            return partial(_recognize_batches, recognizer)
        del recognizer
        return_freed_memory()
        device = self._settings.device
        pool = recognizer_pool(self._settings.load, self._processes, device)
        return partial(_recognize_elsewhere, self.enter_context(pool))

    def _load(self) -> Recognizer:
        recognizer = self._settings.load()
        self._label = {"model": recognizer.name, "settings": recognizer.settings}
        return recognizer


def _recognize_batches(
    recognizer: Recognizer, batches: Iterator[list[Tensor]]
) -> Iterator[list[Segment]]:
    for batch in _read_ahead(batches):
        with one_thread():
            segments = recognizer.recognize(batch)
        yield segments


def _read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Have the next item made in a thread of its own while one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = reader.submit(next, items, None)
            yield item


def _recognize_arrays(
    recognizer: Recognizer, arrays: list[npt.NDArray[np.float32]]
) -> list[Segment]:
    return recognizer.recognize([torch.from_numpy(array) for array in arrays])


def _recognize_elsewhere(
    workers: Workers[Recognizer], batches: Iterator[list[Tensor]]
) -> Iterator[list[Segment]]:
    """Have batches recognised in other processes."""
    # As arrays: tensors would go by way of shared memory and open files.
    arrays = ([waveform.numpy() for waveform in batch] for batch in batches)
    return workers.in_order(_recognize_arrays, arrays)


def _transcribe_on_cluster(
    cluster: Cluster,
    settings: RecognizerSettings,
    recordings: Sequence[Recording],
    workers: int | None,
    progress: Progress | None,
) -> Iterator[Transcript | AsrError]:
    recognizer = settings._replace(device="cpu").load()
    found = cluster.recognize(
        settings.load,
        _transcribe_recording,
        recordings,
        workers=workers,
        gpu=settings.device == "cuda",
    )
    for one in in_order(found):
        if isinstance(one, AsrError):
            yield one
            continue
        if progress:
            progress(one.duration)
        yield recognizer.labelled(one)


def _transcribe_recording(
    recognizer: Recognizer, recording: Recording
) -> Transcript | AsrError:
    (one,) = recognizer.transcribe_recordings([recording])
    return one


def _decode_on_cluster(
    cluster: Cluster,
    settings: RecognizerSettings,
    workers: int | None,
    batches: _Batches,
) -> Iterator[DecodedBatch]:
    """Decode batches, in any order."""
    found = cluster.recognize(
        settings.load,
        _decode_batch,
        batches,
        workers=workers,
        gpu=settings.device == "cuda",
    )
    return (batch for _, batch in found)


def _decode_elsewhere(
    settings: RecognizerSettings, processes: int, batches: _Batches
) -> Iterator[DecodedBatch]:
    """Decode batches in other processes, in any order."""
    number = max(1, min(processes, len(batches)))
    with recognizer_pool(settings.load, number, settings.device) as workers:
        for _, batch in workers.completed(_decode_batch, batches):
            yield batch


def _decode_here(recognizer: Recognizer, batches: _Batches) -> Iterator[DecodedBatch]:
    for read in _read_ahead(map(_read_batch, batches)):
        with one_thread():
            decoded = _decode_waveforms(recognizer, read)
        yield decoded


class _Read(NamedTuple):
    """What was read of some utterances, by their ids."""

    waveforms: dict[str, Tensor]
    """(N,) each: they are recognised as a whole."""
    long: dict[str, Recording]
    """Those that are cut, and not yet read."""
    errors: dict[str, str]
    """What is wrong with a recording."""


def _decode_batch(recognizer: Recognizer, batch: list[Utterance]) -> DecodedBatch:
    return _decode_waveforms(recognizer, _read_batch(batch))


def _read_batch(batch: list[Utterance]) -> _Read:
    found = _Read({}, {}, {})
    for utterance in batch:
        if utterance.duration > WHOLE:
            found.long[utterance.id] = Recording.of_file(
                utterance.audio, clip=utterance.clip
            )
            continue
        try:
            with errors_of(utterance.audio):
                waveform = read_utterance(utterance)
        except AsrError as error:
            found.errors[utterance.id] = str(error)
        else:
            _sort_in(found, utterance, waveform)
    return found


def _sort_in(found: _Read, utterance: Utterance, waveform: Tensor) -> None:
    """Put a waveform where its length belongs, whatever the manifest has for it."""
    if len(waveform) <= WHOLE * SAMPLE_RATE:
        found.waveforms[utterance.id] = waveform
    else:
        found.long[utterance.id] = Recording(lambda: [waveform], utterance.audio)


def _decode_waveforms(recognizer: Recognizer, read: _Read) -> DecodedBatch:
    segments = recognizer.recognize(list(read.waveforms.values()))
    texts = {id: s.text for id, s in zip(read.waveforms, segments, strict=True)}
    errors = dict(read.errors)
    transcripts = recognizer.transcribe_recordings(list(read.long.values()))
    for id, one in zip(read.long, transcripts, strict=True):
        if isinstance(one, AsrError):
            errors[id] = str(one)
        else:
            texts[id] = one.text
    texts = dict.fromkeys(errors, "") | texts
    return DecodedBatch(list(texts), list(texts.values()), list(errors.values()))
