"""Decode a whole manifest: in several processes, from long to short, with a bar.

The folder it writes holds

hypotheses.jsonl        the manifest, with what was heard in place of what was said
hyp.trn, ref.trn        the same for NIST's sclite, `TEXT (speaker-utterance)` a line
decode.json             which model, which settings, and how long it took
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from asr.audio import read_waveform
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.ngram import WordNGram
from asr.errors import AsrError, ManifestError
from asr.progress import progress_bar
from asr.recognizer import DecodingConfig, Recognizer, find_model
from asr.tensor_files import write_bytes

HYPOTHESES = "hypotheses.jsonl"
_BATCH = 8
"""Utterances that are searched together."""


@dataclass(frozen=True)
class Decoded:
    """What came of a manifest."""

    hypotheses: list[Utterance]
    """In the manifest's order; `text` is what was heard."""
    faults: list[str]
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
    processes: int | None = None,
    language_model: str | Path | None = None,
) -> Decoded:
    """Decode a manifest into a folder.

    Args:
        model: a model's or a run's folder; None for the bundled model.
        manifest: what to decode.
        folder: is made where it is missing.
        decoding: settings of the search.
        processes: one thread each; None for one a core.
        language_model: folder of a word n-gram.

    Raises:
        AsrError: model or manifest cannot be read, or the folder not be written.
    """
    decoding = decoding or DecodingConfig()
    find_model(model)  # fail here, not in each process
    if language_model is not None:
        WordNGram.load(language_model)
    utterances = read_manifest(manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be made ({error.strerror})") from error
    started = time.perf_counter()
    batches = _batches(utterances)
    found = dict[str, str]()
    faults = list[str]()
    hours = sum(u.duration for u in utterances) / 3600
    with progress_bar(round(hours * 3600), "decode", "s of audio") as bar:
        for ids, texts, problems in _in_processes(
            (model, decoding, language_model), batches, processes or os.cpu_count() or 1
        ):
            found |= dict(zip(ids, texts, strict=True))
            faults += problems
            bar.update(sum(u.duration for u in utterances if u.id in set(ids)))
    decoded = Decoded(
        [replace(u, text=found[u.id]) for u in utterances],
        sorted(faults),
        hours,
        time.perf_counter() - started,
    )
    _write(folder, (model, decoding, language_model), utterances, decoded)
    return decoded


def _batches(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Group utterances of like length, the longest first: they are waited for."""
    order = sorted(utterances, key=lambda u: -u.duration)
    return [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]


_Answer = tuple[list[str], list[str], list[str]]  # ids, texts, faults


_Model = tuple[str | Path | None, DecodingConfig, str | Path | None]


def _in_processes(
    model: _Model,
    batches: list[list[Utterance]],
    processes: int,
) -> Iterator[_Answer]:
    if processes == 1:
        _begin(*model)
        yield from map(_decode_batch, batches)
        return
    with ProcessPoolExecutor(
        min(processes, len(batches)),
        get_context("spawn"),
        initializer=_begin,
        initargs=model,
    ) as pool:
        for done in as_completed([pool.submit(_decode_batch, b) for b in batches]):
            yield done.result()


_recognizer: Recognizer
"""The one of this process: loading it for each batch would cost more than decoding."""


def _begin(
    model: str | Path | None,
    decoding: DecodingConfig,
    language_model: str | Path | None,
) -> None:
    global _recognizer
    torch.set_num_threads(1)
    _recognizer = Recognizer.load(
        model, decoding=decoding, language_model=language_model
    )


def _decode_batch(batch: list[Utterance]) -> _Answer:
    texts, faults, waveforms = dict[str, str](), list[str](), dict[str, torch.Tensor]()
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_waveform(utterance.audio)
        except AsrError as error:
            faults.append(str(error))
            texts[utterance.id] = ""
    segments = _recognizer.recognize(list(waveforms.values()))
    texts |= {id: s.text for id, s in zip(waveforms, segments, strict=True)}
    return list(texts), list(texts.values()), faults


def _write(
    folder: Path,
    asked: _Model,
    utterances: Sequence[Utterance],
    decoded: Decoded,
) -> None:
    model, decoding, language_model = asked
    write_manifest(folder / HYPOTHESES, decoded.hypotheses)
    write_bytes(folder / "ref.trn", _trn(utterances).encode())
    write_bytes(folder / "hyp.trn", _trn(decoded.hypotheses).encode())
    facts = {
        "model": str(find_model(model)),
        "language_model": None if language_model is None else str(language_model),
        "decoding": asdict(decoding),
        "hours": round(decoded.hours, 4),
        "seconds": round(decoded.seconds, 1),
        "faults": decoded.faults,
    }
    write_bytes(folder / "decode.json", (json.dumps(facts, indent=2) + "\n").encode())


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
        lines.append(
            f"{utterance.text} ({speaker}{utterance.id.removeprefix(speaker)})\n"
        )
    return "".join(lines)
