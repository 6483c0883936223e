"""Export the model of a run as a page that recognises speech in a browser.

One static folder: the page and its worker (`asr/assets/web`), the graphs of
`asr.model.onnx_graphs`, and model.json for what the worker must know. `npm install` in
the folder fetches onnxruntime-web, once; the page itself asks no other server.

The page searches as `asr transcribe` does without a language model and with the
settings in model.json: speller and CTC prefix scores.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from asr.errors import CheckpointError, ConfigError
from asr.file_sets import is_rest
from asr.files import errors_of
from asr.folders import write_files
from asr.foreign import parse_table, read_file
from asr.inference.search_settings import load_decoding
from asr.inference.situations import Situation
from asr.model.hub import is_on_hub
from asr.model.onnx_graphs import listener_graph, step_graph
from asr.model.storage import DECODING, Model, find_model, load_model
from asr.onnx.features import mel_filters
from asr.onnx.folder import LISTENER, STEP
from asr.quantized import check_precision

BEAM_SIZE = 16
"""Of the search in the page; where the model's own is smaller, that."""
MODEL = "model.json"
_SETTINGS = ("beam_size", "length_norm", "eos_threshold", "ctc_weight", "coverage")


def export_web(run: str | Path | None, folder: Path, precision: str = "int8") -> None:
    """Export the model of a run as a page.

    Args:
        run: folder of a run or of a model, or name of one: bundled, or on the Hub.
        folder: is made, or replaced where it holds such a page or nothing; what npm
            fetched into it stays.
        precision: of the weights: float32 or int8.

    Raises:
        CheckpointError: there is no model, or it is damaged, or has an attention of the
            user's own; the folder holds something else; or it cannot be written.
        ConfigError: the precision is not known, or the model's attention has a window.
    """
    check_precision(precision)
    if is_on_hub(folder):
        raise CheckpointError(f"{folder}: is on the Hub (name a folder)")
    source = find_model(run)
    model = load_model(source)
    with errors_of(folder):
        if folder.exists() and not _is_replaceable(folder):
            raise CheckpointError(
                f"{folder}: holds other things than a page (give a new or empty folder)"
            )
        folder.mkdir(parents=True, exist_ok=True)
    assets = Path(str(files("asr") / "assets"))
    contents = {
        path.name: path.read_bytes() for path in sorted((assets / "web").iterdir())
    }
    contents["sample.opus"] = (assets / "sample.opus").read_bytes()
    contents["mel.f32"] = mel_filters().astype("<f4").tobytes()
    contents[LISTENER] = listener_graph(model.las, precision)
    contents[STEP] = step_graph(model.las, precision)
    about = _description(source, model, precision)
    contents[MODEL] = (json.dumps(about, indent=1) + "\n").encode()
    write_files(folder, contents)


def _is_replaceable(folder: Path) -> bool:
    """Return whether a folder holds such a page, or nothing.

    A model in torch has a model.json, too: what is in it decides.
    """
    if all(is_rest(path.name) for path in folder.iterdir()):
        return True
    try:
        return "pieces" in parse_table(read_file(folder / MODEL))
    except (OSError, ValueError):
        return False


def _description(source: Path, model: Model, precision: str) -> dict[str, Any]:
    tokenizer, las = model.tokenizer, model.las
    decoding = load_decoding(source, Situation.WITHOUT).to_dict()
    if decoding["attention_window"] is not None:
        raise ConfigError(
            f"{source / DECODING}: {Situation.WITHOUT}: attention_window: is not "
            "possible in a page (export a copy of the model without it)"
        )
    search = {name: decoding[name] for name in _SETTINGS}
    search["beam_size"] = min(search["beam_size"], BEAM_SIZE)
    speller = las.config.speller
    return {
        "name": source.name,
        "precision": precision,
        "pieces": [tokenizer.pieces([token])[0] for token in range(tokenizer.size)],
        "tokens": {name: getattr(tokenizer, name) for name in ("pad", "sos", "eos")},
        "kept": (4 + 2 * speller.layers) * speller.size,
        "reduction": las.listener.reduction,
        "search": search,
    }
