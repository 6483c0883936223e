"""`asr export`: a model to hand on."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command
from asr.errors import ConfigError


def add(commands: Any) -> None:
    """Add `asr export`."""
    parser = add_command(
        *(commands, "export", _export),
        "pack the best model of a run into a folder, at half or a quarter of the size",
        "asr export exp/run my-model",
    )
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="folder of a run or of a model"
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="for the model; made, or replaced where it holds one (RUN itself, say)",
    )
    parser.add_argument(
        "--weights",
        choices=("float16", "int8"),
        help="what the weights become: float16, half the size, or int8, about a "
        "quarter, each row of a matrix as bytes with a scale (default: float16)",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="make graphs for onnxruntime, which transcribe without torch",
    )
    parser.add_argument(
        "--web",
        action="store_true",
        help="make a page that recognises speech in a browser",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        help="of the weights in the graphs: float32, or int8, a quarter of the size "
        "(default: float32; in a page: int8)",
    )


def _export(args: argparse.Namespace) -> None:
    graphs = args.onnx or args.web
    if args.onnx and args.web:
        raise ConfigError("--onnx and --web are two folders (give one of them)")
    if graphs and args.weights:
        raise ConfigError("--weights is for a model in torch (give --precision)")
    if args.precision and not graphs:
        raise ConfigError("--precision is for --onnx and --web (give --weights)")
    if args.web:
        from asr.onnx.web import export_web

        export_web(args.run_folder, args.folder, args.precision or "int8")
        note = (
            f"(cd {args.folder} && npm install) fetches onnxruntime-web, once; "
            f"python -m http.server -d {args.folder} serves the page"
        )
    elif args.onnx:
        from asr.onnx.export import export_onnx

        export_onnx(args.run_folder, args.folder, args.precision or "float32")
        note = f"asr transcribe talk.mp3 --model {args.folder}"
    else:
        from asr.model.export import export
        from asr.model.storage import WeightType

        weights: WeightType = args.weights or "float16"
        note = export(args.run_folder, args.folder, weights).card
    print(f"asr: wrote {args.folder}: {note}", file=sys.stderr)
