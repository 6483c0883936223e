"""Many recordings: in several processes of one thread each (see `processes`), on a GPU,
or on the machines of a cluster (see `cluster`).

`transcribe_files` takes recordings, in their order. `decode` takes a manifest, from
long to short utterances and several at a time, and writes a folder (see `hypotheses`);
or a shard of one (see `shards`).
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.data.manifest import Utterance, read_manifest
from asr.data.recordings import read_utterance
from asr.errors import AsrError
from asr.inference.cluster import Cluster, in_order
from asr.inference.hypotheses import Decoded, DecodedBatch, prepare, write_decoded
from asr.inference.long_audio import (
    BATCH,
    GPU_PIECES,
    Progress,
    Recording,
    transcripts,
)
from asr.inference.processes import (
    Submit,
    batches,
    number_of_processes,
    recognizer_pool,
)
from asr.inference.recognizer import Recognizer
from asr.inference.recognizer_settings import RecognizerSettings
from asr.inference.search_settings import Decoding
from asr.inference.segmentation import LONGEST
from asr.inference.shards import Shard, ShardFile, settings_of, shard_file
from asr.model.attention import Attention
from asr.model.storage import pinned_model
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
        AsrError: model or manifest cannot be read, or the folder not be written.
    """
    number = number_of_processes(processes, device)
    utterances = read_manifest(manifest)  # before seconds of loading
    settings = RecognizerSettings(
        pinned_model(model), decoding, precision, language_model, attention, device
    )
    # Fail here, not in each worker; those of a cluster may be where the GPUs are.
    recognizer = (settings._replace(device="cpu") if cluster else settings).load()
    prepare(folder, manifest)
    metadata, parts = settings.metadata(recognizer), batches(utterances, device)
    if cluster:
        work = partial(_decode_on_cluster, cluster, settings, processes)
    else:
        work = partial(_decode_on_this_machine, recognizer, settings, number)
    if shard:
        about = settings_of(manifest, settings.files(), metadata)
        with shard_file(folder, shard, about) as file:
            return _decode_shard(file, shard, utterances, parts, work)
    started = time.perf_counter()
    found = list(_with_progress(work(parts), parts))
    decoded = Decoded.of(utterances, found, time.perf_counter() - started)
    write_decoded(folder, metadata, utterances, decoded)
    return decoded


_Batches = Sequence[list[Utterance]]


def _decode_shard(
    file: ShardFile,
    shard: Shard,
    utterances: Sequence[Utterance],
    parts: _Batches,
    work: Callable[[_Batches], Iterator[DecodedBatch]],
) -> Decoded:
    """Decode what is left of a shard."""
    started, resumed = time.perf_counter(), bool(file.done)
    own = [part for part in parts if shard.has(part[0].id)]
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
    processes = 1 if processes is None and seconds <= _MUCH else number
    recognizer = settings.load()  # here too: a wrong setting is reported once
    share = seconds / processes / LONGEST
    most = BATCH if device == "cpu" else GPU_PIECES
    batch_size = most if share > most else max(1, round(share))
    with contextlib.ExitStack() as stack:
        recognize = partial(_recognize_batches, recognizer)
        if processes > 1:
            submit = stack.enter_context(recognizer_pool(settings.load, processes))
            recognize = partial(_ahead, submit, 2 * processes)
        found = transcripts(
            recordings, recognize, batch_size=batch_size, progress=progress
        )
        for one in found:
            yield one if isinstance(one, AsrError) else recognizer.labelled(one)


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


def _ahead(
    submit: Submit, most: int, batches: Iterator[list[Tensor]]
) -> Iterator[list[Segment]]:
    """Have batches recognised in other processes, and so many of them at a time."""
    under_way = deque[Future[list[Segment]]]()
    for batch in batches:
        # As arrays: tensors would go by way of shared memory and open files.
        arrays = [waveform.numpy() for waveform in batch]
        under_way.append(submit(_recognize_arrays, arrays))
        if len(under_way) >= most:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


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


def _decode_on_this_machine(
    recognizer: Recognizer,
    settings: RecognizerSettings,
    processes: int,
    batches: _Batches,
) -> Iterator[DecodedBatch]:
    """Decode batches, in any order."""
    if processes == 1 or not batches:
        yield from _decode_here(recognizer, batches)
        return
    with recognizer_pool(settings.load, min(processes, len(batches))) as submit:
        futures = [submit(_decode_batch, batch) for batch in batches]
        for future in as_completed(futures):
            yield future.result()


def _decode_here(recognizer: Recognizer, batches: _Batches) -> Iterator[DecodedBatch]:
    for read in _read_ahead(map(_read_batch, batches)):
        with one_thread():
            decoded = _decode_waveforms(recognizer, read)
        yield decoded


class _Waveforms(NamedTuple):
    """What was read of some utterances."""

    by_id: dict[str, Tensor]
    errors: dict[str, str]
    """By id, too: what is wrong with a recording."""


def _decode_batch(recognizer: Recognizer, batch: list[Utterance]) -> DecodedBatch:
    return _decode_waveforms(recognizer, _read_batch(batch))


def _read_batch(batch: list[Utterance]) -> _Waveforms:
    found = _Waveforms({}, {})
    for utterance in batch:
        try:
            found.by_id[utterance.id] = read_utterance(utterance)
        except AsrError as error:
            found.errors[utterance.id] = str(error)
    return found


def _decode_waveforms(recognizer: Recognizer, read: _Waveforms) -> DecodedBatch:
    segments = recognizer.recognize(list(read.by_id.values()))
    texts = dict.fromkeys(read.errors, "")
    texts |= {id: s.text for id, s in zip(read.by_id, segments, strict=True)}
    return DecodedBatch(list(texts), list(texts.values()), list(read.errors.values()))
