"""A word n-gram as a step model: words are scored while they are spelled.

The vocabulary is a trie of characters; m(v) is the summed probability of all words
below node v, and 1 at the root: by the unigram, or, where there is an LSTM, by that
after the words before (see `look_ahead`). Inside a word the look-ahead is paid, and
where a space or <eos> completes the word w after the words h, P(w | h) takes its place:

    score(c | v)     = log m(v c) - log m(v)
    score(space | v) = log P(w | h) - log m(v)
    score(<eos> | v) = score(space | v) + log P(</s> | h w)

What is not in the vocabulary is <unk>, with a penalty for each of its characters: the
same sums with log m = log P(<unk>) + |v| UNKNOWN. (`with_words` gives some such words a
node and a probability of their own.) So the scores of a sentence add up to

    sum_i log P(w_i | h_i) + |w_i| UNKNOWN [w_i is unknown]   + log P(</s> | h)

There is no empty word: no space follows a space or <sos>, and <eos> follows no space.
The n-gram backs off:

    log P(w | h) = log_prob(h w), if stored; else backoff(h) + log P(w | rest of h)

An LSTM of the same words can be mixed in (see `word_lstm`).

An n-gram is kept as one integer, its words the digits of a number of base N. One
number, the boundary, is <s> where it is read and </s> where it is foretold.

Shapes: R hypotheses, V tokens, W words, N = W + 2 word numbers, L letters.

Source: Hori, Watanabe and Hershey (2017), "Multi-level language modeling and decoding
for open vocabulary end-to-end speech recognition", doi:10.1109/ASRU.2017.8268948.
"""

import os
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.file_sets import checked, read_whole, write_checked
from asr.folders import inside
from asr.lm.context_cache import ContextCache, ContextWeights
from asr.lm.look_ahead import Floats, Ints
from asr.lm.word_files import (
    DESCRIPTION,
    FILE,
    FORMAT,
    KIND,
    MOST_BACKOFF,
    STEPS,
    counts_in_bytes,
    find_language_model,
    load_for,
    tables_of,
)
from asr.lm.word_lstm import DESCRIPTION as LSTM
from asr.lm.word_lstm import Contexts, WordLSTM
from asr.lm.word_tables import Level, NGramState, WordSteps, WordTables, find, mix
from asr.tensor_files import as_bytes, read_tensors
from asr.text import CharTokenizer, Tokenizer


def load_language_model(
    folder: str | Path | None, tokenizer: Tokenizer
) -> "WordNGram | None":
    """Load the language model for a search that writes with a tokenizer.

    Args:
        folder: of a word n-gram; None for the bundled one, which is left out with a
            notice where the tokenizer writes anything but its characters.
        tokenizer: of the model.

    Raises:
        CheckpointError: there is no language model, or it is damaged; or one was asked
            for that has letters which the tokenizer lacks, or which writes none.
    """
    return load_for(
        folder,
        tokenizer,
        lambda path, spelling: WordNGram.load(path, tokenizer=spelling),
    )


