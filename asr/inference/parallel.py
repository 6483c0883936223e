"""Many recordings: in several processes of one thread each.

Such processes share nothing and wait for nobody, where the threads of one process would
wait for each other after each small product of a search.

`transcribe_files` takes recordings, in their order. `decode` takes a manifest, from
long to short utterances and several at a time, and writes a folder with

hypotheses.jsonl        the manifest, with what was heard in place of what was said
hyp.trn, ref.trn        the same for NIST's sclite, `TEXT (speaker-utterance)` a line
decode.json             which model, which settings, and how long it took
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.audio import read_waveform
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AsrError, ConfigError, ManifestError
from asr.inference.long_audio import BATCH, Progress, Recording, transcripts
from asr.inference.recognizer import Recognizer
from asr.inference.segmentation import LONGEST
from asr.lm.ngram import find_language_model, load_language_model
from asr.model.storage import find_model, load_tokenizer
from asr.output import trn_line
from asr.progress import progress_bar
from asr.runtime import keep_freed_memory, use_one_thread
from asr.tensor_files import write_bytes
from asr.transcript import Segment, Transcript

HYPOTHESES = "hypotheses.jsonl"
_MUCH = 60.0
"""Seconds of audio from which the start of more processes pays."""


@dataclass(frozen=True)
class Decoded:
    """What came of a manifest."""

    hypotheses: list[Utterance]
    """In the manifest's order; `text` is what was heard."""
    errors: list[str]
    """One line for each recording that could not be read; its text is empty."""
    hours: float
    """Audio that was decoded."""
    seconds: float
    """Time that it took."""

    def __str__(self) -> str:
        """Say how fast it was."""
        speed = self.hours * 3600 / max(self.seconds, 1e-9)
        return (
            f"{len(self.hypotheses)} utterances, {self.hours:.2f} h of audio in "
            f"{self.seconds / 60:.1f} min: {speed:.1f} times real time"
        )


