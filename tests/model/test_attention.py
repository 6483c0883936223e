import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from asr.model.attention import (
    ACTIVATIONS,
    KINDS,
    AdditiveAttention,
    Attention,
    AttentionConfig,
    AttentionMemory,
    AttentionOutput,
    DotAttention,
    LocationAwareAttention,
    build_attention,
    neighbours,
)

B, J, H, S, A = 3, 7, 5, 4, 6


def build(kind: str, activation: str = "tanh") -> Attention:
    config = AttentionConfig(kind, size=A, activation=activation, filters=2, reach=2)
    return build_attention(config, listener_size=H, speller_size=S)


def look(
    attention: Attention, s: Tensor, memory: AttentionMemory, previous: Tensor
) -> AttentionOutput:
    output: AttentionOutput = attention(s, memory, previous)
    return output


def memory_of(attention: Attention, *num_steps: int) -> AttentionMemory:
    return attention.precompute(torch.randn(len(num_steps), J, H), _lens(*num_steps))


def distributions(*size: int) -> Tensor:
    return (2 * torch.randn(size)).softmax(dim=-1)


def _lens(*lengths: int) -> Tensor:
    return torch.tensor(lengths)


def _fill(layer: nn.Linear, *values: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values).view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.zero_()


# Golden: worked by hand


def test_additive_weights_and_context_worked_by_hand() -> None:
    attention = AdditiveAttention(AttentionConfig("additive", size=1), 1, 1)
    for layer in (attention.query, attention.key, attention.energy):
        _fill(layer, 1.0)
    memory = attention.precompute(torch.tensor([[[0.0], [1.0]]]), _lens(2))

    context, weights = look(attention, torch.zeros(1, 1), memory, torch.zeros(1, 2))

    # e = (tanh 0, tanh 1) = (0, 0.76159); exp e = (1, 2.14168); sum 3.14168
    assert weights[0].tolist() == pytest.approx([0.31830, 0.68170], abs=1e-5)
    assert context.item() == pytest.approx(0.68170, abs=1e-5)


def test_location_aware_weights_and_context_worked_by_hand() -> None:
    config = AttentionConfig("location", size=1, filters=1, reach=1)
    attention = LocationAwareAttention(config, 1, 1)
    for layer in (attention.query, attention.key, attention.energy, attention.location):
        _fill(layer, 1.0)
    with torch.no_grad():
        attention.filters.copy_(torch.tensor([[2.0, 0.0, -1.0]]))
    memory = attention.precompute(torch.tensor([[[1.0], [1.0], [0.0]]]), _lens(3))
    previous = torch.tensor([[0.0, 1.0, 0.0]])

    context, weights = look(attention, torch.zeros(1, 1), memory, previous)

    # The filter sees the step before, the step, the step behind: 2, 0, -1 times.
    # f = (-1, 0, 2); e = tanh(h + f) = (tanh 0, tanh 1, tanh 2) = (0, 0.76159, 0.96403)
    # exp e = (1, 2.14168, 2.62223); sum 5.76391
    assert weights[0].tolist() == pytest.approx([0.17349, 0.37157, 0.45494], abs=1e-5)
    assert context.item() == pytest.approx(0.17349 + 0.37157, abs=1e-5)


def test_the_weights_around_each_step_worked_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.2, 0.3]])

    around = neighbours(weights, 3)

    expected = [[0.0, 0.5, 0.2], [0.5, 0.2, 0.3], [0.2, 0.3, 0.0]]
    torch.testing.assert_close(around, torch.tensor(expected))


def test_dot_weights_and_context_worked_by_hand() -> None:
    attention = DotAttention(AttentionConfig("dot", size=4), 1, 1)
    for layer in (attention.query, attention.key):
        _fill(layer, 1.0, 1.0, 1.0, 1.0)
    memory = attention.precompute(torch.tensor([[[0.0], [math.log(3)]]]), _lens(2))

    context, weights = look(
        attention, torch.full((1, 1), 0.5), memory, torch.ones(1, 2)
    )

    # e = 4 * 0.5 * h / sqrt 4 = h = (0, ln 3); exp e = (1, 3)
    assert weights[0].tolist() == pytest.approx([0.25, 0.75])
    assert context.item() == pytest.approx(0.75 * math.log(3))


