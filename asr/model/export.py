"""Pack a model for others: half the size, with a card, whole or not at all."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from asr.errors import CheckpointError
from asr.model.folder import (
    CALIBRATION,
    CARD,
    DESCRIPTION,
    Model,
    load_model,
    save_model,
    seal,
)


def export_model(source: Path, folder: Path) -> None:
    """Copy a model, its weights in float16, its calibration and its card.

    The copy is read once before it takes its place; what stood there stays if anything
    goes wrong. A folder that holds anything but a model is never replaced.

    Args:
        source: folder of the model.
        folder: of the copy; may be the same.

    Raises:
        CheckpointError: the model cannot be read, or the copy not be written.
    """
    model = load_model(source)
    if folder.exists() and not _may_be_replaced(folder):
        raise CheckpointError(
            f"{folder}: holds something that is no model (name another folder)"
        )
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".asr-", dir=folder.absolute().parent) as place:
            copy, old = Path(place, "new"), Path(place, "old")
            _write(model, source, copy)
            load_model(copy)
            if folder.exists():
                folder.rename(old)
            copy.rename(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror})"
        ) from error


def _may_be_replaced(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return (folder / DESCRIPTION).exists() or not any(folder.iterdir())


def _write(model: Model, source: Path, copy: Path) -> None:
    save_model(copy, model.las, model.tokenizer, model.facts, half=True)
    if (source / CALIBRATION).exists():
        shutil.copyfile(source / CALIBRATION, copy / CALIBRATION)
        seal(copy)
    if (source / CARD).exists():
        shutil.copyfile(source / CARD, copy / CARD)
    else:
        (copy / CARD).write_text(_card(model, source), encoding="utf-8")


def _card(model: Model, source: Path) -> str:
    """Write what is known about a model, and ask for the rest."""
    num_parameters = sum(p.numel() for p in model.las.parameters())
    facts = json.dumps(model.facts, indent=2, ensure_ascii=False)
    return f"""# {source.parent.name if source.name == "model" else source.name}

A Listen, Attend and Spell recogniser: {num_parameters / 1e6:.1f} M parameters, float16.

What its training noted:

```json
{facts}
```

To be filled in: what it learned from (data, hours, speakers, licence), what it was
chosen on, its word error rates with the commands that measured them, what it cannot do,
and its own licence.
"""
