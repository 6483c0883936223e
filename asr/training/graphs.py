"""An update as a recording: forward and backward of a whole batch as two CUDA graphs.

The speller's loop alone is thousands of small operations, and a GPU waits for a CPU
that launches them one by one. Where batches have few fixed shapes (`LengthClass`), all
of them are recorded once a shape and replayed with one launch. What a graph reads and
writes stays where it is: batches are copied in, gradients out. CTC stands between the
two graphs, since its lengths are numbers of the CPU's.

On another device a recording does the same work anew, in the same places, so that all
but the recording itself is the same everywhere.

Shapes: B rows, T frames, F mel bands, I tokens, J listener steps, J' steps of the CTC
        head, V vocabulary size.

Source: "CUDA semantics", PyTorch's manual, on CUDA graphs: all that a graph reads must
outlive it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asr.data.batching import Batch
from asr.data.length_classes import LengthClass
from asr.features import NUM_MELS
from asr.model.fused_steps import choose_fused
from asr.model.las import LAS
from asr.runtime import full_float32, send
from asr.text import Tokenizer
from asr.training.loss import (
    LossConfig,
    ctc_loss,
    off_path,
    spelling_loss,
    teacher_inputs,
)

MOST_DIFFERENT = 0.01
"""Share by which a replayed gradient may differ from one that was worked out anew."""


class Recording:
    """Work that is done again and again in the same places.

    Args:
        work: reads and writes tensors that stay where they are; returns some of them.
    """

    def __init__(self, work: Callable[[], tuple[Tensor | None, ...]]) -> None:
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None
        self.results: tuple[Any, ...] = ()
        """What `work` returned; filled anew by each `replay`."""

    def record(self, pool: Any) -> None:
        """Record the work as a CUDA graph; it was done before.

        Args:
            pool: of memory, which recordings share that are not replayed at a time:
                what one of them returned is good until another is replayed.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: one of them fills pinned memory.
        with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
            self.results = self._work()
        self._graph = graph

    def replay(self) -> None:
        """Do the work."""
        if self._graph is None:
            self.results = self._work()
        else:
            self._graph.replay()


class _Places(NamedTuple):
    """Where the tensors of a batch stand."""

    features: Tensor
    """(B, T, F)."""
    num_frames: Tensor
    """(B,)."""
    inputs: Tensor
    """(B, I)."""
    targets: Tensor
    """(B, I)."""
    expected: Tensor
    """(B, I) listener step at which each token is expected."""
    num_targets: Tensor
    """(B,) with <eos>; 0 for a row without an utterance."""
    num_characters: Tensor
    """() of all utterances."""
    guide: Tensor
    """() weight of the guide."""
    sampling: Tensor
    """() chance of an input to be the speller's own guess."""