def test_two_heads_look_apart_and_bring_what_is_theirs_worked_by_hand() -> None:
    attention = DotAttention(AttentionConfig("dot", size=2, heads=2), 2, 1)
    _fill(attention.query, 1.0, -1.0)
    _fill(attention.key, 1.0, 0.0, 0.0, 1.0)  # each head compares what it takes
    _fill(attention.value, 0.0, 1.0, 2.0, 0.0)  # or the other number; twice the first
    h = torch.tensor([[[0.0, 0.0], [math.log(3), math.log(4)]]])
    memory = attention.precompute(h, _lens(2))

    context, weights = look(attention, torch.ones(1, 1), memory, torch.ones(1, 2))

    # First head: exp e = (1, 3), so the step counts 3/4. Second: exp e = (1, 1/4): 1/5.
    expected = [0.75 * math.log(4), 0.2 * 2 * math.log(3)]
    assert context[0].tolist() == pytest.approx(expected)
    assert weights[0].tolist() == pytest.approx([0.525, 0.475])


def test_looks_inside_blocks_and_across_them_worked_by_hand() -> None:
    config = AttentionConfig("additive", 1, "relu", block_size=2)
    attention = AdditiveAttention(config, 1, 1)
    _fill(attention.query, 0.0, 0.0)
    _fill(attention.key, 1.0, 2.0)  # inside by h, across by 2 h
    _fill(attention.energy, 1.0)
    _fill(attention.across, 1.0)
    h = torch.tensor([[[0.0], [math.log(3)], [math.log(2)]]])
    memory = attention.precompute(h, _lens(3))

    context, weights = look(attention, torch.zeros(1, 1), memory, torch.zeros(1, 3))

    # Inside: exp e = (1, 3) and (2), so alpha = (1/4, 3/4) and (1).
    # c = (3/4 ln 3, ln 2); across: exp 2 c = (3 ^ 1.5, 4) = (5.19615, 4); sum 9.19615
    first, second = 0.56504, 0.43496
    assert weights[0].tolist() == pytest.approx(
        [first / 4, 3 * first / 4, second], abs=1e-5
    )
    expected = 3 * first / 4 * math.log(3) + second * math.log(2)
    assert context.item() == pytest.approx(expected, abs=1e-5)


# Parity: the fast code against the formula, written as loops


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_formula(kind: str, activation: str) -> None:
    attention = build(kind, activation)
    h, s, num_steps = torch.randn(B, J, H), torch.randn(B, S), (7, 4, 1)
    previous = distributions(B, J)

    memory = attention.precompute(h, _lens(*num_steps))
    context, weights = look(attention, s, memory, previous)

    for b in range(B):
        steps = range(num_steps[b])
        e = [_energy(attention, s[b], h[b, j], previous[b], j) for j in steps]
        alpha = torch.stack(e).exp() / torch.stack(e).exp().sum()
        torch.testing.assert_close(weights[b, : len(alpha)], alpha)
        torch.testing.assert_close(
            context[b], torch.stack([a * h[b, j] for j, a in enumerate(alpha)]).sum(0)
        )


