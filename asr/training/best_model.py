"""The best weights so far, kept as a model, and pictures of where they look."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr.data.batching import load
from asr.data.dataset import Dataset
from asr.model.las import LAS
from asr.model.storage import read_settings_files, save_model
from asr.progress import print_if_read
from asr.text import Tokenizer
from asr.training.checkpoint import Place
from asr.training.loss import teacher_inputs
from asr.training.validation import Validation

MODEL, ATTENTION = "model", "attention"

Draw = Callable[[Path, Tensor, Sequence[str], Tensor], None]
"""Draws (I, J) attention weights into a file, with what the I tokens write and the (N,)
samples that were listened to."""


class BestModel:
    """Keeps the averaged weights where they have the lowest loss on dev so far.

    Args:
        folder: of the run.
        las: the network.
        tokenizer: of its tokens.
        dev: what is validated on.
        average: the weights that are kept, by name.
        draw: draws attention pictures.
    """

    def __init__(
        self,
        folder: Path,
        las: LAS,
        tokenizer: Tokenizer,
        dev: Dataset,
        average: dict[str, Tensor],
        draw: Draw,
    ) -> None:
        self.folder, self.las, self.tokenizer, self.dev = folder, las, tokenizer, dev
        self.average, self.draw = average, draw
        self._noted = False  # that settings of the model were kept

    def take(self, found: Validation, place: Place) -> None:
        """Keep the averaged weights if validation found that they are the best."""
        best = place.best_loss
        if best is None or found.loss <= best:
            place.best_loss = found.loss
            self._keep(found, place)

    @torch.no_grad()
    def draw_attention(self, step: int) -> None:
        """Draw where the speller looks in the middle utterance of dev."""
        index = len(self.dev) // 2
        (batch,) = load(self.dev, [([index], 0.0)])
        batch = batch.to(self.las.ctc.weight.device)
        inputs, _ = teacher_inputs(batch, self.tokenizer)
        spelling, _, _ = self.las(batch.features, batch.num_frames, inputs)
        folder = self.folder / ATTENTION
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{step:06d}.png"
        pieces = self.tokenizer.pieces(self.dev.tokens[index].tolist())
        weights, waveform = spelling.weights[0].cpu(), self.dev.waveform(index)
        self.draw(path, weights, pieces, waveform)

    def _keep(self, found: Validation, place: Place) -> None:
        metadata = {
            "step": place.step,
            "epoch": place.epoch,
            "minutes": round(place.seconds / 60, 1),
            **{name: round(value, 4) for name, value in found.metrics().items()},
        }
        model = self.folder / MODEL
        kept = read_settings_files(model)
        save_model(
            *(model, self.las, self.tokenizer, metadata),
            weights=self.average,
            further=kept,
        )
        if kept and not self._noted:
            print_if_read(
                f"{model}: keeps {' and '.join(kept)}, made for the weights before "
                "(asr tune and asr calibrate make them anew)"
            )
            self._noted = True
