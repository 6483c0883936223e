"""Split a training step and a beam step into their parts.

Milliseconds are CPU time of one thread, the smallest of three; the share is that of the
machine's own peak, a product of two 2,048 x 2,048 matrices in float32, by the
multiplications and additions that the part's products need.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asr.model.las import LAS
from asr.model.lstm import step_forward
from asr.model.speller_search import LASSteps, StepWeights
from asr.quantized import Float32Linear
from tools.bench_asr import CHARACTERS, FRAMES, best, build

BATCH, BEAM = 16, 8


def spent(work: Callable[[], object]) -> float:
    """Seconds of one call, from many."""
    return best(lambda: [work() for _ in range(50)], 3) / 50


def peak() -> float:
    """Operations a second of a large product in float32."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / best(lambda: a @ a, 3)


def training_step(las: LAS, precision: str) -> dict[str, tuple[float, float]]:
    """Seconds and operations of each part of a step on 16 utterances of 12 s."""
    x, lengths = torch.randn(BATCH, FRAMES, 80), torch.full((BATCH,), FRAMES)
    inputs = torch.randint(3, 32, (BATCH, CHARACTERS))
    names = ("listen", "attend: keys", "spell", "output and loss", "backward")
    found = dict.fromkeys(names, float("inf"))
    for _ in range(4):
        marks = [time.process_time()]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            listened = las.listen(x, lengths)
        marks.append(time.process_time())
        memory = las.precompute(listened._replace(h=listened.h.float()))
        marks.append(time.process_time())
        spelling = las.speller.spell(memory, inputs)
        marks.append(time.process_time())
        loss = torch.nn.functional.cross_entropy(
            spelling.logits.flatten(0, 1), inputs.flatten()
        )
        marks.append(time.process_time())
        las.zero_grad()
        torch.autograd.backward(loss)
        marks.append(time.process_time())
        for name, start, end in zip(names, marks, marks[1:], strict=False):
            found[name] = min(found[name], end - start)
    listen, keys, spell = operations(las, memory.h)
    counts = [listen, keys, spell, 0.0, 2 * (listen + keys + spell)]
    return {n: (found[n], c) for n, c in zip(names, counts, strict=True)}


def operations(las: LAS, h: Tensor) -> tuple[float, float, float]:
    """Multiplications and additions of listener, keys and speller, going forward."""
    listen, steps = 0.0, float(FRAMES)
    for layer, reduction in zip(
        las.listener.layers, las.listener.reductions, strict=True
    ):
        steps /= reduction
        matrices = [p for p in layer.parameters() if p.dim() == 2]
        listen += 2 * BATCH * steps * sum(p.numel() for p in matrices)
    speller, size = las.speller, las.config.attention.size
    matrices = [p for p in speller.parameters() if p.dim() == 2]
    key = speller.attention.key.weight.numel()
    weights = sum(p.numel() for p in matrices) - key - speller.embedding.weight.numel()
    looks = h.size(1) * (2 * size + 2 * h.size(2))
    return (
        listen,
        2.0 * BATCH * h.size(1) * key,
        float(BATCH * CHARACTERS * (2 * weights + looks)),
    )


@torch.inference_mode()
def beam_step(las: LAS) -> dict[str, tuple[float, float]]:
    """Seconds and operations of each part of one step of 8 hypotheses."""
    x, lengths = torch.randn(1, FRAMES, 80), torch.full((1,), FRAMES)
    listened, model = las.listen(x, lengths), StepWeights(las.speller)
    memory = las.precompute(listened)
    start = las.speller.attention.start(memory)
    steps = LASSteps(model, memory, start, 0.0)
    state = steps.select(steps.start(), torch.zeros(1, BEAM, dtype=torch.int64))
    tokens, shares = torch.full((BEAM,), 3), state.memory.h
    cell, s = torch.randn(BEAM, model.size), torch.randn(BEAM, model.size)
    new_cell, new_s = torch.empty_like(cell), torch.empty_like(s)
    query = model.query(s)[None]
    weights = state.weights[None]
    gates = model.table.index_select(0, tokens)
    products = [p for p in model.recurrent if isinstance(p, Float32Linear)]
    wide = torch.randn(BEAM, products[-1].num_inputs)

    def spell() -> None:
        for product in products:
            below = wide[:, : product.num_inputs]
            step_forward(product.add_to(gates, below), cell, new_cell, new_s)

    size, width, length = model.size, shares.size(2), shares.size(1)
    recurrent = sum(product.num_inputs * product.size for product in products)
    parts: dict[str, tuple[Callable[[], Any], float]] = {
        "spell": (spell, 2 * BEAM * recurrent),
        "attend: energies": (
            lambda: steps.energies(query, state.memory, weights),
            2 * BEAM * length * query.size(2),
        ),
        "attend: shares of the context": (
            lambda: torch.bmm(weights, shares),
            2 * BEAM * length * width,
        ),
        "output": (
            lambda: model.output(model.hidden(s).tanh_()).log_softmax(dim=-1),
            2 * BEAM * size * (size + 32),
        ),
        "reorder": (lambda: steps.select(state, torch.arange(BEAM)[None]), 0),
        "the whole step": (lambda: steps.step(tokens, state), 0),
    }
    return {name: (spent(work), float(count)) for name, (work, count) in parts.items()}


def show(title: str, parts: dict[str, tuple[float, float]], fastest: float) -> None:
    """Print a table in Markdown."""
    print(f"\n| {title} | ms | GFLOP/s | of the peak |\n|---|---|---|---|")
    for name, (seconds, count) in parts.items():
        speed = count / seconds
        cells = f"{speed / 1e9:.0f} | {100 * speed / fastest:.0f} %" if count else " | "
        print(f"| {name} | {1000 * seconds:.3g} | {cells} |")


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(prog="tools/profile_step", description=__doc__)
    parser.add_argument("shape", nargs="?", choices=("S", "L"), default="S")
    precisions = ("float32", "bfloat16")
    parser.add_argument("precision", nargs="?", choices=precisions, default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fastest = peak()
    print(f"peak: {fastest / 1e9:.0f} GFLOP/s in float32 on one thread")
    las = build(args.shape, "additive")
    show("training step", training_step(las.train(), args.precision), fastest)
    show("beam step", beam_step(las.eval()), fastest)


if __name__ == "__main__":
    main()