def _energy(
    attention: Attention, s: Tensor, h: Tensor, previous: Tensor, j: int
) -> Tensor:
    """e_ij, one number at a time."""
    query = attention.query.weight @ s
    key = attention.key.weight @ h + attention.key.bias
    if isinstance(attention, DotAttention):
        return (query @ key) / math.sqrt(A)
    assert isinstance(attention, AdditiveAttention)
    compared = query + key
    if isinstance(attention, LocationAwareAttention):
        reach = attention.filters.size(1) // 2
        for k, row in enumerate(attention.filters):
            f = torch.zeros(())
            for offset in range(-reach, reach + 1):
                if 0 <= j + offset < J:
                    f = f + row[reach + offset] * previous[j + offset]
            compared = compared + attention.location.weight[:, k] * f
    active = compared.tanh() if attention.activation == "tanh" else compared.relu()
    energy: Tensor = attention.energy.weight[0] @ active
    return energy


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("kind", ["additive", "location"])
def test_blocks_agree_with_the_formula(kind: str, block_size: int) -> None:
    config = AttentionConfig(kind, A, filters=2, reach=2, block_size=block_size)
    attention = build_attention(config, H, S)
    assert isinstance(attention, AdditiveAttention)
    h, s, num_steps = torch.randn(B, J, H), torch.randn(B, S), (7, 4, 1)
    previous = distributions(B, J)

    memory = attention.precompute(h, _lens(*num_steps))
    context, weights = look(attention, s, memory, previous)

    flat = build_attention(AttentionConfig(kind, A, filters=2, reach=2), H, S)
    inner = {n: p for n, p in attention.state_dict().items() if n != "across.weight"}
    flat.load_state_dict(
        {n: p[:A] if n.startswith(("query", "key")) else p for n, p in inner.items()}
    )
    for b in range(B):
        contexts, energies, inside = [], [], []
        for first in range(0, num_steps[b], block_size):
            steps = range(first, min(first + block_size, num_steps[b]))
            e = torch.stack(
                [_energy(flat, s[b], h[b, j], previous[b], j) for j in steps]
            )
            alpha = e.exp() / e.exp().sum()
            c = (alpha[:, None] * h[b, steps.start : steps.stop]).sum(dim=0)
            compared = attention.query.weight[A:] @ s[b] + attention.key.bias[A:]
            compared = (compared + attention.key.weight[A:] @ c).tanh()
            energies.append(attention.across.weight[0] @ compared)
            contexts.append(c)
            inside.append(alpha)
        beta = torch.stack(energies).exp() / torch.stack(energies).exp().sum()
        expected = torch.cat([x * y for x, y in zip(beta, inside, strict=True)])
        torch.testing.assert_close(weights[b, : num_steps[b]], expected)
        torch.testing.assert_close(
            context[b], (beta[:, None] * torch.stack(contexts)).sum(dim=0)
        )


@pytest.mark.parametrize("block_size", [2, 3])
def test_blocks_of_padding_change_nothing(block_size: int) -> None:
    config = AttentionConfig("location", A, filters=2, reach=2, block_size=block_size)
    attention = build_attention(config, H, S)
    h, s, previous = torch.randn(1, 4, H), torch.randn(1, S), distributions(1, 4)
    noise = torch.full((1, 5, H), 1e4)

    alone = look(attention, s, attention.precompute(h, _lens(4)), previous)
    padded = attention.precompute(torch.cat([h, noise], dim=1), _lens(4))
    beside = look(attention, s, padded, nn.functional.pad(previous, (0, 5)))

    torch.testing.assert_close(beside.context, alone.context)
    torch.testing.assert_close(beside.weights[:, :4], alone.weights)
    assert not beside.weights[:, 4:].any()


def test_a_product_with_state_and_step_side_by_side_is_the_same_energy() -> None:
    attention = build("additive", "relu")
    assert isinstance(attention, AdditiveAttention)
    h, s = torch.randn(B, J, H), torch.randn(B, S)
    m = torch.cat([attention.query.weight, attention.key.weight], dim=1)  # M = [W U]
    v, b = attention.energy.weight[0], attention.key.bias

    memory = attention.precompute(h, _lens(7, 7, 7))
    weights = look(attention, s, memory, distributions(B, J)).weights

    both = torch.cat([s[:, None].expand(B, J, S), h], dim=-1)  # [s_i ; h_j]
    energies = (both @ m.t() + b).relu() @ v
    torch.testing.assert_close(weights, energies.softmax(dim=-1))


