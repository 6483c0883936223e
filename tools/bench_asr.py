"""Measure speed and memory, ours and a peer's in turn, and print them as a table.

Each figure comes from a process of its own: CPU seconds of one thread (the smallest of
some repetitions, which a busy neighbour disturbs least) and the largest memory that the
process ever had. With a peer, rounds alternate between us and it, and what counts is
the ratio peer / ours within a round: its lowest, median and highest over the rounds.

Shapes, as in the peers' scripts: an utterance is 12 s, 1,200 frames and 180 characters;
S is a listener of 3 layers of 256 a direction and a speller of 256, L one of 5 of 512
and a speller of two layers of 512. Weights and features are made up.

With `--device cuda` (or cpu) the same steps and searches are measured on that device,
by the clock, as hours of audio an hour: training as the plain formula and as it is
recorded on a GPU (with CTC, clipping and the average of the weights), beside the same
network of SpeechBrain's modules where `--peer-python` has them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Figures = dict[str, float]

FRAMES, CHARACTERS, SECONDS = 1200, 180, 12.0
PARTS = ("train", "search", "decode", "features", "loader", "startup", "memory")
PER_HOUR = "hours of audio an hour"


class Row(NamedTuple):
    """One line of the table."""

    part: str
    name: str
    ours: dict[str, Any]
    """Arguments of `measure`."""
    peer: list[str] | None = None
    """Script of the peer and its arguments."""
    unit: str = "CPU s"


def device_rows(device: str) -> Iterator[Row]:
    """List what is measured on a device by the clock."""
    for shape, kind, precision, recorded in (
        *(("L", "location", "bfloat16", True), ("L", "location", "tf32", True)),
        *(("S", "location", "bfloat16", True), ("L", "additive", "bfloat16", True)),
        *(("S", "location", "float32", False), ("L", "location", "float32", False)),
    ):
        step = dict(shape=shape, kind=kind, precision=precision, device=device)
        if precision == "tf32" and device != "cuda":
            continue
        how = "recorded" if recorded else "plain"
        yield Row(
            "train",
            f"training on {device}, {shape}, {kind}, batch 32, {precision}, {how}",
            dict(what="train", **step, batch=32, recorded=recorded),
            ["speechbrain", json.dumps(dict(what="peer", **step, batch=32))],
            unit=PER_HOUR,
        )
    for shape, batch in (("S", 1), ("S", 32), ("L", 1), ("L", 32)):
        yield Row(
            "decode",
            f"listener and beam search on {device}, {shape}, {batch} utterance(s)",
            dict(
                **dict(what="search", shape=shape, batch=batch, precision="float32"),
                **dict(kind="location", device=device),
            ),
            unit=PER_HOUR,
        )


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """List what is measured."""
    if args.device:
        yield from device_rows(args.device)
        return
    for shape, kind, precision in (
        *(("S", "additive", "float32"), ("S", "location", "float32")),
        *(("L", "additive", "float32"), ("S", "additive", "bfloat16")),
        *(("S", "location", "bfloat16"), ("L", "additive", "bfloat16")),
    ):
        peer = ["--mode", "train", "--shape", shape, "--att", kind[:3]]
        yield Row(
            "train",
            f"training step, {shape}, {kind}, batch 16, {precision}",
            dict(what="train", shape=shape, kind=kind, precision=precision),
            ["bench_speechbrain.py", *peer],
        )
    for part, shape, batch, precision in (
        *(("search", "S", 1, "float32"), ("search", "S", 8, "float32")),
        *(("search", "L", 1, "float32"), ("search", "L", 8, "float32")),
        *(("decode", "S", 1, "int8"), ("decode", "L", 1, "float32")),
        *(("decode", "L", 1, "int8"), ("decode", "L", 8, "int8")),
    ):
        peer = ["--mode", "decode", "--shape", shape, "--batch", str(batch)]
        whole = "beam search" if part == "search" else "listener and beam search"
        yield Row(
            part,
            f"{whole}, {shape}, {batch} utterance(s), beam 8, {precision}",
            dict(what="search", shape=shape, batch=batch, precision=precision),
            ["bench_speechbrain.py", *peer],
        )
    yield Row(
        "features",
        "log-mel of an hour of audio",
        dict(what="features", kind="ours"),
        ["features of torchaudio"],
    )
    if args.manifest:
        for augmented in (False, True):
            yield Row(
                "loader",
                f"a second of {'augmented' if augmented else 'plain'} epoch, cached",
                dict(what="loader", manifest=args.manifest, augmented=augmented),
                unit="audio s/CPU s",
            )
    for name in ("help", "import", "transcribe"):
        yield Row("startup", f"start: {name}", dict(what="startup", kind=name))
    for minutes in args.minutes:
        yield Row("memory", f"{minutes} min", dict(what="memory", minutes=minutes))


# What is measured, each in a process of its own


def best(
    work: Callable[[], object],
    repetitions: int,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Smallest time of some repetitions, after one that is not counted."""
    work()
    found = []
    for _ in range(repetitions):
        started = clock()
        work()
        found.append(clock() - started)
    return min(found)


