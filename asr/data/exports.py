"""A manifest for other toolkits: Kaldi, NeMo, Lhotse, Hugging Face.

The audio stays where it is; the files name it by its absolute path. (A dataset of
Hugging Face holds it itself; parts of long recordings are cut out there.) What is
written can be prepared again, and gives the same manifest.

Sources: see the modules of `asr.data.corpora`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from asr.audio import probe
from asr.audio.archives import location
from asr.data.corpora.hugging_face import save
from asr.data.manifest import Utterance, read_manifest
from asr.errors import ConfigError, CorpusError, ManifestError
from asr.folders import write_files

Written = dict[str, bytes]
"""Contents of files by their names."""


def export(manifest: str | Path, folder: str | Path, format: str) -> list[Path]:
    """Write a manifest in the format of another toolkit.

    Args:
        manifest: of the corpus.
        folder: for the files; made if it is missing.
        format: one of `EXPORTS`.

    Returns:
        The files that were written.

    Raises:
        ConfigError: the format is not known, or cannot hold what is in the manifest.
        ManifestError: the manifest cannot be read, or names shards.
        CorpusError: the folder cannot be made, or a library is missing.
        AudioError: a recording cannot be read.
    """
    if format not in EXPORTS:
        raise ConfigError(f"--format {format}: is not known (use {', '.join(EXPORTS)})")
    utterances = read_manifest(manifest)
    if any(location(utterance.audio) for utterance in utterances):
        raise ManifestError(
            f"{manifest}: names shards (export the manifest that they were made of)"
        )
    folder = Path(folder)
    if format not in _FILES:
        save(utterances, folder)
        return [folder]
    files = _FILES[format](utterances)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be made ({error.strerror})") from error
    write_files(folder, files)
    return [folder / name for name in files]


def _path(utterance: Utterance) -> str:
    return str(Path(utterance.audio).resolve())


def _kaldi(utterances: Sequence[Utterance]) -> Written:
    """Kaldi's data folder; a segments file only where there are parts."""
    for utterance in utterances:
        for name, value in (("id", utterance.id), ("speaker", utterance.speaker)):
            if any(c.isspace() for c in value):
                raise ConfigError(
                    f"--format kaldi: {utterance.id!r} has a space in its {name}, "
                    "which Kaldi's files cannot hold"
                )
    ordered = sorted(utterances, key=lambda utterance: utterance.id)
    has_parts = any(utterance.start is not None for utterance in ordered)
    recordings, segments = dict[str, str](), list[str]()
    names = _recordings(ordered)
    for utterance in ordered:
        path = _path(utterance)
        name = names[path] if has_parts else utterance.id
        recordings[name] = path
        if has_parts:
            start = utterance.start or 0.0
            end = start + utterance.duration
            segments.append(f"{utterance.id} {name} {start:.3f} {end:.3f}")
    speakers = {u.id: u.speaker or u.id for u in ordered}
    of_speaker = dict[str, list[str]]()
    for id, speaker in speakers.items():
        of_speaker.setdefault(speaker, []).append(id)
    files = {
        "wav.scp": _lines(f"{name} {recordings[name]}" for name in sorted(recordings)),
        "text": _lines(f"{u.id} {u.text}" for u in ordered),
        "utt2spk": _lines(f"{id} {speaker}" for id, speaker in speakers.items()),
        "spk2utt": _lines(f"{s} {' '.join(of_speaker[s])}" for s in sorted(of_speaker)),
        "utt2dur": _lines(f"{u.id} {u.duration:.3f}" for u in ordered),
    }
    if has_parts:
        files["segments"] = _lines(segments)
    return files


def _recordings(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Name recordings by their files, each name once."""
    names, used = dict[str, str](), set[str]()
    for utterance in utterances:
        path = _path(utterance)
        if path in names:
            continue
        stem = name = "_".join(Path(path).stem.split())
        number = 2
        while name in used:
            name, number = f"{stem}-{number}", number + 1
        names[path] = name
        used.add(name)
    return names


def _nemo(utterances: Sequence[Utterance]) -> Written:
    def entry(utterance: Utterance) -> dict[str, Any]:
        start = {} if utterance.start is None else {"offset": utterance.start}
        speaker = {"speaker": utterance.speaker} if utterance.speaker else {}
        return {
            "id": utterance.id,
            "audio_filepath": _path(utterance),
            **start,
            "duration": utterance.duration,
            "text": utterance.text,
            **speaker,
        }

    return {"manifest.json": _lines(map(_json, map(entry, utterances)))}


def _lhotse(utterances: Sequence[Utterance]) -> Written:
    """Recordings and supervisions, which Lhotse makes cuts of."""
    names = _recordings(utterances)
    recordings, supervisions = dict[str, dict[str, Any]](), list[dict[str, Any]]()
    for utterance in utterances:
        path = _path(utterance)
        name = names[path]
        if name not in recordings:
            recordings[name] = _recording(name, path)
        whole = recordings[name]["duration"]
        channels = recordings[name]["channel_ids"]
        supervisions.append(
            {
                "id": utterance.id,
                "recording_id": name,
                "start": utterance.start or 0.0,
                "duration": whole if utterance.start is None else utterance.duration,
                "channel": channels[0] if len(channels) == 1 else channels,
                "text": utterance.text,
                **({"speaker": utterance.speaker} if utterance.speaker else {}),
            }
        )
    return {
        "recordings.jsonl": _lines(map(_json, recordings.values())),
        "supervisions.jsonl": _lines(map(_json, supervisions)),
    }


def _recording(name: str, path: str) -> dict[str, Any]:
    found = probe(path)
    channels = list(range(found.num_channels))
    return {
        "id": name,
        "sources": [{"type": "file", "channels": channels, "source": path}],
        "sampling_rate": found.rate,
        "num_samples": round(found.seconds * found.rate),
        "duration": found.seconds,
        "channel_ids": channels,
    }


_FILES: Final[dict[str, Callable[[Sequence[Utterance]], Written]]] = {
    "kaldi": _kaldi,
    "nemo": _nemo,
    "lhotse": _lhotse,
}
EXPORTS: Final = (*_FILES, "huggingface")
"""What can be written; the last one by the library, which is an extra."""


def _json(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
