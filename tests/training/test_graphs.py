from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asr.data.batching import Batch
from asr.data.length_classes import LengthClass
from asr.features import NUM_MELS
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.runtime import allow_tf32
from asr.text import CharTokenizer
from asr.training.graphs import (
    MOST_DIFFERENT,
    RecordedStep,
    Recording,
    largest_difference,
    replay_difference,
)
from asr.training.loss import LossConfig, losses

TOKENIZER = CharTokenizer()
FLOAT32 = torch.float32
ATTENTIONS = {
    "location": AttentionConfig("location", size=8, filters=2, reach=2),
    "relu": AttentionConfig("location", size=8, filters=2, reach=2, activation="relu"),
    "additive": AttentionConfig("additive", size=8),
    "dot": AttentionConfig("dot", size=8, heads=2),
    "hierarchical": AttentionConfig("location", size=8, reach=2, block_size=3),
}


def network(kind: str = "location", dropout: float = 0.0) -> LAS:
    torch.manual_seed(0)
    config = LASConfig(
        ListenerConfig(8, [2, 2], dropout),
        ATTENTIONS[kind],
        SpellerConfig(8, 1, 4, dropout),
    )
    return LAS(config, TOKENIZER.size).train()


def batch(
    frames: Sequence[int] = (61, 40), texts: Sequence[str] = ("GO ON", "NO")
) -> Batch:
    """Utterances of noise, with places where their tokens are expected."""
    torch.manual_seed(1)
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(TOKENIZER.encode(text))
    features = torch.randn(len(frames), max(frames), NUM_MELS)
    for row, count in enumerate(frames):
        features[row, count:] = 0
    return Batch(
        [f"{row}" for row in range(len(texts))],
        features,
        torch.tensor(frames),
        tokens,
        torch.tensor([len(text) for text in texts]),
        1.0,
        expected=torch.arange(tokens.size(1) + 1).expand(len(texts), -1) * 2.0,
    )


def filled(made: Batch, shape: LengthClass) -> Batch:
    """The same utterances in a batch of a shape, with rows that hold none."""
    frames, width, rows = shape
    count = made.num_real

    def pad(values: Tensor, *sizes: int) -> Tensor:
        place = values.new_zeros(sizes)
        place[tuple(slice(n) for n in values.shape)] = values
        return place

    num_frames = torch.ones(rows, dtype=torch.int64)
    num_frames[:count] = made.num_frames
    assert made.expected is not None
    return Batch(
        made.ids,
        pad(made.features, rows, frames, NUM_MELS),
        num_frames,
        pad(made.tokens, rows, width),
        pad(made.num_tokens, rows),
        made.seconds,
        expected=pad(made.expected, rows, width + 1),
    )


def plain(las: LAS, made: Batch, guide: float) -> tuple[list[Tensor | None], Tensor]:
    """Gradients and losses by the plain formula."""
    las.zero_grad()
    parts, _ = losses(las, made, TOKENIZER, LossConfig(), guide=guide)
    torch.autograd.backward(parts.total)
    return [p.grad for p in las.parameters()], torch.stack(parts[:4]).detach()


def step(las: LAS, shape: LengthClass, *, guided: bool) -> RecordedStep:
    return RecordedStep(las, TOKENIZER, LossConfig(), shape, FLOAT32, guided=guided)


