"""Draw the pictures of docs/how-attention-works.md.

    python tools/attention_pictures.py docs/pictures
    python tools/attention_pictures.py docs/pictures --runs exp/toy

The first draws what the bundled model looked at in the bundled recording. The second
draws, too, what the models in exp/toy/additive, location, dot, heads and blocks looked
at in a recording of the toy corpus; the page has the commands that train them.

Shapes: I characters with the end, J listener steps, H listener size, N heads, M blocks
        of G steps, T frames, F mel bands.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.acoustics import draw_spectrogram
from asr.audio import SAMPLE_RATE, read_waveform
from asr.cli.scripts import run_main
from asr.data.manifest import read_manifest
from asr.data.recordings import read_utterance
from asr.decoding.config import DecodingConfig
from asr.features import FRAMES_PER_SECOND, log_mel
from asr.inference.recognizer import Recognizer
from asr.model.attention import Attention, AttentionOutput, LocationAwareAttention
from asr.model.storage import Model, find_model, load_model
from asr.reports.attention_blocks import across_weights, inside_weights
from asr.reports.attention_plot import paint_attention, row_names
from asr.runtime import use_one_thread
from asr.training.validation import attention_habits

END = "\u220e"
BLUE, ORANGE, GREY = "#2a6fad", "#d9720f", "#8a8f98"
WIDTH = 9.0
"""Inches."""
DPI = 100
CLIP = ("BUT SOMETHING HAD TO BE DONE", 2.75)
"""What is said in the first seconds of the bundled recording."""
TOY = "test-0006"
"""The recording of the toy corpus: 'MAY YA'YC TBEA, with Y three times."""
ROWS_SHOWN = 40
"""Characters of the loop."""
KINDS = {
    "additive": "additive",
    "location": "location-aware",
    "dot": "scaled dot",
    "blocks": "hierarchical (blocks of {block_size} steps)",
}
"""Runs that stand side by side, and what is written above them."""


@dataclass(frozen=True)
class Reading:
    """All that a speller looked at while it read a text, character by character."""

    waveform: Tensor
    """(N,) at 16 kHz."""
    text: str
    h: Tensor
    """(J, H) listener steps."""
    states: Tensor
    """(I, S) s_i."""
    energies: Tensor
    """(I, N, J) e_i of each head."""
    weights: Tensor
    """(I, J) alpha_i."""
    contexts: Tensor
    """(I, H) c_i."""
    seconds_per_step: float

    @property
    def characters(self) -> str:
        """The I characters: the text and its end."""
        return self.text + END

    @property
    def times(self) -> list[float]:
        """The middle of each of the J listener steps, in seconds."""
        return [(j + 0.5) * self.seconds_per_step for j in range(len(self.h))]


@torch.inference_mode()
def read(model: Model, waveform: Tensor, text: str) -> Reading:
    """Have a model read a text in a recording, and keep what it looked at."""
    las, tokenizer = model.las.eval(), model.tokenizer
    features = log_mel(waveform)[None]
    listened = las.listen(features, torch.tensor([features.size(1)]))
    memory = las.precompute(listened)
    attention, state = las.speller.attention, las.speller.start(memory)
    states, energies, weights, contexts = (list[Tensor]() for _ in range(4))
    for token in [tokenizer.sos, *tokenizer.encode(text)]:
        previous = state.weights
        _, state = las.speller.step(torch.tensor([token]), state, memory)
        s = state.hidden[-1]
        energies.append(attention.energies(s[:, None], memory, previous[:, None]))
        states.append(s)
        weights.append(state.weights)
        contexts.append(state.context)
    return Reading(
        waveform,
        text,
        listened.h[0],
        torch.cat(states),
        torch.cat(energies)[:, :, 0],  # (I, N, 1, J) -> (I, N, J)
        torch.cat(weights),
        torch.cat(contexts),
        las.listener.reduction / FRAMES_PER_SECOND,
    )


def around(weights: Tensor, count: int) -> slice:
    """(J,) weights -> the `count` neighbouring steps that hold most of them.

    >>> around(torch.tensor([0.0, 0.1, 0.6, 0.3, 0.0]), 3)
    slice(1, 4, None)
    """
    sums = weights.unfold(0, count, 1).sum(dim=1)
    start = int(sums.argmax())
    return slice(start, start + count)


# One character


def draw_one_character(path: Path, reading: Reading, i: int) -> None:
    """Draw energies and weights of one character, below the spectrogram."""
    figure = _figure(5.6)
    top, middle, bottom = figure.subplots(
        3, 1, sharex=True, height_ratios=[1.2, 1.2, 1]
    )
    draw_spectrogram(top, reading.waveform)
    top.set_title(_which(reading, i), fontsize=10, loc="left")
    times = reading.times
    middle.plot(
        times, reading.energies[i, 0].tolist(), color=BLUE, marker=".", markersize=4
    )
    middle.set_ylabel("energy $e_{ij}$")
    middle.grid(alpha=0.3)
    bars = reading.seconds_per_step * 0.9
    bottom.bar(times, reading.weights[i].tolist(), width=bars, color=ORANGE)
    bottom.set_ylabel(r"weight $\alpha_{ij}$")
    bottom.set_xlabel("time [s]")
    bottom.grid(alpha=0.3)
    _save(figure, path)


def draw_context(path: Path, reading: Reading, i: int) -> None:
    """Draw a context as the weighted sum of the steps around the greatest weights."""
    shown, numbers = around(reading.weights[i], 9), 32
    weights, steps = reading.weights[i, shown], reading.h[shown, :numbers]
    reach = float(steps.abs().max())
    figure = _figure(4.6)
    axes = figure.subplots(2, 2, height_ratios=[1, 2.4], width_ratios=[9, 1.2])
    (top, nothing), (left, right) = axes
    nothing.axis("off")
    places = range(shown.start, shown.stop)
    top.bar(places, weights.tolist(), color=ORANGE, width=0.9)
    for place, weight in zip(places, weights.tolist(), strict=True):
        top.text(place, weight, f"{weight:.2f}", ha="center", va="bottom", fontsize=8)
    top.set(ylabel=r"$\alpha_{ij}$", xlim=(shown.start - 0.5, shown.stop - 0.5))
    top.set_ylim(0, 1.25 * float(weights.max()))
    top.set_xticks(list(places))
    top.set_title(
        f"{_which(reading, i)}: {float(weights.sum()):.2f} of the weight is on "
        f"{len(weights)} of {len(reading.h)} steps",
        fontsize=10,
        loc="left",
    )
    colours: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    limits = (shown.start - 0.5, shown.stop - 0.5, numbers - 0.5, -0.5)
    left.imshow(steps.t().numpy(), aspect="auto", extent=limits, **colours)
    left.set_xticks(list(places))
    left.set(xlabel="listener step j", ylabel=f"first {numbers} numbers of $h_j$")
    context = reading.contexts[i, :numbers, None].numpy()  # one column
    image = right.imshow(context, aspect="auto", **colours)
    right.set_title(r"$c_i=\sum_j\alpha_{ij}h_j$", fontsize=9)
    right.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=right, label="value", fraction=0.5)
    _save(figure, path)


# A whole text


def draw_alpha(path: Path, reading: Reading) -> None:
    """Draw all weights below the spectrogram."""
    figure = _figure(9.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 5])
    draw_spectrogram(top, reading.waveform)
    _alpha(bottom, reading, reading.weights)
    _save(figure, path)


@torch.inference_mode()
def draw_location(path: Path, model: Model, reading: Reading, i: int) -> None:
    """Draw what the previous weights do to the weights of one character."""
    attention = model.las.speller.attention
    assert isinstance(attention, LocationAwareAttention)
    figure = _figure(6.4)
    top, middle, bottom = figure.subplots(3, 1)
    times, previous = reading.times, reading.weights[i - 1]
    without = _weights(attention, reading, i, torch.zeros_like(previous))
    bars = reading.seconds_per_step * 0.9
    top.bar(times, previous.tolist(), width=bars, color=GREY)
    top.set_ylabel(r"$\alpha_{i-1,j}$")
    top.set_title(f"before: {_which(reading, i - 1)}", fontsize=10, loc="left")
    middle.plot(
        times, without.tolist(), color=BLUE, label="previous weights set to zero"
    )
    middle.plot(times, reading.weights[i].tolist(), color=ORANGE, label="as it is")
    middle.set_ylabel(r"$\alpha_{ij}$")
    middle.set_title(f"now: {_which(reading, i)}", fontsize=10, loc="left")
    middle.legend(fontsize=8, frameon=False)
    for axes in (top, middle):
        axes.set(xlabel="time [s]", xlim=(0, times[-1]))
        axes.grid(alpha=0.3)
    filters = attention.filters.detach()
    reach, limit = filters.size(1) // 2, float(filters.abs().max())
    image = bottom.imshow(
        filters.numpy(),
        aspect="auto",
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(-reach - 0.5, reach + 0.5, len(filters) - 0.5, -0.5),
    )
    bottom.set_xticks(range(-reach, reach + 1, 2))
    bottom.set(xlabel="place seen, relative to step j [steps]", ylabel="filter")
    figure.colorbar(image, ax=bottom, label="value")
    _save(figure, path)


def draw_failures(
    path: Path, model: Model, waveform: Tensor, text: str, stammer: Tensor
) -> None:
    """Draw the marks of what can go wrong.

    Args:
        path: the picture.
        model: the bundled one.
        waveform: (N,) a few seconds of speech.
        text: what is said in it.
        stammer: (N,) what the speller loops in.
    """
    words, loop = text.split(), greedy_text(model, stammer)
    parts = (
        (f"a loop: the first {ROWS_SHOWN} of {len(loop)} characters", stammer, loop),
        ("an early stop: the text cut short", waveform, " ".join(words[:3])),
        ("words left out", waveform, " ".join([*words[:2], *words[-1:]])),
        ("no speech: the text read in white noise", white_noise(len(waveform)), text),
    )
    figure = _figure(8.2)
    places = figure.subplots(2, 2).flat
    for axes, (name, sound, reads) in zip(places, parts, strict=True):
        reading = read(model, sound, reads)
        focus, monotony, reach = attention_habits(reading.weights).tolist()
        _alpha(axes, reading, reading.weights[:ROWS_SHOWN])
        axes.set_title(
            f"{name}\nfocus {focus:.2f}, monotony {monotony:.2f}, reach {reach:.2f}",
            fontsize=9,
        )
    _save(figure, path)


def white_noise(num_samples: int) -> Tensor:
    """(N,) white noise, always the same, 20 dB below full scale."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(num_samples, generator=generator)


