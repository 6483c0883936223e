"""The network as ONNX graphs, built node by node from its weights.

listener.onnx        features, num_frames -> h, num_steps, keys, memory, ctc_log_probs,
                     num_ctc_steps
speller_step.onnx    tokens, kept, previous, memory, keys, valid -> log_probs, kept,
                     weights

They are what `Listener` and `LASSteps` (see `speller_search`) work out, of any batch,
length and width of beam: all those axes are free. The LSTM of ONNX reads each row
within its own length (`sequence_lens`), both ways, which is the listener's rule for
padding. As in `speller_search` the context's share of the gates is taken from what is
worked out of h once, `memory`, and `kept` is one row a hypothesis: that share, then all
states, then all cells.

(torch.onnx.export of torch 2.11 fixes the time axis of a bidirectional LSTM.)

With int8 the LSTMs of the listener and the products of a step take their weights as
bytes, each row with a scale of its own.

Shapes: B utterances, T frames, F mel bands, J listener steps, J' steps of the CTC head,
        K hypotheses of an utterance, N heads, H listener size, S speller size, A
        attention size, V vocabulary size, W = (4 + 2 * layers) * S.

Source: https://onnx.ai/onnx/operators, opset 17.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from asr.errors import CheckpointError
from asr.features import NUM_MELS
from asr.model.attention import (
    AdditiveAttention,
    Attention,
    DotAttention,
    LocationAwareAttention,
)
from asr.model.convolutional_front import BANDS, SEEN, ConvolutionalFront
from asr.model.las import LAS
from asr.model.lstm import BidirectionalLSTM

OPSET = 17
_IR_VERSION = 8
"""Of the file; that which belongs to the opset, for older runtimes."""
_LOWEST = float(np.finfo(np.float32).min)

Floats = npt.NDArray[np.float32]


def listener_graph(las: LAS, precision: str = "float32") -> bytes:
    """Return the listener, with what a search needs of its output, as an ONNX file.

    Args:
        las: in evaluation mode.
        precision: float32 or int8.
    """
    _check(las)
    graph = _Graph()
    x = graph.input("features", TensorProto.FLOAT, ["B", "T", NUM_MELS])
    lengths = graph.input("num_frames", TensorProto.INT64, ["B"])
    x = graph.add("Sub", x, graph.weight(las.norm.mean))
    x = graph.add("Div", x, graph.weight(las.norm.std))
    h = _blank(graph, x, lengths)
    listener = las.listener
    width = NUM_MELS
    if listener.front is not None:
        h, width = _convolve(graph, listener.front, h, lengths), listener.front.size
    ctc_h, num_ctc_steps = h, lengths
    for index, reduction in enumerate(listener.reductions):
        h, lengths = _stack_frames(graph, h, lengths, width, reduction)
        layer, norm = listener.layers[index], listener.norms[index]
        assert isinstance(layer, BidirectionalLSTM)
        assert isinstance(norm, nn.LayerNorm)
        h = _read_both_ways(graph, layer, h, lengths)
        h = graph.add(
            *("LayerNormalization", h, graph.weight(norm.weight)),
            graph.weight(norm.bias),
            epsilon=norm.eps,
        )
        h, width = _blank(graph, h, lengths), 2 * layer.forwards.hidden_size
        if index == listener.ctc_layer:
            ctc_h, num_ctc_steps = h, lengths
    attention = las.speller.attention
    graph.output("keys", TensorProto.FLOAT, "BJA", _linear(graph, h, attention.key))
    seen = h
    if isinstance(attention, DotAttention) and attention.heads > 1:
        seen = graph.add("MatMul", h, graph.weight(attention.value.weight.t()))
    memory = _memory(graph, las, seen)
    graph.output("memory", TensorProto.FLOAT, ["B", "NJ", "W"], memory)
    logits = _linear(graph, ctc_h, las.ctc)
    log_probs = graph.add("LogSoftmax", logits, axis=-1)
    graph.output("h", TensorProto.FLOAT, "BJH", h)
    graph.output("num_steps", TensorProto.INT64, "B", lengths)
    graph.output("ctc_log_probs", TensorProto.FLOAT, ["B", "J2", "V"], log_probs)
    graph.output("num_ctc_steps", TensorProto.INT64, "B", num_ctc_steps)
    return graph.file("listener", precision, ["LSTM"])


def step_graph(las: LAS, precision: str = "float32") -> bytes:
    """Return a step of the speller as an ONNX file.

    Args:
        las: in evaluation mode.
        precision: float32 or int8.
    """
    _check(las)
    speller, attention = las.speller, las.speller.attention
    cells = [cell for cell in speller.cells if isinstance(cell, nn.LSTMCell)]
    size, layers = cells[0].hidden_size, len(cells)
    graph = _Graph()
    tokens = graph.input("tokens", TensorProto.INT64, ["B", "K"])
    width = (4 + 2 * layers) * size
    kept = graph.input("kept", TensorProto.FLOAT, ["B", "K", width])
    previous = graph.input("previous", TensorProto.FLOAT, ["B", "K", "J"])
    memory = graph.input("memory", TensorProto.FLOAT, ["B", "NJ", 5 * size])
    keys = graph.input(
        "keys", TensorProto.FLOAT, ["B", "J", attention.key.out_features]
    )
    valid = graph.input("valid", TensorProto.BOOL, ["B", "J"])

    share, *rows = graph.split(kept, [4 * size, *[size] * (2 * layers)])
    states, old_cells = rows[:layers], rows[layers:]
    embedded = speller.embedding.embedding_dim
    from_token = cells[0].weight_ih[:, :embedded]
    table = speller.embedding.weight @ from_token.t()
    table = table + cells[0].bias_ih + cells[0].bias_hh
    gates = graph.add("Gather", graph.weight(table), tokens, axis=0)
    gates = graph.add("Add", gates, share)
    new_states, new_cells = list[str](), list[str]()
    below = states[0]
    for layer, cell in enumerate(cells):
        weight = _array(cell.weight_hh)
        if layer > 0:
            below = graph.add("Concat", below, states[layer], axis=-1)
            weight = np.concatenate([_array(cell.weight_ih), weight], axis=1)
            gates = graph.weight(cell.bias_ih + cell.bias_hh)
        product = graph.add("MatMul", below, graph.constant(weight.T))
        gates = graph.add("Add", product, gates)
        below, new_cell = _cell(graph, gates, old_cells[layer], size)
        new_states.append(below)
        new_cells.append(new_cell)
    energies = _energies(graph, attention, below, keys, valid, previous)
    is_step = graph.add("Unsqueeze", valid, graph.numbers(1, 2))
    lowest = graph.constant(np.float32(-np.inf))
    energies = graph.add("Where", is_step, energies, lowest)
    weights = graph.add("Softmax", energies, axis=-1)  # (B, K, N, J)
    heads = attention.heads
    flat = graph.add("Reshape", weights, _shape(graph, tokens, [-1]))
    shares = graph.add("MatMul", flat, memory)  # (B, K, 5 * S)
    share, hidden_share = graph.split(shares, [4 * size, size])
    mean = graph.add("ReduceMean", weights, axes=[2], keepdims=0)
    if heads == 1:
        mean = graph.add("Squeeze", weights, graph.numbers(2))
    hidden = graph.add(
        "MatMul", below, graph.weight(speller.hidden.weight[:, :size].t())
    )
    hidden = graph.add("Add", hidden, graph.weight(speller.hidden.bias))
    hidden = graph.add("Tanh", graph.add("Add", hidden, hidden_share))
    logits = _linear(graph, hidden, speller.output)
    log_probs = graph.add("LogSoftmax", logits, axis=-1)
    new = graph.add("Concat", share, *new_states, *new_cells, axis=-1)
    graph.output("log_probs", TensorProto.FLOAT, "BKV", log_probs)
    graph.output("new_kept", TensorProto.FLOAT, "BKW", new)
    graph.output("weights", TensorProto.FLOAT, "BKJ", mean)
    return graph.file("speller_step", precision, ["MatMul"])


def _check(las: LAS) -> None:
    """Refuse what no graph is written for.

    Raises:
        CheckpointError: the attention is of the user's own.
    """
    attention = type(las.speller.attention)
    if not attention.has_fast_path():
        raise CheckpointError(
            f"attention {attention.__name__}: has no ONNX graph (those that are built "
            "in have one)"
        )


class _Graph:
    """A graph under construction; nodes are known by the names of their outputs."""

    def __init__(self) -> None:
        self._nodes = list[onnx.NodeProto]()
        self._inputs = list[onnx.ValueInfoProto]()
        self._outputs = list[onnx.ValueInfoProto]()
        self._constants = list[onnx.TensorProto]()
        self._numbers = count()

    def _name(self) -> str:
        return f"v{next(self._numbers)}"

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Add an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: Sequence[str], value: str) -> None:
        """Name a value as an output."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        name = self._name()
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Cut the last axis into parts."""
        names = [self._name() for _ in sizes]
        inputs = [value, self.numbers(*sizes)]
        self._nodes.append(helper.make_node("Split", inputs, names, axis=-1))
        return names

    def constant(self, array: npt.ArrayLike) -> str:
        """Add a constant."""
        name = self._name()
        array = np.ascontiguousarray(array)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def numbers(self, *values: int) -> str:
        """Add a row of whole numbers."""
        return self.constant(np.array(values, dtype=np.int64))

    def number(self, value: int) -> str:
        """Add a whole number."""
        name = self._name()
        array = np.array(value, dtype=np.int64)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, weight: Tensor) -> str:
        """Add a weight of the network."""
        return self.constant(_array(weight))

    def file(self, name: str, precision: str, quantized: Sequence[str]) -> bytes:
        """Return the graph as a file, with the weights of some operators as bytes."""
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, self._constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="asr",
        )
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        if precision == "float32":
            return content
        with tempfile.TemporaryDirectory() as folder:
            plain, small = Path(folder, "plain.onnx"), Path(folder, "small.onnx")
            plain.write_bytes(content)
            logging.disable(logging.WARNING)  # "consider to run pre-processing"
            try:
                quantize_dynamic(
                    *(plain, small, list(quantized)),
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    extra_options={"MatMulConstBOnly": True},
                )
            finally:
                logging.disable(logging.NOTSET)
            return small.read_bytes()


def _array(weight: Tensor) -> Floats:
    array: Floats = weight.detach().float().numpy()
    return array


def _shape(graph: _Graph, like: str, rest: Sequence[int]) -> str:
    """Return the shape (B, K, ...) with the axes (B, K) of a value."""
    first = graph.add("Shape", like, start=0, end=2)
    return graph.add("Concat", first, graph.numbers(*rest), axis=0)


def _linear(graph: _Graph, x: str, linear: nn.Linear) -> str:
    product = graph.add("MatMul", x, graph.weight(linear.weight.t()))
    return graph.add("Add", product, graph.weight(linear.bias))


def _valid(graph: _Graph, x: str, lengths: str) -> str:
    """(B, J, D), (B,) -> (B, J) bool, True on data."""
    width = graph.add("Shape", x, start=1, end=2)
    width = graph.add("Squeeze", width, graph.numbers(0))
    places = graph.add("Range", graph.number(0), width, graph.number(1))
    return graph.add("Less", places, graph.add("Unsqueeze", lengths, graph.numbers(1)))


def _blank(graph: _Graph, x: str, lengths: str) -> str:
    """(B, J, D) with zeros on padding."""
    valid = graph.add("Unsqueeze", _valid(graph, x, lengths), graph.numbers(2))
    return graph.add("Where", valid, x, graph.constant(np.float32(0.0)))


def _convolve(graph: _Graph, front: ConvolutionalFront, x: str, lengths: str) -> str:
    """(B, T, F) -> (B, T, C * F'')."""
    valid = graph.add("Unsqueeze", _valid(graph, x, lengths), graph.numbers(1, 3))
    h = graph.add("Unsqueeze", x, graph.numbers(1))
    for convolution in front.convolutions:
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        h = graph.add(
            *("Conv", h, graph.weight(convolution.weight)),
            graph.weight(convolution.bias),
            strides=[1, BANDS],
            pads=[SEEN // 2] * 4,
        )
        zeros = graph.constant(np.float32(0.0))
        h = graph.add("Where", valid, graph.add("Relu", h), zeros)
    h = graph.add("Transpose", h, perm=[0, 2, 1, 3])
    return graph.add("Reshape", h, graph.numbers(0, 0, front.size))


def _stack_frames(
    graph: _Graph, x: str, lengths: str, width: int, reduction: int
) -> tuple[str, str]:
    """(B, T, D) -> (B, ceil(T / r), r * D), and the new lengths."""
    if reduction == 1:
        return x, lengths
    zeros = graph.constant(np.float32(0.0))
    pads = graph.numbers(0, 0, 0, 0, reduction - 1, 0)
    padded = graph.add("Pad", x, pads, zeros)
    steps = graph.add("Shape", x, start=1, end=2)
    rest, by = graph.number(reduction - 1), graph.number(reduction)
    steps = graph.add("Div", graph.add("Add", steps, rest), by)
    end = graph.add("Mul", steps, by)
    cut = graph.add("Slice", padded, graph.numbers(0), end, graph.numbers(1))
    stacked = graph.add("Reshape", cut, graph.numbers(0, -1, reduction * width))
    lengths = graph.add("Div", graph.add("Add", lengths, rest), by)
    return stacked, lengths


def _read_both_ways(
    graph: _Graph, layer: BidirectionalLSTM, x: str, lengths: str
) -> str:
    """(B, J, D) -> (B, J, 2 * S)."""
    both = [layer.forwards, layer.backwards]
    w, u, bias_w, bias_u = (
        np.stack([_onnx_gates(lstm.get_parameter(f"{name}_l0")) for lstm in both])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    size = u.shape[2]
    y = graph.add(
        "LSTM",
        graph.add("Transpose", x, perm=[1, 0, 2]),
        graph.constant(w),
        graph.constant(u),
        graph.constant(np.concatenate([bias_w, bias_u], axis=1)),
        graph.add("Cast", lengths, to=TensorProto.INT32),
        hidden_size=size,
        direction="bidirectional",
    )  # (J, 2, B, S)
    y = graph.add("Transpose", y, perm=[2, 0, 1, 3])
    return graph.add("Reshape", y, graph.numbers(0, 0, 2 * size))


def _onnx_gates(weights: Tensor) -> Floats:
    """Bring torch's order of the gates, i f g o, into that of ONNX: i o f g."""
    i, f, g, o = np.split(_array(weights), 4)
    return np.concatenate([i, o, f, g])


