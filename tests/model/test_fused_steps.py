"""The loop of a GPU: by Triton's interpreter where there is none, compiled where is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.model.attention import AttentionConfig
from asr.model.fused_steps import choose_fused, is_fused, kernels_work
from asr.model.loop_weights import LoopSettings
from asr.model.speller import Speller, SpellerConfig, Spelling
from tests.spelling import gradients_of, weighed

interpreter = pytest.importorskip("triton.runtime.interpreter")
ROOT = Path(__file__).parents[2]
V = 5
KINDS = [
    ("location", "tanh"),
    ("location", "relu"),
    ("additive", "tanh"),
    ("additive", "relu"),
    ("dot", "tanh"),
    ("dot 2", "tanh"),
]
"""Kind, with the heads of a dot, and activation."""
each_device = pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason="Triton compiles here"
            ),
        ),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)


@pytest.fixture(autouse=True)
def _lengths_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's interpreter read a number as numpy 2.4 wants it read.

    Triton 3.6 writes int(array) for an array of one number, which numpy refuses now.
    """
    patch = interpreter._patch_lang_tensor

    def patch_more(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_more)


@pytest.fixture(autouse=True)
def _products_in_full_precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


class Case:
    """A speller, two utterances or one to look at, and targets."""

    def __init__(
        self,
        kind: str,
        activation: str = "tanh",
        *,
        layers: int = 1,
        size: int = 12,
        steps: int = 19,
        batch: int = 2,
        tokens: int = 3,
        listener_size: int = 24,
        speller_size: int = 20,
        filters: int = 3,
        reach: int = 2,
        device: str = "cpu",
    ) -> None:
        kind, _, heads = kind.partition(" ")
        attention = AttentionConfig(
            kind, size, activation, filters, reach, int(heads or 1)
        )
        config = SpellerConfig(speller_size, layers, 4, dropout=0.0)
        self.speller = Speller(config, attention, listener_size, V)
        with torch.no_grad():  # sharper, so that the attention does look somewhere
            for parameter in self.speller.attention.parameters():
                parameter.mul_(2.0)
        self.speller.to(device)
        h = torch.randn(batch, steps, listener_size)
        self.h = h.to(device).requires_grad_()
        self.num_steps = torch.tensor([steps, *[steps * 2 // 3] * (batch - 1)])
        self.inputs = torch.randint(V, (batch, tokens)).to(device)

    def spell(self, *, fused: bool) -> Spelling:
        with choose_fused(fused):
            memory = self.speller.attention.precompute(self.h, self.num_steps)
            return self.speller.spell(memory, self.inputs)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        return gradients_of(self.speller, self.h, loss)


def losses(spelling: Spelling) -> Iterator[Tensor]:
    """Yield scalars that weigh all outputs, and the weights alone."""
    logits, weights = weighed(spelling)
    yield logits.sum() + weights.sum()
    yield weights.sum()


def assert_fused_is_plain(case: Case, tolerance: float) -> None:
    fused, plain = case.spell(fused=True), case.spell(fused=False)

    assert "FusedLoop" in graph_of(fused.weights)
    assert "FusedLoop" not in graph_of(plain.weights)
    assert_near(fused._asdict(), plain._asdict(), tolerance)
    for ours, theirs in zip(losses(fused), losses(plain), strict=True):
        assert_near(case.gradients(ours), case.gradients(theirs), tolerance)


def graph_of(x: Tensor) -> str:
    """Name what made a tensor, and what made that, and so on."""
    names, node = list[str](), x.grad_fn
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return " ".join(names)


def assert_near(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float
) -> None:
    """Compare by the largest error, relative to the largest value.

    Some gradients are zero by nature (of the bias of a dot product's keys, say): there
    a tenth of the largest value of all is the measure.
    """
    largest = {name: float(x.detach().abs().max()) for name, x in expected.items()}
    least = 0.1 * max(largest.values())
    for name, value in expected.items():
        error = float((found[name] - value).detach().abs().max())
        assert error <= tolerance * max(largest[name], least), name


# Parity: the fused loop against the plain one


@each_device
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_values_and_gradients_are_those_of_the_plain_loop(
    kind: str, activation: str, layers: int, device: str
) -> None:
    assert_fused_is_plain(Case(kind, activation, layers=layers, device=device), 1e-5)


@pytest.mark.slow
@each_device
@pytest.mark.parametrize("kind", ["location", "additive", "dot", "dot 2"])
def test_sizes_may_be_larger_than_all_tiles_and_no_multiple_of_them(
    kind: str, device: str
) -> None:
    case = Case(
        kind,
        size=96,
        steps=70,
        tokens=2,
        listener_size=270,
        reach=15,
        device=device,
    )

    assert_fused_is_plain(case, 1e-5)


@each_device
@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_one_step_and_one_character_are_enough(
    kind: str, activation: str, device: str
) -> None:
    case = Case(kind, activation, steps=1, batch=1, tokens=1, device=device)

    assert_fused_is_plain(case, 1e-5)


@each_device
def test_filters_may_reach_beyond_both_ends(device: str) -> None:
    assert_fused_is_plain(Case("location", steps=4, reach=6, device=device), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "activation"), [*KINDS, ("dot 4", "tanh")])
def test_sizes_of_a_training_are_right_on_a_gpu(
    kind: str, activation: str, layers: int
) -> None:
    for steps, size in ((301, 160), (450, 256)):
        case = Case(
            kind,
            activation,
            layers=layers,
            size=size,
            steps=steps,
            batch=33,
            tokens=40,
            listener_size=768,
            speller_size=384,
            filters=10,
            reach=15,
            device="cuda",
        )

        # Among so many numbers some are so near 0 that rounding decides whether relu
        # lets their gradients through.
        assert_fused_is_plain(case, 2e-3 if activation == "relu" else 1e-4)


# Invariance


@each_device
@pytest.mark.parametrize("kind", ["location", "dot"])
def test_going_back_twice_gives_the_same_gradients(kind: str, device: str) -> None:
    case = Case(kind, layers=2, device=device)
    loss = next(losses(case.spell(fused=True)))

    first, second = case.gradients(loss), case.gradients(loss)

    for name, gradient in first.items():
        assert torch.equal(second[name], gradient), name


@each_device
def test_a_padded_step_gets_no_weight_and_no_gradient(device: str) -> None:
    case = Case("location", device=device)
    spelling = case.spell(fused=True)
    padding = int(case.num_steps[1])

    gradient = case.gradients(next(losses(spelling)))["h"]

    assert not spelling.weights[1, :, padding:].any()
    assert gradient[1, :padding].any(dim=1).all()
    assert not gradient[1, padding:].any()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["location", "dot"])
def test_a_graph_of_the_loop_gives_what_the_loop_gives(kind: str) -> None:
    case = Case(kind, device="cuda", steps=150, batch=8, size=96, tokens=10)
    with torch.no_grad():
        memory = case.speller.attention.precompute(case.h, case.num_steps)
    parameters = list(case.speller.parameters())

    def step() -> list[Tensor]:
        with choose_fused(True):
            spelling = case.speller.spell(memory, case.inputs)
        loss = spelling.logits.square().sum() + spelling.weights.square().sum()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return [loss, *found]

    # The parameters' nodes are of the first stream that used them.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = step()
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()

    with torch.cuda.graph(graph):
        found = step()
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()

    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# Which loop is taken


def settings_of(*, block_size: int = 0) -> LoopSettings:
    valid = torch.ones(1, 2, dtype=torch.bool)
    return LoopSettings("tanh", block_size, valid, torch.zeros(1, 2))


def test_on_a_cpu_the_plain_loop_is_taken() -> None:
    assert not is_fused(torch.zeros(1, 1, 4), settings_of())


def test_a_choice_ends_with_its_block() -> None:
    gates = torch.zeros(1, 1, 4)
    with choose_fused(True):
        inside = is_fused(gates, settings_of())
        with choose_fused(False):
            further_inside = is_fused(gates, settings_of())

    assert inside
    assert not further_inside
    assert not is_fused(gates, settings_of())


def test_a_hierarchical_attention_keeps_the_plain_loop() -> None:
    with choose_fused(True):
        assert not is_fused(torch.zeros(1, 1, 4), settings_of(block_size=4))


@pytest.mark.gpu
def test_on_a_gpu_the_fused_loop_is_taken_for_single_precision() -> None:
    gates = torch.zeros(1, 1, 4, device="cuda")

    assert is_fused(gates, settings_of())
    assert not is_fused(gates.double(), settings_of())


@each_device
def test_kernels_that_work_are_found_to_work(
    device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert kernels_work(torch.device(device))
    assert not capfd.readouterr().err


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where Triton does not interpret and sees no GPU."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.slow
def test_where_triton_does_not_work_one_line_is_printed() -> None:
    done = python(
        "-c",
        "import torch; from asr.model.fused_steps import kernels_work\n"
        "print([kernels_work(torch.device('cpu')) for _ in range(2)])",
    )

    assert done.stdout == "[False, False]\n"
    assert done.stderr.startswith("asr: Triton does not work on cpu (RuntimeError: ")
    assert done.stderr.endswith("): the speller's loop is not fused, and slower\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_triton_is_not_imported_before_it_is_used() -> None:
    done = python("-c", "import sys, asr.model.las; print('triton' in sys.modules)")

    assert done.stdout == "False\n"


# Compilation, which no interpreter proves


@pytest.mark.slow
def test_all_kernels_compile_for_a_gpu_and_keep_their_numbers_in_registers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # nothing is compiled yet

    printed = python("-m", "tests.model.compile_fused_kernels").stdout

    kernels = [line.split() for line in printed.splitlines()]
    assert {name for name, *_ in kernels} == {
        *("_lstm_forward", "_lstm_backward", "_look", "_alphas_backward"),
        *("_dot_energies", "_dot_backward"),
        *("_additive_energies", "_additive_backward", "_weights_backward"),
    }
    assert all(int(spilled) <= 64 for _, _, spilled, *_ in kernels)  # bytes a thread
