"""An LSTM that foretells the next word, for mixing into a word n-gram.

An n-gram sees two words back, an LSTM the whole sentence. It is trained on the words
only, not on where sentences end; with the n-gram's word on that, the mixture

    P(w | h) = (1 - share) P_ngram(w | h) + share (1 - P_ngram(</s> | h)) P_lstm(w | h)

sums to one again. The output is an adaptive softmax: the words by falling frequency, in
clusters; the first is computed in full, the others by fewer and fewer dimensions,

    log P(w | h) = o_w . s - log Z_0                                      w in the head
                 = o_w . P_i s + (g_i . s - log Z_0 - log Z_i)            w in cluster i

with g_i the head's score of cluster i, so that all that is dear (the two LSTM products
and the Z) is worked out once for each context, and then a word costs one short product.

Shapes: R contexts, B sentences, I words of each, W words, V = W + 1 with <unk>,
        E embedding size, S LSTM size.

Source: Mikolov et al. (2010), "Recurrent neural network based language model",
Interspeech; Grave et al. (2017), "Efficient softmax approximation for GPUs",
arXiv:1609.04309.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, linear

from asr.errors import CheckpointError
from asr.file_sets import checked, write_checked
from asr.foreign import settings_of
from asr.tensor_files import (
    Undrawn,
    as_bytes,
    check_weights,
    dequantize_rows,
    quantize_rows,
    quantized_rows,
    read_tensors,
)

FILE = "lstm.safetensors"
"""The file of a language model's folder, beside that of the n-gram."""
DESCRIPTION = "lstm.json"
"""Its size and checksum."""
KIND = "word LSTM"
_EMBEDDING = "embedding.weight"


@dataclass(frozen=True)
class _Stored:
    """Settings of a network in its file."""

    embedding_size: int
    size: int
    cutoffs: list[int]
    share: float

    def __post_init__(self) -> None:
        """Refuse what no network can have."""
        if min(self.embedding_size, self.size, *self.cutoffs) < 1:
            raise ValueError("sizes must be at least 1")


class _StoredEmbedding(nn.Module):
    """The bytes of a file: a row becomes float32 when it is asked for, not before.

    Args:
        steps: (V + 1, E) int8.
        scale: (V + 1,) of each row.
    """

    def __init__(self, steps: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.steps: Tensor
        self.scale: Tensor
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        """Return (…, E) the rows of words, as `dequantize_rows` has them."""
        return self.steps[words].float() * self.scale[words].float()[..., None]

    @property
    def weight(self) -> Tensor:
        """(V + 1, E) all rows."""
        return self.steps.float() * self.scale.float()[:, None]

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}weight"] = self.weight