def clock_of(device: str | None) -> Callable[[], float]:
    """Return the clock for a device, which waits until all is done; else CPU time."""
    import torch

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return now if device else time.process_time


def per_hour(device: str, batch: int, seconds: float) -> Figures:
    """Return how fast a batch of utterances was done, and how much memory it took."""
    import torch

    figures = {"cpu": batch * SECONDS / seconds}
    if device == "cuda":
        figures["mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def build(shape: str, kind: str) -> Any:
    """Build a network of a shape, without dropout, that never ends a hypothesis."""
    import torch

    from asr.model.attention import AttentionConfig
    from asr.model.las import LAS, LASConfig
    from asr.model.listener import ListenerConfig
    from asr.model.speller import SpellerConfig

    torch.manual_seed(0)
    large = shape == "L"
    size, attended = (512, 512) if large else (256, 128)
    las = LAS(
        LASConfig(
            ListenerConfig(size, [2, 2, 2, 1, 1] if large else [2, 2, 2], 0.0),
            AttentionConfig(kind, attended, reach=100),
            SpellerConfig(size, 2 if large else 1, size, 0.0),
        ),
        vocab_size=32,
    )
    with torch.no_grad():
        las.speller.output.bias[2] = -1e4
    return las


def measure_train(
    shape: str,
    kind: str,
    precision: str,
    repetitions: int,
    batch: int = 16,
    device: str | None = None,
    recorded: bool = False,
) -> Figures:
    """One step on the speller's cross entropy, as in the peers' scripts."""
    import torch

    from asr.memory import keep_freed_memory
    from asr.runtime import allow_tf32

    keep_freed_memory()
    allow_tf32(precision != "float32")
    if recorded:
        update = recorded_update(shape, kind, precision, batch, str(device))
        return per_hour(str(device), batch, best(update, repetitions, clock_of(device)))
    where = torch.device(device or "cpu")
    las = build(shape, kind).to(where).train()
    x, lengths = torch.randn(batch, FRAMES, 80), torch.full((batch,), FRAMES)
    targets = torch.randint(3, 32, (batch, CHARACTERS))
    x, targets = x.to(where), targets.to(where)
    inputs = torch.nn.functional.pad(targets[:, :-1], (1, 0), value=1)
    optimizer = torch.optim.Adam(las.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            where.type, torch.bfloat16, enabled=precision == "bfloat16"
        ):
            listened = las.listen(x, lengths)
        memory = las.precompute(listened._replace(h=listened.h.float()))
        logits = las.speller.spell(memory, inputs).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten()
        )
        torch.autograd.backward(loss)
        optimizer.step()

    spent = best(step, repetitions, clock_of(device))
    return per_hour(device, batch, spent) if device else {"cpu": spent}


def recorded_update(
    shape: str, kind: str, precision: str, batch: int, device: str
) -> Callable[[], None]:
    """Return an update as training does it on a GPU, on made-up utterances."""
    import torch

    from asr.data.batching import Batch
    from asr.data.length_classes import LengthClass
    from asr.runtime import pick_precision
    from asr.text import CharTokenizer
    from asr.training.distributed import Team
    from asr.training.loss import LossConfig
    from asr.training.recorded_updates import RecordedUpdates

    where, tokenizer = torch.device(device), CharTokenizer()
    las = build(shape, kind).to(where).train()
    average = {name: t.detach().clone() for name, t in las.state_dict().items()}
    updates = RecordedUpdates(
        las,
        tokenizer,
        LossConfig(),
        torch.optim.AdamW(las.parameters(), 1e-4, fused=True),
        average,
        Team(),
        precision=pick_precision(precision, where),
        clip_norm=5.0,
        sampled=False,
        records=device == "cuda",
    )
    made = Batch(
        [str(row) for row in range(batch)],
        torch.randn(batch, FRAMES, 80).to(where),
        torch.full((batch,), FRAMES),
        torch.randint(3, tokenizer.size, (batch, CHARACTERS - 1)),
        torch.full((batch,), CHARACTERS - 1),
        batch * SECONDS,
    )
    shape_of = LengthClass(FRAMES, CHARACTERS - 1, batch)

    def update() -> None:
        updates.update(
            [made], shape_of, num_batches=1, guide=0.0, sampling=0.0, decay=0.99
        )

    update()
    return update