def _memory(graph: _Graph, las: LAS, h: str) -> str:
    """(B, J, H) -> (B, N * J, 5 * S): shares of the gates and of the MLP."""
    speller, heads = las.speller, las.speller.attention.heads
    cell = speller.cells[0]
    assert isinstance(cell, nn.LSTMCell)
    embedded, size = speller.embedding.embedding_dim, cell.hidden_size
    to_gates = _array(cell.weight_ih)[:, embedded:]
    to_hidden = _array(speller.hidden.weight)[:, size:]
    shares = np.concatenate([to_gates, to_hidden]).T  # (H, 5 * S)
    if heads == 1:
        return graph.add("MatMul", h, graph.constant(shares))
    sees = np.repeat(np.eye(heads, dtype=np.float32), len(shares) // heads, axis=1)
    each = (sees[:, :, None] * shares)[None]  # (1, N, H, 5 * S)
    h = graph.add("Unsqueeze", h, graph.numbers(1))
    products = graph.add("MatMul", h, graph.constant(each))  # (B, N, J, 5 * S)
    return graph.add("Reshape", products, graph.numbers(0, -1, 5 * size))


def _cell(graph: _Graph, gates: str, cell: str, size: int) -> tuple[str, str]:
    """Do one step of an LSTM: its new state and cell."""
    i, f, g, o = graph.split(gates, [size] * 4)
    i, f, o = (graph.add("Sigmoid", gate) for gate in (i, f, o))
    g = graph.add("Tanh", g)
    new = graph.add("Add", graph.add("Mul", f, cell), graph.add("Mul", i, g))
    return graph.add("Mul", o, graph.add("Tanh", new)), new


def _energies(
    graph: _Graph, attention: Attention, s: str, keys: str, valid: str, previous: str
) -> str:
    """(B, K, S) states -> (B, K, N, J) energies."""
    weight = _array(attention.query.weight).T
    if not isinstance(attention, AdditiveAttention):
        weight = weight / math.sqrt(weight.shape[1] / attention.heads)
        query = graph.add("MatMul", s, graph.constant(weight))
        return _dots(graph, query, keys, attention.heads)
    query = graph.add("MatMul", s, graph.constant(weight))
    size = attention.energy.in_features
    query_across, keys_across = query, keys
    if attention.block_size:
        query, query_across = graph.split(query, [size, size])
        keys, keys_across = graph.split(keys, [size, size])
    compared = graph.add(
        "Add",
        graph.add("Unsqueeze", query, graph.numbers(2)),
        graph.add("Unsqueeze", keys, graph.numbers(1)),
    )  # (B, K, J, A)
    if isinstance(attention, LocationAwareAttention):
        compared = graph.add("Add", compared, _located(graph, attention, previous))
    active = _activated(graph, compared, attention.activation)
    v = graph.weight(attention.energy.weight.t())
    found = graph.add("MatMul", active, v)
    found = graph.add("Squeeze", found, graph.numbers(3))  # (B, K, J)
    if attention.block_size:
        found = _across(graph, attention, found, query_across, keys_across, valid)
    return graph.add("Unsqueeze", found, graph.numbers(2))


def _dots(graph: _Graph, query: str, keys: str, heads: int) -> str:
    """(B, K, A), (B, J, A) -> (B, K, N, J)."""
    by_head = graph.numbers(0, 0, heads, -1)
    queries = graph.add("Reshape", query, by_head)
    queries = graph.add("Transpose", queries, perm=[0, 2, 1, 3])
    columns = graph.add("Reshape", keys, by_head)
    columns = graph.add("Transpose", columns, perm=[0, 2, 3, 1])
    dots = graph.add("MatMul", queries, columns)  # (B, N, K, J)
    return graph.add("Transpose", dots, perm=[0, 2, 1, 3])


def _located(graph: _Graph, attention: LocationAwareAttention, previous: str) -> str:
    """(B, K, J) previous weights -> (B, K, J, A) L f_ij."""
    reach = attention.filters.size(1) // 2
    rows = graph.add("Reshape", previous, _rows_shape(graph, previous))
    filters = graph.weight(attention.filters[:, None])  # (filters, 1, R)
    seen = graph.add("Conv", rows, filters, pads=[reach, reach])
    seen = graph.add("Transpose", seen, perm=[0, 2, 1])  # (B * K, J, filters)
    located = graph.add("MatMul", seen, graph.weight(attention.location.weight.t()))
    size = graph.numbers(attention.location.out_features)
    shape = graph.add("Concat", graph.add("Shape", previous), size, axis=0)
    return graph.add("Reshape", located, shape)


def _rows_shape(graph: _Graph, x: str) -> str:
    """Return the shape (B * K, 1, J) of a value (B, K, J)."""
    steps = graph.add("Shape", x, start=2, end=3)
    return graph.add("Concat", graph.numbers(-1, 1), steps, axis=0)


def _across(
    graph: _Graph,
    attention: AdditiveAttention,
    energies: str,
    query: str,
    keys: str,
    valid: str,
) -> str:
    """(B, K, J) e_i inside blocks -> (B, K, J) log(alpha_i beta_i)."""
    steps = graph.add("Shape", energies, start=2, end=3)
    most = graph.numbers(attention.block_size)
    size = graph.add("Min", steps, most)  # (1,) G
    behind = graph.add("Mod", graph.add("Neg", steps), size)
    after = graph.add("Concat", graph.numbers(0, 0, 0, 0, 0), behind, axis=0)
    before, last = graph.numbers(0, 0, 0, 0), graph.numbers(0)
    along = graph.add("Concat", before, behind, last, axis=0)
    zero, one = (graph.constant(np.float32(x)) for x in (0, 1))
    energies = graph.add("Pad", energies, after, zero)
    keys = graph.add("Pad", keys, along, zero)
    missing = graph.add("Cast", graph.add("Not", valid), to=TensorProto.FLOAT)
    pads = graph.add("Concat", graph.numbers(0, 0, 0), behind, axis=0)
    missing = graph.add("Pad", missing, pads, one)  # (B, M * G)
    half = graph.constant(np.float32(0.5))
    is_missing = graph.add("Greater", missing, half)
    is_missing = graph.add("Unsqueeze", is_missing, graph.numbers(1))
    lowest = graph.constant(np.float32(_LOWEST))
    energies = graph.add("Where", is_missing, lowest, energies)
    cut = graph.add("Concat", graph.numbers(0, 0, -1), size, axis=0)
    inside = graph.add("Reshape", energies, cut)  # (B, K, M, G)
    log_inside = graph.add("LogSoftmax", inside, axis=3)
    inside = graph.add("Transpose", graph.add("Exp", log_inside), perm=[0, 2, 1, 3])
    width = graph.numbers(attention.energy.in_features)
    blocks = graph.add("Concat", graph.numbers(0, -1), size, width, axis=0)
    keys = graph.add("Reshape", keys, blocks)  # (B, M, G, A)
    contexts = graph.add("MatMul", inside, keys)  # (B, M, K, A)
    contexts = graph.add("Transpose", contexts, perm=[0, 2, 1, 3])
    query = graph.add("Unsqueeze", query, graph.numbers(2))
    active = graph.add("Add", query, contexts)
    active = _activated(graph, active, attention.activation)
    across = graph.add("MatMul", active, graph.weight(attention.across.weight.t()))
    across = graph.add("Squeeze", across, graph.numbers(3))  # (B, K, M)
    cut = graph.add("Concat", graph.numbers(0, -1), size, axis=0)
    whole = graph.add("Reshape", missing, cut)
    whole = graph.add("ReduceMin", whole, axes=[2], keepdims=0)
    empty = graph.add("Greater", whole, half)
    empty = graph.add("Unsqueeze", empty, graph.numbers(1))
    never = graph.constant(np.float32(-np.inf))
    across = graph.add("Where", empty, never, across)
    across = graph.add("LogSoftmax", across, axis=2)
    across = graph.add("Unsqueeze", across, graph.numbers(3))
    both = graph.add("Add", log_inside, across)
    flat = graph.add("Reshape", both, graph.numbers(0, 0, -1))
    return graph.add("Slice", flat, graph.numbers(0), steps, graph.numbers(2))


def _activated(graph: _Graph, x: str, activation: str) -> str:
    return graph.add("Tanh" if activation == "tanh" else "Relu", x)