def decode(
    model: str | Path | None,
    manifest: Path,
    folder: Path,
    decoding: DecodingConfig | None = None,
    *,
    precision: str = "float32",
    processes: int | None = None,
    language_model: str | Path | None = None,
) -> Decoded:
    """Decode a manifest into a folder.

    Args:
        model: a model's or a run's folder; None for the bundled model.
        manifest: what to decode.
        folder: is made where it is missing.
        decoding: settings of the search.
        precision: of the weights, float32 or int8.
        processes: one thread each; None for one a core.
        language_model: folder of a word n-gram; None for the bundled one.

    Raises:
        AsrError: model or manifest cannot be read, or the folder not be written.
    """
    decoding = decoding or DecodingConfig()
    _checked(processes)
    if _is_same(folder / HYPOTHESES, manifest):
        raise ManifestError(f"{manifest}: would be overwritten (name another folder)")
    place = find_model(model)  # fail here, not in each process
    words = None
    if decoding.lm_weight and load_language_model(
        language_model, load_tokenizer(place)
    ):
        words = str(find_language_model(language_model))
    settings: _Settings = model, decoding, precision, language_model
    utterances = read_manifest(manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be made ({error.strerror})") from error
    started = time.perf_counter()
    batches = _batches(utterances)
    found = dict[str, str]()
    errors = list[str]()
    hours = sum(u.duration for u in utterances) / 3600
    with progress_bar(round(hours * 3600), "decode", "s of audio") as bar:
        for ids, texts, found_errors in _in_processes(
            settings, batches, processes or os.cpu_count() or 1
        ):
            found |= dict(zip(ids, texts, strict=True))
            errors += found_errors
            bar.update(sum(u.duration for u in utterances if u.id in set(ids)))
    decoded = Decoded(
        [replace(u, text=found[u.id]) for u in utterances],
        sorted(errors),
        hours,
        time.perf_counter() - started,
    )
    _write(folder, settings, utterances, decoded, words)
    return decoded


def _checked(processes: int | None) -> None:
    if processes is not None and processes < 1:
        raise ConfigError(f"processes must be at least 1, not {processes}")


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def transcribe_files(
    model: str | Path | None,
    recordings: Sequence[Recording],
    decoding: DecodingConfig | None = None,
    *,
    precision: str = "float32",
    processes: int | None = None,
    language_model: str | Path | None = None,
    seconds: float = inf,
    progress: Progress | None = None,
) -> Iterator[Transcript | AsrError]:
    """Transcribe recordings, with pieces of the same one in several processes.

    Args:
        model: a model's name or folder, or a run's; None for the bundled model.
        recordings: what to transcribe.
        decoding: settings of the search.
        precision: of the weights, float32 or int8.
        processes: None for one a core, but one only where there is little to do.
        language_model: folder of a word n-gram; None for the bundled one.
        seconds: of all recordings, as far as it is known.
        progress: is told, now and then, how many seconds more are done.

    Yields:
        What was said in each, or what is wrong with it, in their order.

    Raises:
        AsrError: the model cannot be read, or a setting is impossible.
    """
    decoding = decoding or DecodingConfig()
    settings: _Settings = model, decoding, precision, language_model
    _checked(processes)
    if processes is None:
        processes = (os.cpu_count() or 1) if seconds > _MUCH else 1
    _begin(*settings)  # here too: what is wrong with the settings is told once
    share = seconds / processes / LONGEST
    batch_size = BATCH if share > BATCH else max(1, round(share))
    with contextlib.ExitStack() as stack:
        recognize = _recognize_batches
        if processes > 1:
            pool = stack.enter_context(_pool(processes, settings))
            recognize = partial(_ahead, pool, 2 * processes)
        found = transcripts(
            recordings, recognize, batch_size=batch_size, progress=progress
        )
        for one in found:
            yield one if isinstance(one, AsrError) else _recognizer.labelled(one)


def _recognize_batches(batches: Iterator[list[Tensor]]) -> Iterator[list[Segment]]:
    return map(_recognizer.recognize, batches)


def _ahead(
    pool: ProcessPoolExecutor, most: int, batches: Iterator[list[Tensor]]
) -> Iterator[list[Segment]]:
    """Have batches recognised in other processes, and so many of them at a time."""
    under_way = deque[Future[list[Segment]]]()
    for batch in batches:
        # As arrays: tensors would go by way of shared memory and open files.
        arrays = [waveform.numpy() for waveform in batch]
        with _uninterrupted():
            under_way.append(pool.submit(_recognize, arrays))
        if len(under_way) >= most:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _recognize(arrays: list[npt.NDArray[np.float32]]) -> list[Segment]:
    return _recognizer.recognize([torch.from_numpy(array) for array in arrays])


def _batches(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Group utterances of like length, the longest first: they are waited for."""
    order = sorted(utterances, key=lambda u: -u.duration)
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


_Decoded = tuple[list[str], list[str], list[str]]  # ids, texts, errors


_Settings = tuple[str | Path | None, DecodingConfig, str, str | Path | None]
"""Model, search, precision and language model."""


def _in_processes(
    settings: _Settings,
    batches: list[list[Utterance]],
    processes: int,
) -> Iterator[_Decoded]:
    if processes == 1:
        _begin(*settings)
        yield from map(_decode_batch, batches)
        return
    with _pool(min(processes, len(batches)), settings) as pool:
        with _uninterrupted():
            futures = [pool.submit(_decode_batch, batch) for batch in batches]
        for done in as_completed(futures):
            yield done.result()


@contextlib.contextmanager
def _pool(processes: int, settings: _Settings) -> Iterator[ProcessPoolExecutor]:
    """Start processes; whatever stops this one stops them, too."""
    others = set(active_children())
    pool = ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_begin, initargs=settings
    )
    try:
        yield pool
    except BaseException:
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it is for this one to stop them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_recognizer: Recognizer
"""The one of this process: loading it for each batch would cost more than decoding."""


def _begin(
    model: str | Path | None,
    decoding: DecodingConfig,
    precision: str,
    language_model: str | Path | None,
) -> None:
    global _recognizer
    use_one_thread()
    keep_freed_memory()
    _recognizer = Recognizer.load(
        model, decoding=decoding, precision=precision, language_model=language_model
    )


def _decode_batch(batch: list[Utterance]) -> _Decoded:
    texts, errors, waveforms = dict[str, str](), list[str](), dict[str, torch.Tensor]()
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_waveform(utterance.audio)
        except AsrError as error:
            errors.append(str(error))
            texts[utterance.id] = ""
    segments = _recognizer.recognize(list(waveforms.values()))
    texts |= {id: s.text for id, s in zip(waveforms, segments, strict=True)}
    return list(texts), list(texts.values()), errors


def _write(
    folder: Path,
    settings: _Settings,
    utterances: Sequence[Utterance],
    decoded: Decoded,
    words: str | None,
) -> None:
    model, decoding, precision, _ = settings
    write_manifest(folder / HYPOTHESES, decoded.hypotheses)
    write_bytes(folder / "ref.trn", _trn(utterances).encode())
    write_bytes(folder / "hyp.trn", _trn(decoded.hypotheses).encode())
    metadata = {
        "model": str(find_model(model)),
        "language_model": words,
        "decoding": asdict(decoding),
        "precision": precision,
        "hours": round(decoded.hours, 4),
        "seconds": round(decoded.seconds, 1),
        "errors": decoded.errors,
    }
    write_bytes(
        folder / "decode.json", (json.dumps(metadata, indent=2) + "\n").encode()
    )


def _trn(utterances: Sequence[Utterance]) -> str:
    """Write what sclite reads: `TEXT (speaker-utterance)`.

    >>> _trn([Utterance("84-1-0", "a.flac", 1.0, "GO", speaker="84")])
    'GO (84-1-0)\\n'
    >>> _trn([Utterance("1-0", "a.flac", 1.0, "GO", speaker="84")])
    'GO (84-1-0)\\n'
    """
    lines = []
    for utterance in utterances:
        speaker = f"{utterance.speaker or 'x'}-"
        id = f"{speaker}{utterance.id.removeprefix(speaker)}"
        lines.append(trn_line(utterance.text, id))
    return "".join(lines)
