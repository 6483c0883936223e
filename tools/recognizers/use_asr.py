"""Ours, loaded as `asr transcribe` does with the same words on its command line."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from tools.recognizers.protocol import Ready, model_folder, serve


def load(settings: "dict[str, Any]") -> Ready:
    """Load what the words ask for, `--model` and `decoding.key=value` among them."""
    from asr.cli import transcribe
    from asr.cli.options import Parser, decoding_of, load_recognizer, runs_in_onnx

    parser = Parser(prog="asr")
    transcribe.add(parser.add_subparsers())
    words = list(settings["words"])
    args = parser.parse_args(["transcribe", "x.wav", *words])
    args.settings = [word for word in args.paths if word != "x.wav"]
    assets = Path(str(files("asr") / "assets"))
    model = model_folder({"model": args.model}, assets / "las_mini")
    recognizer: Any
    if runs_in_onnx(args):
        from asr.memory import keep_freed_memory
        from asr.onnx.recognizer import OnnxRecognizer

        keep_freed_memory()
        recognizer = OnnxRecognizer.load(args.model, decoding=decoding_of(args))
    else:
        recognizer = load_recognizer(args)
    about = " ".join(settings.get("about") or ["asr transcribe", *words])
    languages = assets / "words"
    return Ready(
        about, [model, languages], lambda path: recognizer.transcribe(path).text
    )


if __name__ == "__main__":
    serve(load)
