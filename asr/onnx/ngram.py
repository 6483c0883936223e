"""A word n-gram, and an LSTM in it, where there is no torch: `asr.lm.word_tables`."""

from collections.abc import Sequence
from pathlib import Path

from asr.errors import CheckpointError
from asr.file_sets import checked
from asr.folders import inside
from asr.lm.look_ahead import Ints
from asr.lm.word_files import DESCRIPTION, FILE, KIND, tables_of
from asr.lm.word_tables import Level, WordSteps, WordTables
from asr.onnx.tensors import read_arrays
from asr.onnx.word_lstm import Contexts, ContextTable, load_contexts
from asr.text import CharTokenizer


class WordNGram(WordTables):
    """A word n-gram, which an LSTM may be mixed into.

    Args:
        words: (W,) the vocabulary, sorted.
        levels: by order; the first holds all N unigrams.
        tokenizer: its first character is the space between words.
        contexts: of an LSTM that is mixed in, if there is one.

    Raises:
        ValueError: the words are not sorted, or cannot be spelled; or a table does not
            match.
    """

    def __init__(
        self,
        words: Sequence[str],
        levels: Sequence[Level],
        tokenizer: CharTokenizer,
        contexts: Contexts | None,
    ) -> None:
        super().__init__(words, levels, tokenizer)
        self.contexts = contexts
        self._see_ahead()

    def clusters(self) -> tuple[Ints, list[int], float] | None:
        """Return what is needed to look ahead by the LSTM, if there is one."""
        if not self.contexts:
            return None
        return self.contexts.ranks, self.contexts.edges, self.contexts.share

    def start_contexts(self) -> ContextTable | None:
        """Return the LSTM's context of no words, if there is one."""
        if not self.contexts:
            return None
        return ContextTable(self.contexts, float(self.goes_on(self.no_words(1))[0]))

    def steps(self, num_utterances: int, bonus: float) -> WordSteps:
        """Return a step model of so many utterances, `bonus` added for each word."""
        return WordSteps(self, num_utterances, bonus)


def load_ngram(folder: Path, tokenizer: CharTokenizer | None) -> WordNGram:
    """Read a word n-gram, and the LSTM beside it, if there is one.

    Args:
        folder: of the language model.
        tokenizer: of the model that is to write the words; None for one that has just
            their letters.

    Raises:
        CheckpointError: it is damaged or exchanged, or has letters that the tokenizer
            lacks.
    """
    path = folder / FILE
    if (folder / DESCRIPTION).exists():
        path = checked(folder, FILE, DESCRIPTION, KIND)
    else:
        inside(folder, FILE, folder / DESCRIPTION)
    arrays, metadata = read_arrays(path)
    try:
        words, levels, spelling = tables_of(path, arrays, metadata, tokenizer)
        return WordNGram(words, levels, spelling, load_contexts(folder, words))
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: is damaged, or was not written by asr ({error})"
        ) from error