class WordLSTM(nn.Module):
    """The network, as it is trained.

    Args:
        ranks: (W + 2,) by a word's number in the n-gram, its place when words are
            sorted by falling frequency; W is <unk>, W + 1 the start of a sentence (its
            rank is W + 1, too).
        embedding_size: E.
        size: S.
        cutoffs: where, by rank, the clusters after the head begin.
        share: of this model in the mixture.

    Raises:
        ValueError: the ranks are no order of the words, the share is none, or the size
            is too small for so many clusters.
    """

    def __init__(
        self,
        ranks: Tensor,
        embedding_size: int = 128,
        size: int = 512,
        cutoffs: Sequence[int] = (1000, 5000, 20_000),
        share: float = 0.5,
    ) -> None:
        super().__init__()
        count = len(ranks) - 1
        in_order = torch.arange(count + 1, device=ranks.device)
        if not ranks.sort().values.equal(in_order) or ranks[-1] != count:
            raise ValueError("the ranks are no order of the words")
        if size < 4 ** len(cutoffs):
            raise ValueError(f"{len(cutoffs)} clusters need {4 ** len(cutoffs)} units")
        if not 0 < share < 1:
            raise ValueError(f"a share is between 0 and 1, not {share}")
        self.share, self.dropout = share, 0.0
        self.ranks: Tensor
        self.settings = {
            **{"embedding_size": embedding_size, "size": size},
            **{"cutoffs": list(cutoffs)},
        }
        self.register_buffer("ranks", ranks)
        self.embedding: nn.Module = nn.Embedding(count + 1, embedding_size)
        self.lstm = nn.LSTM(embedding_size, size, batch_first=True)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(size, count, list(cutoffs))
        nn.init.normal_(self.get_parameter(_EMBEDDING), std=0.1)

    def trainable(self) -> "WordLSTM":
        """Return this network, all its weights parameters, whatever they came from."""
        if isinstance(self.embedding, _StoredEmbedding):
            weight = self.embedding.weight
            self.embedding = nn.Embedding(len(weight), weight.size(1), _weight=weight)
        return self

    def forward(self, words: Tensor, members: Sequence[Tensor] | None = None) -> Tensor:
        """Return how well each word is foretold from those before.

        Args:
            words: (B, 1 + I) ranks, from the start of a sentence on.
            members: what `members` returns for the words. Where they are on a GPU, it
                is better asked on the CPU: here it would wait for the GPU.

        Returns:
            (B, I) log P of all but the first.
        """
        if members is None:
            members = self.members(words)
        embedded = dropout(self.embedding(words[:, :-1]), self.dropout, self.training)
        states, _ = self.lstm(embedded)
        states = dropout(states.flatten(0, 1), self.dropout, self.training)
        targets = words[:, 1:].flatten()
        edges, heads = self.softmax.cutoffs, targets.clone()
        for i, rows in enumerate(members):
            heads.index_fill_(0, rows, edges[0] + i)
        loss = cross_entropy(self.softmax.head(states), heads, reduction="none")
        tails: Any = self.softmax.tail
        for first, rows, tail in zip(edges, members, tails, strict=False):
            if len(rows):
                scores = tail(states.index_select(0, rows))
                places = targets.index_select(0, rows) - first
                found = cross_entropy(scores, places, reduction="none")
                loss = loss.index_add(0, rows, found)
        return -loss.view(len(words), -1)

    def members(self, words: Tensor) -> list[Tensor]:
        """List for each cluster which of the words that are foretold are in it.

        Args:
            words: (B, 1 + I) ranks, from the start of a sentence on.

        Returns:
            For each cluster after the head, places in the B I words in a row.
        """
        targets = words[:, 1:].flatten()
        return [
            ((targets >= first) & (targets < end)).nonzero().flatten()
            for first, end in pairwise(self.softmax.cutoffs)
        ]

    def save(
        self, folder: Path, words: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        """Write the network into the folder of the n-gram; each row as bytes.

        Args:
            folder: of the n-gram.
            words: of the n-gram.
            metadata: how it was made.

        Raises:
            CheckpointError: it cannot be written.
        """
        tensors = dict[str, Tensor]()
        for name, weight in self.state_dict().items():
            if weight.dim() == 2:
                tensors |= quantize_rows(name, weight)
            else:
                tensors[name] = weight.half() if weight.is_floating_point() else weight
        about = {"kind": KIND, **self.settings, "share": self.share}
        about["words"] = _fingerprint(words)
        content = as_bytes(tensors, {**metadata, **about})
        write_checked(folder, FILE, content, DESCRIPTION)

    @classmethod
    def load(cls, folder: Path, words: Sequence[str]) -> "WordLSTM | None":
        """Read what `save` wrote; None where the n-gram is alone in its folder.

        Raises:
            CheckpointError: it is damaged or exchanged, or belongs to another n-gram.
        """
        if not (folder / DESCRIPTION).exists() and not (folder / FILE).exists():
            return None
        path = checked(folder, FILE, DESCRIPTION, KIND)
        stored, metadata = read_tensors(path)
        if metadata.get("kind") != KIND:
            raise CheckpointError(f"{path}: is no {KIND}")
        if metadata.get("words") != _fingerprint(words):
            raise CheckpointError(
                f"{path}: belongs to another n-gram (train it again: asr lm train)"
            )
        try:
            check_weights(stored)
            tensors, rows = dict[str, Tensor](), None
            for name, tensor in stored.items():
                if name == _EMBEDDING and tensor.dtype == torch.int8:
                    rows = _StoredEmbedding(
                        *map(torch.clone, quantized_rows(name, stored))
                    )
                elif tensor.dtype == torch.int8:
                    tensors[name] = dequantize_rows(name, stored)
                elif not name.endswith(".scale"):
                    half = tensor.dtype == torch.float16
                    tensors[name] = tensor.float() if half else tensor.clone()
            ranks = tensors["ranks"]
            if ranks.dtype != torch.int64 or ranks.shape != (len(words) + 2,):
                raise ValueError(f"{len(words) + 2} ranks were expected")
            given = {field.name: metadata[field.name] for field in fields(_Stored)}
            settings = settings_of(_Stored, given)
            largest = max(max(t.shape, default=0) for t in stored.values())
            if max(settings.embedding_size, settings.size) > largest:
                raise ValueError(f"no weight has a size of {settings.size}")
            with Undrawn():
                model = cls(ranks, **vars(settings))
            if rows is not None:
                if rows.steps.shape != model.get_parameter(_EMBEDDING).shape:
                    raise ValueError(f"{len(ranks)} rows of words were expected")
                model.embedding = rows
            model.load_state_dict(tensors, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"{path}: is damaged, or was not written by asr ({error})"
            ) from error
        return model.eval()


def _fingerprint(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


class Contexts:
    """What the network knows after the words of many hypotheses, as a search needs it.

    A context is a row: s, the cell, for each further cluster P_i s, for head and
    clusters what stands in brackets above (-log Z_0 alone for the head), and for
    looking ahead the cumulative P of the head's words, in the order of their numbers,
    and P of each cluster.

    Args:
        model: is read once, here.
    """

    @torch.no_grad()
    def __init__(self, model: WordLSTM) -> None:
        softmax, lstm = model.softmax, model.lstm
        self.ranks, self.size = model.ranks, lstm.hidden_size
        self.embedding = model.embedding
        self.cell = [
            lstm.get_parameter(f"{kind}_l0").detach()
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        tails: Any = softmax.tail  # each a pair of linear layers
        self.edges = [*softmax.cutoffs[:-1]]
        self.projections = [tail[0].weight.detach() for tail in tails]
        self.outputs = [softmax.head.weight.detach()]
        self.outputs += [tail[1].weight.detach() for tail in tails]
        words = self.ranks[:-2]
        self.head = words[words < self.edges[0]]  # by their numbers, as ranks
        widths = [2 * self.size, sum(map(len, self.projections)), len(self.outputs)]
        widths += [1 + len(self.head), len(self.edges)]
        self.ends = list(accumulate(widths))

    def start(self, count: int) -> Tensor:
        """Return contexts of nothing but the start of a sentence."""
        start = self.ranks.new_full((count,), len(self.ranks) - 1)
        return self.read(start, self.cell[0].new_zeros(count, self.ends[-1]))

    @torch.no_grad()
    def read(self, words: Tensor, contexts: Tensor) -> Tensor:
        """Read one more word in each context.

        Args:
            words: (R,) by their numbers in the n-gram.
            contexts: of R rows.
        """
        s, cell = contexts[:, : 2 * self.size].chunk(2, dim=1)
        embedded = self.embedding(self.ranks[words])
        s, cell = torch.lstm_cell(embedded, (s, cell), *self.cell)
        head = linear(s, self.outputs[0])
        brackets = [-head.logsumexp(dim=1)]
        projected = [linear(s, projection) for projection in self.projections]
        for i, (dims, output) in enumerate(
            zip(projected, self.outputs[1:], strict=True)
        ):
            log_prob = head[:, self.edges[0] + i] + brackets[0]
            brackets.append(log_prob - linear(dims, output).logsumexp(dim=1))
        probs = head.add_(brackets[0][:, None]).exp_()
        sums = nn.functional.pad(probs[:, self.head].cumsum(dim=1), (1, 0))
        known = [s, cell, *projected, torch.stack(brackets, dim=1)]
        return torch.cat([*known, sums, probs[:, self.edges[0] :]], dim=1)

    def ahead(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return what contexts hold for looking ahead; see `LookAhead.mass`."""
        sums = contexts[:, self.ends[2] : self.ends[3]]
        return sums, contexts[:, self.ends[3] :]

    @torch.no_grad()
    def log_prob(self, words: Tensor, contexts: Tensor) -> Tensor:
        """(R,) words by their numbers in the n-gram, R contexts -> (R,) log P."""
        ranks = self.ranks[words]
        clusters = torch.bucketize(ranks, torch.tensor(self.edges), right=True)
        found = contexts.new_empty(len(ranks))
        start = 0
        for i, rows in enumerate(self.outputs):
            size = rows.size(1)
            at = (clusters == i).nonzero().flatten()
            if len(at):
                first = self.edges[i - 1] if i else 0
                own = contexts[at]
                dots = rows[ranks[at] - first] * own[:, start : start + size]
                found[at] = dots.sum(dim=1) + own[:, self.ends[1] + i]
            start += size if i else 2 * self.size
        return found