def make_folder(folder: Path) -> None:
    """Make the folder of a language model, unless it is there.

    Raises:
        CheckpointError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"{folder}: cannot be written (it is read-only)")


class WordNGram(WordTables):
    """A word n-gram, which an LSTM may be mixed into.

    Args:
        words: (W,) the vocabulary, sorted; <unk> is word W, the boundary W + 1.
        levels: by order; the first holds all N unigrams.
        tokenizer: its first character is the space between words.
        lstm: is mixed in, if there is one.

    Raises:
        ValueError: the words are not sorted, or cannot be spelled; or a table does not
            match.
    """

    def __init__(
        self,
        words: Sequence[str],
        levels: Sequence[Level],
        tokenizer: CharTokenizer | None = None,
        lstm: WordLSTM | None = None,
    ) -> None:
        super().__init__(words, levels, tokenizer or CharTokenizer())
        self.mix_in(lstm)

    def mix_in(self, lstm: WordLSTM | None) -> None:
        """Mix an LSTM in, as its weights are now; or none."""
        self.lstm = lstm
        self.contexts = Contexts(lstm) if lstm else None
        self.context_weights = ContextWeights(self.contexts) if self.contexts else None
        self._see_ahead()

    def in_bytes(self) -> "WordNGram":
        """Return the same model, whose LSTM multiplies bytes: faster, not exact."""
        if not self.context_weights:
            return self
        model = copy(self)
        model.context_weights = self.context_weights.in_bytes
        return model

    def clusters(self) -> tuple[Ints, list[int], float] | None:
        """Return what is needed to look ahead by the LSTM, if there is one."""
        if not self.contexts or not self.lstm:
            return None
        return self.contexts.ranks.numpy(), self.contexts.edges, self.lstm.share

    def start_contexts(self) -> ContextCache | None:
        """Return the LSTM's context of no words, if there is one."""
        if not self.context_weights:
            return None
        return self.context_weights.start(self.goes_on(self.no_words(1)))

    def log_prob(
        self, histories: Ints, words: Ints, contexts: Tensor | None = None
    ) -> Floats:
        """Return (R,) log P of words after their histories.

        Args:
            histories: (R, H) the words before, the last one last; H >= order - 1.
            words: (R,) numbers of words, <unk> and, where there are no contexts, the
                boundary among them.
            contexts: R of the LSTM; None for the n-gram alone.
        """
        found = self.look_up(histories, words)
        if contexts is None or self.lstm is None:
            return found
        return mix(found, self.foretold(histories, words, contexts), self.lstm.share)

    def foretold(self, histories: Ints, words: Ints, contexts: Tensor) -> Floats:
        """Return what the LSTM adds where it is mixed in: (R,) log P of the words."""
        if self.contexts is None:
            raise ValueError("there is no LSTM")
        found = self.contexts.log_prob(torch.from_numpy(words), contexts)
        log_probs: Floats = self.goes_on(histories) + found.double().numpy()
        return log_probs

    def steps(self, num_utterances: int, bonus: float = 0.0) -> "NGramPrefix":
        """Return a step model of so many utterances, `bonus` added for each word."""
        return NGramPrefix(self, num_utterances, bonus)

    def save(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Write the model, 3 bytes for each of the longest n-grams, 5 for others.

        N-grams are sorted, so how many begin with each shorter one and their last
        words are enough. Log-probabilities above order 1 are bytes, in 16ths.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: an n-gram is stored whose beginning is not.
        """
        text = "\n".join(self.words).encode()
        tensors = {"vocabulary": np.frombuffer(text, np.uint8).copy()}
        tensors["log_probs_1"] = self.levels[0].log_probs.astype(np.float16)
        number = np.uint16 if self.base < 2**16 else np.int32
        for n, (shorter, level) in enumerate(pairwise(self.levels), 2):
            place, found = find(shorter.keys, level.keys // self.base)
            if not found.all():
                raise ValueError("an n-gram is stored whose beginning is not")
            counts = np.bincount(place, minlength=len(shorter.keys))
            tensors[f"backoffs_{n - 1}"] = _to_bytes(shorter.backoffs, MOST_BACKOFF)
            tensors.update(counts_in_bytes(counts, n, number))
            tensors[f"words_{n}"] = (level.keys % self.base).astype(number)
            tensors[f"log_probs_{n}"] = _to_bytes(level.log_probs, 0.0)
        make_folder(folder)
        about = {"kind": KIND, "order": len(self.levels), "format": FORMAT}
        content = as_bytes(
            {name: torch.from_numpy(array) for name, array in tensors.items()},
            {**metadata, **about},
        )
        write_checked(folder, FILE, content, DESCRIPTION)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        alone: bool = False,
        tokenizer: CharTokenizer | None = None,
    ) -> "WordNGram":
        """Read what `save` wrote, and the LSTM beside it, if there is one.

        Args:
            folder: of the model.
            alone: whether to leave an LSTM there aside.
            tokenizer: of the model that is to write the words; None for one that has
                just their letters.

        Raises:
            CheckpointError: there is none, or it is damaged or exchanged, or its words
                have letters that the tokenizer lacks.
        """
        folder = find_language_model(folder)
        return read_whole(
            folder, [DESCRIPTION, LSTM], lambda: cls._load(folder, alone, tokenizer)
        )

    @classmethod
    def _load(
        cls, folder: Path, alone: bool, tokenizer: CharTokenizer | None
    ) -> "WordNGram":
        path = folder / FILE
        if (folder / DESCRIPTION).exists():
            path = checked(folder, FILE, DESCRIPTION, KIND)
        else:
            inside(folder, FILE, folder / DESCRIPTION)
        tensors, metadata = read_tensors(path)
        try:
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            words, levels, spelling = tables_of(path, arrays, metadata, tokenizer)
            lstm = None if alone else WordLSTM.load(folder, words)
            return cls(words, levels, spelling, lstm)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(
                f"{path}: is damaged, or was not written by asr ({error})"
            ) from error


def _to_bytes(values: npt.NDArray[Any], highest: float) -> npt.NDArray[np.uint8]:
    """Count 16ths below the highest."""
    return ((highest - values) * STEPS).round().clip(0, 255).astype(np.uint8)


class NGramPrefix:
    """A word n-gram as a step model; see `WordSteps`.

    Args:
        model: the n-gram.
        num_utterances: B.
        bonus: is added to the score of each finished word.
    """

    def __init__(self, model: WordNGram, num_utterances: int, bonus: float) -> None:
        self._steps = WordSteps(model, num_utterances, bonus)

    def start(self) -> NGramState:
        """Return one row per utterance, with no word."""
        return self._steps.start()

    def step(self, tokens: Tensor, state: NGramState) -> tuple[Tensor, NGramState]:
        """Read one more token of every hypothesis; see `StepModel.step`."""
        scores, state = self._steps.step(tokens.cpu().numpy(), state)
        return torch.from_numpy(scores).to(tokens.device), state

    def select(self, state: NGramState, rows: Tensor) -> NGramState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        return self._steps.select(state, rows.cpu().numpy())