# Property: what holds for every input


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_distribution_over_real_steps(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    attention = build(kind)
    num_steps = torch.randint(1, J + 1, (B,)).tolist()
    memory = memory_of(attention, *num_steps)

    _, weights = look(attention, 30 * torch.randn(B, S), memory, distributions(B, J))

    torch.testing.assert_close(weights.sum(dim=1), torch.ones(B))
    assert (weights >= 0).all()
    for row, length in zip(weights, num_steps, strict=True):
        assert not row[length:].any()


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_content_alone_does_not_see_the_previous_weights(kind: str) -> None:
    attention = build(kind)
    s, memory = torch.randn(B, S), memory_of(attention, 7, 7, 7)

    one = look(attention, s, memory, distributions(B, J))
    other = look(attention, s, memory, distributions(B, J))

    assert torch.equal(one.weights, other.weights)


def test_where_it_looked_before_moves_where_it_looks_now() -> None:
    attention = build("location")
    s, h = torch.randn(1, S), torch.randn(1, 1, H).expand(1, J, H)  # all steps alike
    memory = attention.precompute(h, _lens(J))
    here, next_ = torch.eye(J)[2:3], torch.eye(J)[3:4]

    weights = look(attention, s, memory, here).weights[0]
    moved = look(attention, s, memory, next_).weights[0]

    torch.testing.assert_close(moved[1:], weights[:-1])
    assert not torch.allclose(moved, weights, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_look_comes_from_the_first_step(kind: str) -> None:
    attention = build(kind)

    start = attention.start(memory_of(attention, 7, 1))

    assert start.tolist() == [[1.0] + [0.0] * (J - 1)] * 2


# Invariance: an utterance does not feel its neighbours in the batch


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    attention = build(kind)
    h, s, previous = torch.randn(1, 4, H), torch.randn(1, S), distributions(1, 4)
    noise = torch.full((1, 3, H), 1e4)

    alone = look(attention, s, attention.precompute(h, _lens(4)), previous)
    padded = look(
        attention,
        s,
        attention.precompute(torch.cat([h, noise], dim=1), _lens(4)),
        nn.functional.pad(previous, (0, 3)),
    )

    torch.testing.assert_close(padded.context, alone.context)
    torch.testing.assert_close(padded.weights[:, :4], alone.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_hypotheses_look_as_if_each_were_alone(kind: str) -> None:
    attention = build(kind)
    s, previous = torch.randn(B, 4, S), distributions(B, 4, J)
    memory = memory_of(attention, 7, 4, 1)

    together = look(attention, s, memory, previous)

    assert together.context.shape == (B, 4, H)
    assert together.weights.shape == (B, 4, J)
    for k in range(4):
        alone = look(attention, s[:, k], memory, previous[:, k])
        torch.testing.assert_close(together.context[:, k], alone.context)
        torch.testing.assert_close(together.weights[:, k], alone.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_selected_utterances_are_seen_as_before(kind: str) -> None:
    attention = build(kind)
    s, previous = torch.randn(B, S), distributions(B, J)
    memory, rows = memory_of(attention, 7, 4, 1), torch.tensor([2, 0])

    whole = look(attention, s, memory, previous)
    part = look(attention, s[rows], memory.select(rows), previous[rows])

    torch.testing.assert_close(part.context, whole.context[rows])
    torch.testing.assert_close(part.weights, whole.weights[rows])


# Learning: it can be trained to do its job


@pytest.mark.parametrize("kind", KINDS)
def test_learns_to_find_the_marked_step(kind: str) -> None:
    attention = build(kind)
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.05)
    rows = torch.arange(16)
    for _ in range(60):
        h, marked = torch.randn(16, J, H), torch.randint(J, (16,))
        h[rows, marked, 0] = 8.0
        memory = attention.precompute(h, _lens(*[J] * 16))
        output = look(attention, torch.ones(16, S), memory, attention.start(memory))
        loss = -output.weights[rows, marked].log().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    assert loss < 0.05


def test_location_aware_learns_to_go_on_by_one_step() -> None:
    attention = build("location")
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.05)
    places = torch.eye(J)
    for _ in range(100):
        memory = attention.precompute(torch.ones(J - 1, J, H), _lens(*[J] * (J - 1)))
        output = look(attention, torch.ones(J - 1, S), memory, places[:-1])
        loss = -(output.weights.log() * places[1:]).sum(dim=1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    assert loss < 0.1


# Settings and errors


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("location", LocationAwareAttention),
        ("additive", AdditiveAttention),
        ("dot", DotAttention),
    ],
)
def test_the_kind_that_was_asked_for_is_built(kind: str, made: type) -> None:
    assert type(build(kind)) is made


def test_the_sizes_that_were_asked_for_are_built() -> None:
    config = AttentionConfig("location", size=A, filters=3, reach=4)

    attention = build_attention(config, H, S)

    shapes = {name: tuple(p.shape) for name, p in attention.named_parameters()}
    assert shapes == {
        "query.weight": (A, S),
        "key.weight": (A, H),
        "key.bias": (A,),
        "energy.weight": (1, A),
        "filters": (3, 9),
        "location.weight": (A, 3),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "hard"},
            r"attention\.kind must be one of location, additive, dot, not hard",
        ),
        (
            {"activation": "gelu"},
            r"attention\.activation must be one of tanh, relu, not gelu",
        ),
        ({"size": 0}, r"attention\.size must be at least 1, not 0"),
        ({"filters": 0}, r"attention\.filters must be at least 1, not 0"),
        ({"reach": -1}, r"attention\.reach must be at least 0, not -1"),
        ({"block_size": -1}, r"attention\.block_size must be at least 0, not -1"),
        (
            {"kind": "dot", "block_size": 9},
            r"attention\.block_size must be 0 where kind is dot",
        ),
        ({"heads": 0}, r"attention\.heads must be at least 1, not 0"),
        ({"heads": 2}, r"attention\.heads must be 1 where kind is location"),
        (
            {"kind": "dot", "heads": 4, "size": 6},
            r"attention\.size must be a multiple of the 4 heads, not 6",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionConfig(**settings)  # type: ignore[arg-type]


def test_the_smallest_settings_work() -> None:
    for kind, activation in itertools.product(KINDS, ACTIVATIONS):
        config = AttentionConfig(kind, 1, activation, filters=1, reach=0)
        attention = build_attention(config, 1, 1)
        memory = attention.precompute(torch.randn(1, 1, 1), _lens(1))

        output = look(attention, torch.randn(1, 1), memory, torch.ones(1, 1))

        assert output.weights.tolist() == [[1.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detach_keys", [False, True])
def test_detached_keys_do_not_train_the_listener(kind: str, detach_keys: bool) -> None:
    attention = build(kind)
    h = torch.randn(B, J, H, requires_grad=True)

    memory = attention.precompute(h, _lens(7, 4, 1), detach_keys=detach_keys)

    assert memory.h is h
    torch.autograd.backward(memory.keys.sum() + 0 * h.sum())
    assert attention.key.weight.grad is not None
    assert h.grad is not None
    assert bool(h.grad.any()) is not detach_keys


@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_without_steps_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"needs a step, got \[7, 0, 2\]"):
        memory_of(build(kind), 7, 0, 2)


def test_attention_as_such_has_no_energies() -> None:
    attention = Attention(AttentionConfig(size=A), H, S)

    with pytest.raises(NotImplementedError):
        look(attention, torch.randn(1, S), memory_of(attention, 3), torch.ones(1, J))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_runs_on_the_gpu(kind: str) -> None:
    attention = build(kind).cuda()
    memory = attention.precompute(torch.randn(B, J, H).cuda(), _lens(7, 4, 1))

    output = look(attention, torch.randn(B, S).cuda(), memory, attention.start(memory))

    assert output.context.shape == (B, H)