def said_backwards(waveform: Tensor) -> Tensor:
    """(N,) -> (8.4 s,) the end of SAID and the pause, backwards, fourteen times."""
    end = waveform[int(4.3 * SAMPLE_RATE) : int(4.9 * SAMPLE_RATE)]
    return end.flip(0).repeat(14)


def greedy_text(model: Model, waveform: Tensor) -> str:
    """Have the speller alone write, by its best character each time."""
    decoding = DecodingConfig(
        beam_size=1, ctc_weight=0.0, lm_weight=0.0, eos_threshold=None
    )
    return Recognizer(model, decoding).search([waveform])[0].texts[0]


# Several kinds


def draw_kinds(path: Path, readings: Sequence[tuple[str, Reading]]) -> None:
    """Draw the weights of several models on one recording, side by side."""
    figure = _figure(8.4)
    columns = (len(readings) + 1) // 2
    axes = figure.subplots(
        3, columns, squeeze=False, sharex=True, height_ratios=[1, 2.4, 2.4]
    )
    for top in axes[0]:
        draw_spectrogram(top, readings[0][1].waveform)
    for place, (name, reading) in zip(axes[1:].flat, readings, strict=False):
        _alpha(place, reading, reading.weights)
        place.set_title(name, fontsize=10)
    _save(figure, path)


