"""The search for the texts of short waveforms, with all models that score them.

What `asr.inference.speech_search` does, over graphs and numpy.

Shapes: B utterances, N samples, T frames, F mel bands, I tokens, J listener steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE
from asr.decoding.config import MOST_CHARACTERS, DecodingConfig
from asr.decoding.ctc_window import CTCWindow
from asr.decoding.hotwords import token_tables
from asr.decoding.hypothesis import Hypothesis
from asr.inference.search_result import SearchResult
from asr.onnx.ctc import align
from asr.onnx.features import FRAMES_PER_SECOND, log_mel
from asr.onnx.folder import OnnxModel
from asr.onnx.hotwords import HotWordPrefix
from asr.onnx.ngram import WordNGram
from asr.onnx.search import Fusion, StepModel, beam_search
from asr.onnx.sessions import Session
from asr.onnx.speller import Memory, SpellerSteps, internal_lm, score_texts

Floats = npt.NDArray[np.float32]


class SpeechSearch:
    """Graphs, a tokenizer and a language model, ready to search.

    Args:
        model: of an exported folder.
        language_model: of words, if one is to be used.
        hotwords: words and phrases to favour, in the characters of the tokenizer.

    Raises:
        CheckpointError: the graphs cannot be run.
    """

    def __init__(
        self,
        model: OnnxModel,
        language_model: WordNGram | None,
        hotwords: Sequence[str] = (),
    ) -> None:
        self.tokenizer, self.numbers = model.tokenizer, model.numbers
        self._listener, self._step = Session(model.listener), Session(model.step)
        self._hotwords = token_tables(hotwords, self.tokenizer) if hotwords else None
        if hotwords and language_model:
            language_model = language_model.with_words(" ".join(hotwords).split())
        self.language_model = language_model

    def search(
        self, waveforms: Sequence[Floats], decoding: DecodingConfig
    ) -> list[SearchResult]:
        """Search for the texts of short waveforms, and collect the evidence for them.

        Args:
            waveforms: (N,) float32 at 16 kHz each, not silent.
            decoding: settings of the search.
        """
        if not waveforms:
            return []
        num_frames, listened = self._listen(waveforms)
        memory, num_steps, ctc, num_ctc_steps = listened
        tokenizer = self.tokenizer
        found = beam_search(
            self._step_model(memory, ctc, num_ctc_steps, decoding),
            decoding,
            sos=tokenizer.sos,
            eos=tokenizer.eos,
            max_lengths=[_length_limit(frames) for frames in num_frames],
        )
        texts = [hypotheses[0].tokens for hypotheses in found]
        scored = score_texts(self._step, memory, texts, tokenizer.sos, tokenizer.eos)
        return [
            self._result(
                *(found[row], len(waveforms[row]) / SAMPLE_RATE, scored[row]),
                *(ctc[row, : num_ctc_steps[row]], int(num_steps[row])),
            )
            for row in range(len(waveforms))
        ]

    def _listen(self, waveforms: Sequence[Floats]) -> Any:
        features = [log_mel(waveform) for waveform in waveforms]
        num_frames = [len(one) for one in features]
        shape = len(features), max(num_frames), features[0].shape[1]
        padded = np.zeros(shape, dtype=np.float32)
        for row, one in enumerate(features):
            padded[row, : len(one)] = one
        names = ["memory", "keys", "num_steps", "ctc_log_probs", "num_ctc_steps"]
        shares, keys, num_steps, ctc, num_ctc_steps = self._listener.run(
            names, {"features": padded, "num_frames": np.array(num_frames, np.int64)}
        )
        valid = np.arange(keys.shape[1]) < num_steps[:, None]
        return num_frames, (Memory(shares, keys, valid), num_steps, ctc, num_ctc_steps)

    def _step_model(
        self, memory: Memory, ctc: Any, num_ctc_steps: Any, decoding: DecodingConfig
    ) -> StepModel:
        """Combine the speller, the CTC head, the language model and hot words."""
        number, share = len(memory.keys), decoding.ctc_weight
        speller = SpellerSteps(self._step, memory, decoding.coverage)
        parts: list[tuple[StepModel, float]] = [(speller, 1 - share)]
        if share:
            prefix = CTCWindow(
                ctc,
                num_ctc_steps,
                blank=self.tokenizer.pad,
                eos=self.tokenizer.eos,
                never=[self.tokenizer.sos],
            )
            parts.append((prefix, share))
        weight = decoding.lm_weight
        if self.language_model and weight:
            bonus = decoding.word_bonus / weight  # the weight is taken of it, too
            parts.append((self.language_model.steps(number, bonus), weight))
            own = internal_lm(self._step, number, self.numbers.heads)
            parts.append((own, -decoding.ilm_weight))
        if self._hotwords and decoding.hotword_weight:
            hot = HotWordPrefix(self._hotwords, number)
            parts.append((hot, decoding.hotword_weight))
        return Fusion(parts) if len(parts) > 1 else speller

    def _result(
        self,
        hypotheses: Sequence[Hypothesis],
        duration: float,
        scored: tuple[Any, Any],
        ctc: Any,
        num_steps: int,
    ) -> SearchResult:
        tokens = hypotheses[0].tokens
        log_probs, weights = scored
        return SearchResult(
            hypotheses=hypotheses,
            texts=[self.tokenizer.decode(one.tokens) for one in hypotheses],
            pieces=self.tokenizer.pieces(tokens),
            alignment=align(ctc, tokens, self.tokenizer.pad),
            log_probs=log_probs,
            weights=weights[:, :num_steps].copy(),
            seconds_per_ctc_step=self.numbers.ctc_reduction / FRAMES_PER_SECOND,
            seconds_per_step=self.numbers.reduction / FRAMES_PER_SECOND,
            duration=duration,
            block_size=self.numbers.block_size,
        )


def _length_limit(num_frames: int) -> int:
    """Return the most tokens that a search may write; see `length_limits`."""
    seconds = np.float32(num_frames) / np.float32(FRAMES_PER_SECOND)
    return int(seconds * np.float32(MOST_CHARACTERS)) + 5
