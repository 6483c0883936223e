"""Many recordings: in several processes of one thread each (see `processes`).

`transcribe_files` takes recordings, in their order. `decode` takes a manifest, from
long to short utterances and several at a time, and writes a folder with

hypotheses.jsonl        the manifest, with hypotheses in place of the references
hyp.trn, ref.trn        the same for NIST's sclite, `TEXT (speaker-utterance)` a line
decode.json             which model, which settings, and how long it took
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.audio import read_waveform
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AsrError, ManifestError
from asr.inference.long_audio import BATCH, Progress, Recording, transcripts
from asr.inference.processes import (
    Submit,
    batches,
    number_of_processes,
    recognizer_pool,
)
from asr.inference.recognizer import Recognizer
from asr.inference.search_settings import Decoding
from asr.inference.segmentation import LONGEST
from asr.lm.ngram import find_language_model
from asr.model.attention import Attention
from asr.model.storage import find_model
from asr.output import trn_line
from asr.progress import progress_bar
from asr.runtime import one_thread
from asr.tensor_files import write_bytes
from asr.transcript import Segment, Transcript

HYPOTHESES = "hypotheses.jsonl"
_MUCH = 60.0
"""Seconds of audio from which the start of more processes pays."""


class RecognizerSettings(NamedTuple):
    """What a recognizer is loaded from, here or in another process."""

    model: str | Path | None
    """Its name or folder, or that of a run; None for the bundled model."""
    decoding: Decoding
    precision: str
    language_model: str | Path | None
    """Folder of a word n-gram; None for the bundled one."""
    attention: type[Attention] | None = None
    """The class that the model was trained with, if it is not built in."""

    def load(self) -> Recognizer:
        """Load the recognizer."""
        return Recognizer.load(
            self.model,
            decoding=self.decoding,
            precision=self.precision,
            language_model=self.language_model,
            attention=self.attention,
        )


@dataclass(frozen=True)
class Decoded:
    """What came of a manifest."""

    hypotheses: list[Utterance]
    """In the manifest's order; `text` is the hypothesis."""
    errors: list[str]
    """One line for each recording that could not be read; its text is empty."""
    hours: float
    """Audio that was decoded."""
    seconds: float
    """Time that it took."""

    def __str__(self) -> str:
        """Write how fast it was."""
        speed = self.hours * 3600 / max(self.seconds, 1e-9)
        return (
            f"{len(self.hypotheses)} utterances, {self.hours:.2f} h of audio in "
            f"{self.seconds / 60:.1f} min: {speed:.1f} times real time"
        )


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
) -> Decoded:
    """Decode a manifest into a folder.

    Args:
        model: a model's or a run's folder; None for the bundled model.
        manifest: what to decode.
        folder: is made where it is missing.
        decoding: settings of the search; see `Recognizer.load`.
        precision: of the weights, float32 or int8.
        processes: one thread each; None for one a core.
        language_model: folder of a word n-gram; None for the bundled one.
        attention: the class that the model was trained with, if it is not built in;
            other processes import it by its name.

    Raises:
        AsrError: model or manifest cannot be read, or the folder not be written.
    """
    processes = number_of_processes(processes)
    if _is_same(folder / HYPOTHESES, manifest):
        raise ManifestError(f"{manifest}: would be overwritten (name another folder)")
    utterances = read_manifest(manifest)  # before seconds of loading
    settings = RecognizerSettings(model, decoding, precision, language_model, attention)
    recognizer = settings.load()  # fail here, not in each process
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be made ({error.strerror})") from error
    started = time.perf_counter()
    found = dict[str, str]()
    errors = list[str]()
    durations = {u.id: u.duration for u in utterances}
    hours = sum(durations.values()) / 3600
    with progress_bar(round(hours * 3600), "decode", "s of audio") as bar:
        for ids, texts, found_errors in _in_processes(
            recognizer, settings, batches(utterances), processes
        ):
            found |= dict(zip(ids, texts, strict=True))
            errors += found_errors
            bar.update(sum(durations[id] for id in ids))
    decoded = Decoded(
        [replace(u, text=found[u.id]) for u in utterances],
        sorted(errors),
        hours,
        time.perf_counter() - started,
    )
    _write(folder, settings, recognizer.decoding, utterances, decoded)
    return decoded


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def transcribe_files(
    model: str | Path | None,
    recordings: Sequence[Recording],
    decoding: Decoding = None,
    *,
    precision: str = "float32",
    processes: int | None = None,
    language_model: str | Path | None = None,
    attention: type[Attention] | None = None,
    seconds: float = inf,
    progress: Progress | None = None,
) -> Iterator[Transcript | AsrError]:
    """Transcribe recordings, with pieces of the same one in several processes.

    Args:
        model: a model's name or folder, or a run's; None for the bundled model.
        recordings: what to transcribe.
        decoding: settings of the search; see `Recognizer.load`.
        precision: of the weights, float32 or int8.
        processes: None for one a core, but one only where there is little to do.
        language_model: folder of a word n-gram; None for the bundled one.
        attention: the class that the model was trained with, if it is not built in;
            other processes import it by its name.
        seconds: of all recordings, as far as it is known.
        progress: called now and then with the seconds that were done since.

    Yields:
        What was said in each, or what is wrong with it, in their order.

    Raises:
        AsrError: the model cannot be read, or a setting is impossible.
    """
    settings = RecognizerSettings(model, decoding, precision, language_model, attention)
    if processes is None and seconds <= _MUCH:
        processes = 1
    processes = number_of_processes(processes)
    recognizer = settings.load()  # here too: a wrong setting is reported once
    share = seconds / processes / LONGEST
    batch_size = BATCH if share > BATCH else max(1, round(share))
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
    for batch in batches:
        with one_thread():
            segments = recognizer.recognize(batch)
        yield segments


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


_Decoded = tuple[list[str], list[str], list[str]]  # ids, texts, errors


def _in_processes(
    recognizer: Recognizer,
    settings: RecognizerSettings,
    batches: list[list[Utterance]],
    processes: int,
) -> Iterator[_Decoded]:
    if processes == 1:
        for batch in batches:
            with one_thread():
                decoded = _decode_batch(recognizer, batch)
            yield decoded
        return
    with recognizer_pool(settings.load, min(processes, len(batches))) as submit:
        futures = [submit(_decode_batch, batch) for batch in batches]
        for done in as_completed(futures):
            yield done.result()


def _decode_batch(recognizer: Recognizer, batch: list[Utterance]) -> _Decoded:
    texts, errors, waveforms = dict[str, str](), list[str](), dict[str, torch.Tensor]()
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_waveform(utterance.audio)
        except AsrError as error:
            errors.append(str(error))
            texts[utterance.id] = ""
    segments = recognizer.recognize(list(waveforms.values()))
    texts |= {id: s.text for id, s in zip(waveforms, segments, strict=True)}
    return list(texts), list(texts.values()), errors


# What is written


def _write(
    folder: Path,
    settings: RecognizerSettings,
    decoding: DecodingConfig,
    utterances: Sequence[Utterance],
    decoded: Decoded,
) -> None:
    words = settings.language_model
    language_model = str(find_language_model(words)) if decoding.lm_weight else None
    write_manifest(folder / HYPOTHESES, decoded.hypotheses)
    write_bytes(folder / "ref.trn", _trn(utterances).encode())
    write_bytes(folder / "hyp.trn", _trn(decoded.hypotheses).encode())
    metadata = {
        "model": str(find_model(settings.model)),
        "language_model": language_model,
        "decoding": asdict(decoding),
        "precision": settings.precision,
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
