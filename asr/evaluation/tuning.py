"""Try weights of the search on a part of a dev set, spread evenly over it.

    python recipes/librispeech/tune.py DEV.jsonl TABLE.json --language-model FOLDER

decodes --utterances of DEV once for each combination of --lm-weight, --word-bonus,
--ilm-weight, --ctc-weight, --length-norm, --eos-threshold and --beam, writes WER and
seconds of each into TABLE, and prints the best last. Never give it a test set.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from asr.audio import read_waveform
from asr.data.manifest import read_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AsrError, ConfigError
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.scoring import word_error_rate
from asr.tensor_files import write_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the command line asks for; tell a fault in one line."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    try:
        _run(options)
    except AsrError as error:
        print(f"tune: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tune", description="Try search weights.")
    add = parser.add_argument
    add("manifest", type=Path, metavar="DEV")
    add("table", type=Path, metavar="TABLE")
    add("--model", type=Path, help="a model's or a run's folder (default: the bundled)")
    add("--language-model", type=Path, metavar="FOLDER", help="default: the bundled")
    add("--utterances", type=int, default=130, metavar="N")
    add("--beam", type=int, nargs="+", default=[64], metavar="K")
    add("--length-norm", type=float, nargs="+", default=[1.0], metavar="P")
    add("--lm-weight", type=float, nargs="+", default=[0.0, 0.8, 1.0], metavar="W")
    add("--word-bonus", type=float, nargs="+", default=[-2.0, -1.0], metavar="X")
    add("--ilm-weight", type=float, nargs="+", default=[0.4], metavar="W")
    add("--eos-threshold", type=float, nargs="+", default=[1.5], metavar="X")
    add("--ctc-weight", type=float, nargs="+", default=[0.3], metavar="W")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    settings = []
    try:
        for lm, bonus, ilm, ctc, norm, threshold, beam in product(
            options.lm_weight,
            options.word_bonus,
            options.ilm_weight,
            options.ctc_weight,
            options.length_norm,
            options.eos_threshold,
            options.beam,
        ):
            first = options.word_bonus[0], options.ilm_weight[0]
            if lm or (bonus, ilm) == first:  # neither counts without the model
                settings.append(
                    DecodingConfig(
                        beam_size=beam,
                        length_norm=norm,
                        eos_threshold=threshold,
                        ctc_weight=ctc,
                        lm_weight=lm,
                        word_bonus=bonus,
                        ilm_weight=ilm,
                    )
                )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if options.utterances < 1:
        raise ConfigError("--utterances: must be at least 1")
    utterances = read_manifest(options.manifest)
    stride = max(len(utterances) // options.utterances, 1)
    chosen = sorted(utterances[::stride], key=lambda u: -u.duration)
    waveforms = [read_waveform(u.audio) for u in chosen]
    said = [u.text for u in chosen]
    recognizer = Recognizer.load(options.model, language_model=options.language_model)
    rows = []
    for decoding in settings:
        recognizer.decoding = decoding
        started, heard = time.perf_counter(), list[str]()
        for i in range(0, len(chosen), BATCH):
            found = recognizer.recognize(waveforms[i : i + BATCH])
            heard += [segment.text for segment in found]
        wer = word_error_rate(said, heard)
        row = {
            "lm_weight": decoding.lm_weight,
            "word_bonus": decoding.word_bonus,
            "ilm_weight": decoding.ilm_weight,
            "ctc_weight": decoding.ctc_weight,
            "length_norm": decoding.length_norm,
            "eos_threshold": decoding.eos_threshold,
            "beam_size": decoding.beam_size,
            "wer": wer.rate,
            "errors": str(wer),
            "seconds": round(time.perf_counter() - started, 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        about = {
            "manifest": str(options.manifest),
            "model": str(options.model or "bundled"),
            "language_model": str(options.language_model),
            "utterances": len(chosen),
            "rows": rows,
        }
        write_bytes(options.table, (json.dumps(about, indent=2) + "\n").encode())
    print("best:", json.dumps(min(rows, key=lambda row: float(str(row["wer"])))))


if __name__ == "__main__":
    sys.exit(main())
