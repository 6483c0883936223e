"""Decode a manifest with an exported model, and count the processor's seconds.

    python tools/decode_onnx.py MODEL MANIFEST OUTPUT.jsonl

`asr score MANIFEST OUTPUT.jsonl` gives the error rate. Utterances are recognised eight
at a time, from long to short, as `asr decode` does. It imports no torch.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.audio import read_arrays
from asr.cli.scripts import run_main
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.inference.long_audio import BATCH
from asr.onnx.recognizer import OnnxRecognizer


def main() -> None:
    """Read the command line, and decode."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of asr export --onnx")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path, help="for the texts, a manifest, too")
    args = parser.parse_args()
    decode(args.model, args.manifest, args.output)


def decode(model: Path, manifest: Path, output: Path) -> None:
    """Decode, and print how long it took."""
    recognizer = OnnxRecognizer.load(model)
    ready = time.process_time()
    utterances = read_manifest(manifest)
    ordered = sorted(utterances, key=lambda one: -one.duration)
    texts, seconds = dict[str, str](), 0.0
    for first in range(0, len(ordered), BATCH):
        batch = ordered[first : first + BATCH]
        waveforms = [waveform(one) for one in batch]
        started = time.process_time()
        segments = recognizer.recognize(waveforms)
        seconds += time.process_time() - started
        texts |= {
            one.id: segment.text for one, segment in zip(batch, segments, strict=True)
        }
    write_manifest(output, [replace(one, text=texts[one.id]) for one in utterances])
    audio = sum(one.duration for one in utterances)
    print(
        f"{len(utterances)} utterances, {audio:.1f} s: {seconds:.1f} s of the "
        f"processor, {ready:.2f} to be ready"
    )
    print(json.dumps({"torch": "torch" in sys.modules, **recognizer.settings}))


def waveform(utterance: Utterance) -> npt.NDArray[Any]:
    """Read an utterance, which may be a part of its recording.

    Returns:
        (N,) float32 at 16 kHz.
    """
    start, end = utterance.clip
    blocks = read_arrays(utterance.audio, start=start, end=end)
    return np.concatenate(list(blocks))


if __name__ == "__main__":
    sys.exit(run_main("decode_onnx", main))