def measure_peer(
    shape: str, kind: str, precision: str, repetitions: int, batch: int, device: str
) -> Figures:
    """The same step of the same network, made of SpeechBrain's modules."""
    import torch
    from speechbrain.nnet.RNN import LSTM, AttentionalRNNDecoder
    from torch import nn

    from asr.model.listener import stack_frames
    from asr.runtime import allow_tf32

    allow_tf32(precision != "float32")
    where = torch.device(device)
    las = build(shape, kind)
    size, layers = las.speller.hidden.out_features, len(las.speller.cells)
    widths = [layer.forwards.input_size for layer in las.listener.layers]
    listener = nn.ModuleList(
        LSTM(hidden_size=size, input_size=width, bidirectional=True) for width in widths
    )
    embedding, output = nn.Embedding(32, size), nn.Linear(size, 32)
    decoder = AttentionalRNNDecoder(
        *("lstm", "location" if kind == "location" else "content", size),
        *(las.speller.attention.query.out_features, layers),
        enc_dim=2 * size,
        input_size=size,
        channels=10,
        kernel_size=100,
        dropout=0.0,
    )
    modules = nn.ModuleList([listener, embedding, decoder, output]).to(where).train()
    optimizer = torch.optim.Adam(modules.parameters(), 1e-4)
    x = torch.randn(batch, FRAMES, 80).to(where)
    targets = torch.randint(3, 32, (batch, CHARACTERS)).to(where)
    inputs = nn.functional.pad(targets[:, :-1], (1, 0), value=1)
    whole = torch.ones(batch, device=where)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            where.type, torch.bfloat16, enabled=precision == "bfloat16"
        ):
            h = x
            for layer, reduction in zip(listener, las.listener.reductions, strict=True):
                h, _ = layer(stack_frames(h, reduction))
            states, _ = decoder(embedding(inputs), h, whole)
            logits = output(states)
        loss = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten()
        )
        torch.autograd.backward(loss)
        optimizer.step()

    return per_hour(device, batch, best(step, repetitions, clock_of(device)))


def measure_search(
    shape: str,
    batch: int,
    precision: str,
    repetitions: int,
    kind: str = "additive",
    device: str | None = None,
) -> Figures:
    """The listener, and the search with a beam of 8 through the real classes."""
    import torch

    from asr.decoding.hypothesis import SearchConfig
    from asr.decoding.search import beam_search
    from asr.model.listener import quantize_int8
    from asr.model.speller_search import StepWeights

    where, clock = torch.device(device or "cpu"), clock_of(device)
    las = build(shape, kind).to(where).eval()
    x, lengths = torch.randn(batch, FRAMES, 80), torch.full((batch,), FRAMES)
    x, limits = x.to(where), torch.full((batch,), CHARACTERS, device=where)
    weights = StepWeights(las.speller)
    if precision == "int8":
        weights = StepWeights(las.speller, precision)
        las.listener = quantize_int8(las.listener)
    with torch.inference_mode():
        listened = las.listen(x, lengths)
        listening = best(lambda: las.listen(x, lengths), repetitions, clock)
        searching = best(
            lambda: beam_search(
                las.steps(listened, weights=weights),
                SearchConfig(beam_size=8),
                sos=1,
                eos=2,
                max_lengths=limits,
            ),
            repetitions,
            clock,
        )
    if device:
        return per_hour(device, batch, listening + searching)
    return {"listen": listening, "cpu": searching}


def measure_features(kind: str, repetitions: int) -> Figures:
    """Hours of audio a CPU second, as recordings of 12 s."""
    import torch

    waveforms = (0.1 * torch.randn(20, round(16_000 * SECONDS))).unbind()
    if kind == "ours":
        from asr.features import log_mel

        work: Callable[[Any], Any] = log_mel
    else:
        from torchaudio.transforms import MelSpectrogram

        mel = MelSpectrogram(
            16_000, n_fft=512, win_length=400, hop_length=160, n_mels=80
        )

        def work(waveform: Any) -> Any:
            return torch.log(mel(waveform) + 1e-6)

    with torch.inference_mode():
        spent = best(lambda: [work(w) for w in waveforms], repetitions + 2)
    return {"cpu": spent * 3600 / (len(waveforms) * SECONDS)}