def draw_heads(path: Path, reading: Reading) -> None:
    """Draw what each head of a dot attention looks at, and their mean."""
    heads = reading.energies.softmax(dim=2)  # (I, N, J)
    parts = [(f"head {n + 1}", heads[:, n]) for n in range(heads.size(1))]
    parts.append(("mean", reading.weights))
    figure = _figure(6.6)
    places = list(figure.subplots(2, (len(parts) + 1) // 2, sharey=True).flat)
    for axes, (name, weights) in zip(places, parts, strict=False):
        _alpha(axes, reading, weights)
        axes.set_title(name, fontsize=10)
        axes.label_outer(remove_inner_ticks=False)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("time [s]")
    for axes in places[len(parts) :]:
        axes.axis("off")
    _save(figure, path)


def draw_blocks(path: Path, reading: Reading, block_size: int) -> None:
    """Draw the two looks of a hierarchical attention, and their product."""
    beta = across_weights(reading.weights, block_size)
    steps = beta.repeat_interleave(block_size, dim=1)[:, : reading.weights.size(1)]
    parts = (
        (r"inside: $\alpha_{ij}$", inside_weights(reading.weights, block_size)),
        (r"across: $\beta_{im}$", steps),
        (r"product: $\beta_{im}\alpha_{ij}$", reading.weights),
    )
    figure = _figure(4.2)
    places = figure.subplots(1, 3, sharey=True)
    for axes, (name, weights) in zip(places, parts, strict=True):
        _alpha(axes, reading, weights)
        axes.set_title(name, fontsize=10)
        axes.label_outer()
        for m in range(1, beta.size(1)):
            seconds = m * block_size * reading.seconds_per_step
            axes.axvline(seconds, color=GREY, linewidth=0.5)
    _save(figure, path)


# Parts of pictures


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure  # with pyplot, all figures would be kept

    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _alpha(axes: Any, reading: Reading, weights: Tensor) -> None:
    rows = row_names(reading.characters)[: len(weights)]
    paint_attention(axes, weights, rows, reading.seconds_per_step)


def _which(reading: Reading, i: int) -> str:
    """Name a character with the text around it, so that it can be found."""
    rows = row_names(reading.characters)
    before, after = "".join(rows[max(0, i - 12) : i]), "".join(rows[i + 1 : i + 9])
    return f"character i = {i + 1}: {before}[{rows[i]}]{after}"


def _weights(
    attention: Attention, reading: Reading, i: int, previous: Tensor
) -> Tensor:
    """(J,) alpha_i, had the previous weights (J,) been others."""
    memory = attention.precompute(reading.h[None], torch.tensor([len(reading.h)]))
    output: AttentionOutput = attention(reading.states[i, None], memory, previous[None])
    return output.weights[0]


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--runs", type=Path, help="folder of the toy corpus's runs")
    args = parser.parse_args()
    use_one_thread()
    draw_bundled(args.folder)
    if args.runs:
        draw_toy(args.folder, args.runs)


def draw_bundled(folder: Path) -> None:
    """Draw what the bundled model looked at in the bundled recording."""
    assets = Path(str(files("asr") / "assets"))
    text = json.loads((assets / "sample.json").read_text(encoding="utf-8"))["text"]
    model = load_model(find_model(None))
    reading = read(model, read_waveform(assets / "sample.opus"), text)
    one = text.index("TO ")
    draw_one_character(folder / "attention-one-character.png", reading, one)
    draw_context(folder / "attention-context.png", reading, one)
    draw_alpha(folder / "attention-alpha.png", reading)
    again = text.index("THE RULERS")
    draw_location(folder / "attention-location.png", model, reading, again)
    words, seconds = CLIP
    clip = reading.waveform[: round(seconds * SAMPLE_RATE)]
    stammer = said_backwards(reading.waveform)
    draw_failures(folder / "attention-failures.png", model, clip, words, stammer)


def draw_toy(folder: Path, runs: Path) -> None:
    """Draw what models of the toy corpus looked at in one of its recordings."""
    utterances = read_manifest(runs / "data" / "test.jsonl")
    utterance = next(one for one in utterances if one.id == TOY)
    waveform = read_utterance(utterance)
    readings, sizes = dict[str, Reading](), dict[str, int]()
    for kind in (*KINDS, "heads"):
        model = load_model(find_model(runs / kind))
        readings[kind] = read(model, waveform, utterance.text)
        print(f"{kind}: writes {greedy_text(model, waveform)}")
        sizes[kind] = model.las.config.attention.block_size
    names = [
        (name.format(block_size=sizes[kind]), readings[kind])
        for kind, name in KINDS.items()
    ]
    draw_kinds(folder / "attention-kinds.png", names)
    draw_heads(folder / "attention-heads.png", readings["heads"])
    draw_blocks(folder / "attention-blocks.png", readings["blocks"], sizes["blocks"])


if __name__ == "__main__":
    sys.exit(run_main("attention_pictures", main))