@pytest.mark.parametrize("guide", [0.0, 0.7])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_a_fixed_shape_changes_neither_losses_nor_gradients(
    kind: str, guide: float
) -> None:
    las, made = network(kind), batch()
    shape = LengthClass(80, 8, 4)
    expected, expected_losses = plain(las, made, guide)

    found, found_losses = step(las, shape, guided=guide > 0).run(
        filled(made, shape), guide
    )

    torch.testing.assert_close(found_losses, expected_losses, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("texts", [("MISSISSIPPI", "NO"), ("", "NO"), ("", "")])
def test_a_text_may_be_too_dense_for_ctc_or_empty(texts: tuple[str, str]) -> None:
    las, made, shape = network(), batch((9, 40), texts), LengthClass(80, 16, 4)
    expected, expected_losses = plain(las, made, 0.7)

    found, found_losses = step(las, shape, guided=True).run(filled(made, shape), 0.7)

    assert found_losses.isfinite().all()
    torch.testing.assert_close(found_losses, expected_losses, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_a_batch_leaves_nothing_behind_for_the_next() -> None:
    las, shape = network(), LengthClass(80, 8, 4)
    again = step(las, shape, guided=False)
    wanted = batch((50,), ("A",))
    expected, _ = step(las, shape, guided=False).run(filled(wanted, shape), 0.0)
    expected = [None if g is None else g.clone() for g in expected]

    again.run(filled(batch(), shape), 0.0)
    found, _ = again.run(filled(wanted, shape), 0.0)

    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_a_batch_without_an_utterance_has_no_gradient() -> None:
    las, shape = network(), LengthClass(80, 8, 4)
    full = filled(batch(), shape)
    nothing = torch.zeros(4, dtype=torch.int64)
    empty = replace(
        full, ids=[], num_tokens=nothing, tokens=torch.zeros_like(full.tokens)
    )

    found, found_losses = step(las, shape, guided=False).run(empty, 0.0)

    assert not found_losses.any()
    assert not any(g.any() for g in found if g is not None)


def test_inputs_may_be_the_spellers_own_guesses() -> None:
    las, shape = network(), LengthClass(80, 8, 4)
    sampled = RecordedStep(
        las, TOKENIZER, LossConfig(), shape, FLOAT32, guided=False, sampled=True
    )
    made = filled(batch(), shape)

    _, never = sampled.run(made, 0.0, sampling=0.0)
    _, always = sampled.run(made, 0.0, sampling=1.0)
    _, fed = step(las, shape, guided=False).run(made, 0.0)

    assert torch.equal(never, fed)
    assert not torch.equal(always, fed)


def test_gradients_are_compared_by_their_norms() -> None:
    one = [torch.tensor([3.0, 4.0]), torch.tensor([1e-9]), None]

    assert largest_difference(one, one) == 0.0
    assert largest_difference([torch.tensor([3.0, 4.1]), one[1], None], one) == (
        pytest.approx(0.02)
    )
    # what is next to nothing beside the others may differ as it likes
    assert largest_difference([one[0], torch.tensor([2e-9]), None], one) < 1e-5
    assert largest_difference([one[0], None, None], one) == 1.0


class Forgetful(Recording):
    """A recording that reads what is not there any more."""

    def record(self, pool: object) -> None:
        del pool
        self.forgets = True

    def replay(self) -> None:
        super().replay()
        if getattr(self, "forgets", False):
            self.results = tuple(2 * result for result in self.results)


class Faithful(Recording):
    """A recording of a device that has none: it does the work anew."""

    def record(self, pool: object) -> None:
        del pool


@pytest.mark.parametrize(("kind", "faithful"), [(Faithful, True), (Forgetful, False)])
def test_a_recording_that_is_not_faithful_is_found_out(
    kind: type[Recording], faithful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    las, shape = network(dropout=0.3), LengthClass(80, 8, 4)
    recorded = step(las, shape, guided=False)
    recorded.forward = Faithful(recorded.forward._work)
    recorded.backward = kind(recorded.backward._work)
    monkeypatch.setattr(recorded, "warm_up", lambda batch: None)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 0))

    difference = replay_difference(recorded, filled(batch(), shape), 0.0)
    assert (difference <= MOST_DIFFERENT) is faithful
    assert las.listener.dropout.p == 0.3


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guide", [0.0, 0.7])
@pytest.mark.parametrize("kind", [k for k in ATTENTIONS if k != "hierarchical"])
def test_a_replayed_update_is_that_of_the_plain_formula(
    kind: str, guide: float, precision: torch.dtype
) -> None:
    las, shape = network(kind), LengthClass(80, 8, 4)
    expected, _ = plain(las, batch(), guide)
    expected = [None if g is None else g.clone() for g in expected]
    made = filled(batch(), shape).to(torch.device("cuda"))
    made = replace(
        made, tokens=made.tokens.cpu(), expected=filled(batch(), shape).expected
    )
    allow_tf32(False)
    try:
        recorded = RecordedStep(
            las.cuda(), TOKENIZER, LossConfig(), shape, precision, guided=guide > 0
        )
        recorded.record(made)
        for _ in range(3):
            found, _ = recorded.run(made, guide)
    finally:
        allow_tf32(True)

    ours = [None if g is None else g.cpu() for g in found]
    most = 1e-3 if precision is torch.float32 else 0.1
    assert largest_difference(ours, expected) < most