def measure_loader(manifest: str, augmented: bool, repetitions: int) -> Figures:
    """Read the first 30 minutes of a manifest as a training does."""
    from asr.data.batching import BatchSampler, load
    from asr.data.dataset import Augmentation, Dataset
    from asr.data.manifest import read_manifest
    from asr.features import AugmentConfig
    from asr.text import CharTokenizer

    del repetitions
    utterances, seconds = [], 0.0
    for utterance in read_manifest(manifest):
        if (seconds := seconds + utterance.duration) > 1800:
            break
        utterances.append(utterance)
    augmentation = (
        Augmentation(AugmentConfig([0.9, 1.0, 1.1]), 1) if augmented else None
    )
    dataset = Dataset(utterances, CharTokenizer(), augmentation, cache_hours=1)
    sampler = BatchSampler(
        lambda epoch: [dataset.duration(i, epoch) for i in range(len(dataset))],
        *(120.0, 32, 1, False),
    )
    figures = Figures()
    for epoch, name in enumerate(("first", "cpu")):
        started, frames, places = time.process_time(), 0, 0
        batches = ((indexes, 1.0) for indexes in sampler.batches(epoch))
        for batch in load(dataset, batches, epoch=epoch):
            frames += int(batch.num_frames.sum())
            places += batch.features.size(0) * batch.features.size(1)
        figures[name] = frames / 100 / (time.process_time() - started)
        figures["padding_share"] = 1 - frames / places
    return figures


def measure_startup(kind: str, repetitions: int) -> Figures:
    """Wall and CPU time of a process of its own."""
    code = {
        "help": "from asr.cli import main; main(['--help'])",
        "import": "import asr.inference.recognizer",
        "transcribe": "from asr.cli import main; main(['transcribe', {!r}])",
    }[kind]
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "5s.wav"
        if kind == "transcribe":
            write_recording(recording, 5.0)
        walls, spent = [], []
        for _ in range(repetitions):
            before, started = os.times(), time.perf_counter()
            command = [sys.executable, "-c", code.format(str(recording))]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            after = os.times()
            walls.append(time.perf_counter() - started)
            spent.append(sum(after[2:4]) - sum(before[2:4]))
    return {"cpu": min(spent), "wall": min(walls)}


def measure_memory(minutes: float, repetitions: int) -> Figures:
    """Transcribe the bundled recording again and again, as one of some minutes."""
    from asr.inference.recognizer import Recognizer

    del repetitions
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "long.wav"
        write_recording(recording, 60.0 * minutes)
        started = time.process_time()
        Recognizer.load(precision="int8").transcribe(recording)
    return {"cpu": time.process_time() - started}


