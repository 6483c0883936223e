"""Decode a manifest with an exported model, and count the processor's seconds.

    python tools/decode_onnx.py MODEL MANIFEST OUTPUT.jsonl

`asr score MANIFEST OUTPUT.jsonl` gives the error rate. Utterances are recognised eight
at a time, from long to short, as `asr decode` does. It imports no torch.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from asr.audio import read_arrays
from asr.data.manifest import read_manifest, write_manifest
from asr.inference.long_audio import BATCH
from asr.onnx.recognizer import OnnxRecognizer


def main(model: str, manifest: str, output: str) -> None:
    """Decode, and print how long it took."""
    recognizer = OnnxRecognizer.load(model)
    ready = time.process_time()
    utterances = read_manifest(Path(manifest))
    ordered = sorted(utterances, key=lambda one: -one.duration)
    texts, seconds = dict[str, str](), 0.0
    for first in range(0, len(ordered), BATCH):
        batch = ordered[first : first + BATCH]
        waveforms = [np.concatenate(list(read_arrays(one.audio))) for one in batch]
        started = time.process_time()
        segments = recognizer.recognize(waveforms)
        seconds += time.process_time() - started
        texts |= {
            one.id: segment.text for one, segment in zip(batch, segments, strict=True)
        }
    write_manifest(
        Path(output), [replace(one, text=texts[one.id]) for one in utterances]
    )
    audio = sum(one.duration for one in utterances)
    print(
        f"{len(utterances)} utterances, {audio:.1f} s: {seconds:.1f} s of the "
        f"processor, {ready:.2f} to be ready"
    )
    print(json.dumps({"torch": "torch" in sys.modules, **recognizer.settings}))


if __name__ == "__main__":
    main(*sys.argv[1:])