class RecordedStep:
    """The gradients of batches of one shape.

    Args:
        las: the network, in training mode.
        tokenizer: of its tokens.
        config: of the loss.
        shape: of the batches.
        precision: how the listener multiplies.
        guided: whether attention is guided; see `loss`.
        sampled: whether some inputs are the speller's own guesses.
    """

    def __init__(
        self,
        las: LAS,
        tokenizer: Tokenizer,
        config: LossConfig,
        shape: LengthClass,
        precision: torch.dtype,
        *,
        guided: bool,
        sampled: bool = False,
    ) -> None:
        self.las, self.tokenizer, self.config = las, tokenizer, config
        self.precision, self.guided, self.sampled = precision, guided, sampled
        self.parameters = [p for p in las.parameters() if p.requires_grad]
        self.device = las.ctc.weight.device
        self.places = self._make_places(shape)
        self._one = torch.ones((), device=self.device)
        self._d_log_probs: Tensor | None = None
        self.forward = Recording(self._forward)
        self.backward = Recording(self._backward)

    def record(self, batch: Batch, pool: Any = None) -> None:
        """Record both graphs with a batch of the shape; see `Recording.record`."""
        self.warm_up(batch)
        self.forward.results = self.backward.results = ()
        pool = pool or torch.cuda.graph_pool_handle()
        self.forward.record(pool)
        self.backward.record(pool)

    def warm_up(self, batch: Batch) -> None:
        """Do the work once: what is made once, and compiled, is no part of it."""
        # The nodes that gather gradients are of another stream, and never used.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            self.run(batch, guide=0.0)
        torch.cuda.current_stream(self.device).wait_stream(side)

    def run(
        self, batch: Batch, guide: float, sampling: float = 0.0
    ) -> tuple[Sequence[Tensor | None], Tensor]:
        """Work out the gradients of a batch.

        Args:
            batch: its features on the device, the rest on the CPU.
            guide: weight of the guide; 0 where there is none.
            sampling: chance of an input to be the speller's own guess.

        Returns:
            A gradient for each parameter that learns, good until the next batch, and
            the (4,) losses per character: total, spelling, CTC, guide.
        """
        self._copy_in(batch, guide)
        self.places.sampling.fill_(sampling)
        self.forward.replay()
        _, spelled, astray, log_probs = self.forward.results
        ctc, d_log_probs = self._ctc(batch, log_probs)
        if self._d_log_probs is None:
            self._d_log_probs = torch.empty_like(d_log_probs)
        self._d_log_probs.copy_(d_log_probs)
        self.backward.replay()
        weight = self.config.ctc_weight
        total = (1 - weight) * spelled + weight * ctc + guide * astray
        losses = torch.stack((total, spelled, ctc, astray)).detach()
        return self.backward.results, losses

    def _make_places(self, shape: LengthClass) -> _Places:
        frames, tokens, rows = shape
        device, tokens = self.device, tokens + 1
        numbers = torch.zeros(rows, tokens, dtype=torch.int64, device=device)
        lengths = torch.ones(rows, dtype=torch.int64, device=device)
        return _Places(
            features=torch.zeros(rows, frames, NUM_MELS, device=device),
            num_frames=lengths,
            inputs=numbers,
            targets=numbers.clone(),
            expected=torch.zeros(rows, tokens, device=device),
            num_targets=lengths.clone(),
            num_characters=torch.ones((), device=device),
            guide=torch.zeros((), device=device),
            sampling=torch.zeros((), device=device),
        )

    def _copy_in(self, batch: Batch, guide: float) -> None:
        places = self.places
        inputs, targets = teacher_inputs(batch, self.tokenizer)
        num_targets = batch.num_tokens.clone()
        num_targets[: batch.num_real] += 1
        places.features.copy_(batch.features)
        for place, values in (
            (places.num_frames, batch.num_frames),
            (places.inputs, inputs),
            (places.targets, targets),
            (places.num_targets, num_targets),
        ):
            place.copy_(send(values, self.device), non_blocking=True)
        if self.guided:
            assert batch.expected is not None
            places.expected.copy_(send(batch.expected, self.device), non_blocking=True)
        places.num_characters.fill_(max(1, batch.num_characters))
        places.guide.fill_(guide)

    def _forward(self) -> tuple[Tensor, ...]:
        """Return the loss without CTC, its parts, and the CTC head's (B, J', V)."""
        places = self.places
        with torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.precision is torch.bfloat16,
            cache_enabled=False,  # a cached copy of a weight would not outlive it
        ):
            spelling, log_probs, _ = self.las(
                places.features,
                places.num_frames,
                places.inputs,
                places.sampling if self.sampled else 0,
                detach_keys=self.guided,
            )
        pad = self.tokenizer.pad
        spelled = spelling_loss(spelling, places.targets, pad, self.config)
        spelled = spelled / places.num_characters
        loss = (1 - self.config.ctc_weight) * spelled
        astray = torch.zeros_like(spelled)
        if self.guided:
            astray = off_path(spelling.weights, places.expected, places.num_targets)
            astray = astray / places.num_characters
            loss = loss + places.guide * astray
        return loss, spelled, astray, log_probs

    def _ctc(self, batch: Batch, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return CTC's loss per character and the gradient of (B, J', V)."""
        log_probs = log_probs.detach().requires_grad_()
        steps = -(-batch.num_frames // self.las.listener.ctc_reduction)
        if not batch.num_real:
            return log_probs.new_zeros(()), torch.zeros_like(log_probs)
        tokens = send(batch.tokens, self.device)
        placed = Batch(
            batch.ids, batch.features, steps, tokens, batch.num_tokens, batch.seconds
        )
        loss = ctc_loss(log_probs, steps, placed, self.tokenizer.pad)
        loss = loss / batch.num_characters
        (gradient,) = torch.autograd.grad(self.config.ctc_weight * loss, log_probs)
        return loss.detach(), gradient

    def _backward(self) -> tuple[Tensor | None, ...]:
        loss, _, _, log_probs = self.forward.results
        ends = ((loss, self._one), (log_probs, self._d_log_probs))
        hanging = [end for end in ends if end[0].requires_grad]  # on what learns
        outputs, gradients = zip(*hanging, strict=True)
        return torch.autograd.grad(
            outputs, self.parameters, gradients, allow_unused=True
        )


def largest_difference(
    found: Sequence[Tensor | None], expected: Sequence[Tensor | None]
) -> float:
    """Compare gradients, parameter by parameter.

    Returns:
        The largest share by which one differs from what was expected, by their norms;
        one that is below a thousandth of the largest counts as if it were that.
    """
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if e is not None]
    floor = 1e-3 * max(float(e.norm()) for _, e in pairs)
    shares = [
        float((f - e).norm()) / max(float(e.norm()), floor) if f is not None else 1.0
        for f, e in pairs
    ]
    return max(shares)


def replay_difference(step: RecordedStep, batch: Batch, guide: float) -> float:
    """Record a step and compare its gradients with those that are worked out anew.

    Nothing is dropped meanwhile, so that chance has no part in it.

    Returns:
        See `largest_difference`.
    """
    with _nothing_dropped(step.las):
        expected = _kept(step.run(batch, guide)[0])
        step.record(batch)
        for _ in range(2):  # the second time nothing is as it was left by chance
            found, _ = step.run(batch, guide)
        return largest_difference(found, expected)


def loop_difference(step: RecordedStep, batch: Batch, guide: float) -> float:
    """Compare gradients of the speller's fused loop with those of the plain one.

    Returns:
        See `largest_difference`; 0 where the loop is not fused.
    """
    with _nothing_dropped(step.las), full_float32():
        found = _kept(step.run(batch, guide)[0])
        with choose_fused(False):
            expected, _ = step.run(batch, guide)
        return largest_difference(found, expected)


def _kept(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if gradient is None else gradient.clone() for gradient in gradients]


@contextmanager
def _nothing_dropped(las: LAS) -> Iterator[None]:
    dropouts = [m for m in las.modules() if isinstance(m, nn.Dropout)]
    before = [module.p for module in dropouts]
    for module in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in zip(dropouts, before, strict=True):
            module.p = p