def write_recording(path: Path, seconds: float) -> None:
    """Write so many seconds of speech, the bundled recording over and over."""
    from importlib.resources import files

    import soundfile

    from asr.audio import SAMPLE_RATE, read_waveform

    speech = read_waveform(str(files("asr") / "assets" / "sample.opus"))
    count = round(seconds * SAMPLE_RATE)
    samples = speech.repeat(count // len(speech) + 1)[:count]
    soundfile.write(path, samples.numpy(), SAMPLE_RATE)


MEASURES: dict[str, Callable[..., Figures]] = {
    "train": measure_train,
    "peer": measure_peer,
    "search": measure_search,
    "features": measure_features,
    "loader": measure_loader,
    "startup": measure_startup,
    "memory": measure_memory,
}


def measure(what: str, arguments: dict[str, Any]) -> Figures:
    """Measure one thing in this process, on one thread."""
    import torch

    torch.set_num_threads(1)
    figures = MEASURES[what](**arguments)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mib": kilobytes / 1024, **figures}


# One round after the other


def run_python(python: str, words: list[str], folder: Path | None) -> Any:
    """Run Python on one thread; return the last line that it prints, read as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.split("\n") if line.startswith("{")]
    if not lines:
        why = (done.stderr.strip().split("\n") or [""])[-1]
        sys.exit(f"bench: {' '.join(words)}: failed ({why})")
    return json.loads(lines[-1])


def run_ours(row: Row, repetitions: int) -> Figures:
    """Measure a row in a process of its own."""
    arguments = {**row.ours, "repetitions": repetitions}
    words = ["-m", "tools.bench_asr", "--measure", json.dumps(arguments)]
    figures: Figures = run_python(sys.executable, words, None)
    if "listen" in figures and row.part == "decode":
        figures["cpu"] += figures["listen"]
    return figures


def run_peer(row: Row, args: argparse.Namespace) -> Figures:
    """Measure a row's peer in a process of its own."""
    assert row.peer is not None
    if args.device:
        arguments = {**json.loads(row.peer[1]), "repetitions": args.repetitions}
        words = ["-m", "tools.bench_asr", "--measure", json.dumps(arguments)]
        speechbrain: Figures = run_python(args.peer_python, words, None)
        return speechbrain
    if row.part == "features":
        arguments = {**row.ours, "kind": "torchaudio", "repetitions": args.repetitions}
        words = ["-m", "tools.bench_asr", "--measure", json.dumps(arguments)]
        torchaudio: Figures = run_python(sys.executable, words, None)
        return torchaudio
    words = [*row.peer, "--threads", "1", "--reps", str(args.repetitions)]
    found = run_python(args.peer_python, words, args.peers)
    parts = found["cpu_parts"]
    cpu = parts[1] if row.part == "search" else sum(parts)
    return {"cpu": cpu, "mib": found["peak_mib"]}


def compare(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a row in all rounds, beside its peer where there is one."""
    ours, peers = [], []
    for _ in range(args.rounds):
        ours.append(run_ours(row, args.repetitions))
        if args.peer_python and row.peer:
            peers.append(run_peer(row, args))
    result: dict[str, Any] = {"part": row.part, "name": row.name, "unit": row.unit}
    result["ours"] = {k: statistics.median(f[k] for f in ours) for k in ours[0]}
    if peers:
        result["peer"] = {k: statistics.median(f[k] for f in peers) for k in peers[0]}
        pairs = list(zip(ours, peers, strict=True))
        ratios = sorted(  # of how long it takes, where a figure is not that itself
            own["cpu"] / theirs["cpu"] if args.device else theirs["cpu"] / own["cpu"]
            for own, theirs in pairs
        )
        middle = statistics.median(ratios)
        result["ratio"] = {"min": ratios[0], "median": middle, "max": ratios[-1]}
        result["memory_share"] = statistics.median(
            own["mib"] / theirs["mib"] for own, theirs in pairs
        )
    return result


def show(result: dict[str, Any]) -> str:
    """Write a row of the table, in Markdown."""
    ours = result["ours"]
    cells = [
        result["name"],
        f"{ours['cpu']:.3g} {result['unit']}",
        f"{ours['mib']:.0f}",
    ]
    if "wall" in ours:
        cells[1] += f", {ours['wall']:.2f} s of wall time"
    if "first" in ours:
        cells[1] += f" (first epoch {ours['first']:.0f})"
        cells[1] += f", {100 * ours['padding_share']:.1f} % padding"
    if "peer" in result:
        peer, ratio = result["peer"], result["ratio"]
        cells += [f"{peer['cpu']:.3g} {result['unit']}", f"{peer['mib']:.0f}"]
        cells.append(
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
        cells.append(f"{result['memory_share']:.2f}")
    else:
        cells += [""] * 4
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--manifest", help="what the loader reads")
    parser.add_argument(
        "--minutes", type=float, nargs="*", default=[1.0, 5.0, 20.0], metavar="N"
    )
    parser.add_argument("--device", help="measure training and search there instead")
    parser.add_argument("--peer-python", help="Python that has SpeechBrain")
    parser.add_argument("--peers", type=Path, help="folder of the peers' scripts")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure.pop("what"), args.measure)))
        return
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"bench: {min(unknown)} is no part (take some of {','.join(PARTS)})")
    if args.device:
        from asr.runtime import pick_device

        args.device = pick_device(args.device).type
    if args.peer_python and not (args.peers or args.device):
        sys.exit("bench: --peer-python needs --peers, the folder of their scripts")
    if args.peer_python:  # the peers' scripts run in their own folder
        args.peer_python = str(Path(args.peer_python).absolute())
    todo = [row for row in rows(args) if row.part in chosen]
    if not todo:
        parts = ",".join(sorted({row.part for row in rows(args)}))
        sys.exit(f"bench: --only: there is nothing of that here (but {parts})")
    print("| | ours | MiB | peer | MiB | times as fast | memory, ours / peer |")
    print("|---|---|---|---|---|---|---|")
    results = []
    for row in todo:
        results.append(compare(row, args))
        print(show(results[-1]), flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from asr.cli.scripts import run_main

    sys.exit(run_main("bench", main))
