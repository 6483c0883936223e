"""The search for the texts of short waveforms, with all models that score them.

Speller, CTC head and language model are combined into one `StepModel`; what the beam
search finds comes back with the evidence for it, as `SearchResult`s.

Shapes: B utterances, N samples, T frames, F mel bands, I tokens, J listener steps.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.decoding.config import DecodingConfig, length_limits
from asr.decoding.ctc import CTCPrefix, search_prefix
from asr.decoding.ctc_alignment import align
from asr.decoding.fusion import Fusion
from asr.decoding.given import score_given
from asr.decoding.hotwords import HotWords
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.search import StepModel, beam_search
from asr.errors import ConfigError
from asr.features import FRAMES_PER_SECOND, log_mel
from asr.inference.search_result import SearchResult
from asr.lm.device_ngram import DeviceNGram
from asr.lm.ngram import WordNGram
from asr.model.las import LAS
from asr.model.listener import ListenerOutput
from asr.model.plain_steps import SpellerSteps
from asr.padding import pad_rows
from asr.text import Tokenizer


class SpeechSearch:
    """A network, a tokenizer and a language model, ready to search.

    Nothing is kept between calls; it may be used from several threads.

    Args:
        las: the network, in evaluation mode, on its device; not changed afterwards.
        tokenizer: of its tokens.
        language_model: of words, if one is to be used.
        precision: of the weights of speller and language model: float32 or int8.
        hotwords: words and phrases to favour, in the characters of the tokenizer; each
            search gives them its own weight.
    """

    def __init__(
        self,
        las: LAS,
        tokenizer: Tokenizer,
        language_model: WordNGram | None,
        precision: str,
        hotwords: Sequence[str] = (),
    ) -> None:
        self.las, self.tokenizer = las, tokenizer
        self.device = las.ctc.weight.device
        self.hotwords: HotWords | None = None
        if language_model and precision == "int8":
            language_model = language_model.in_bytes()
        if hotwords:
            self.hotwords = HotWords(hotwords, tokenizer, self.device)
            if language_model:
                language_model = language_model.with_words(" ".join(hotwords).split())
        self.language_model: WordNGram | DeviceNGram | None = language_model
        if language_model and self.device.type == "cuda":
            self.language_model = DeviceNGram(language_model, self.device)
        self._weights = las.step_weights(precision)

    @torch.inference_mode()
    def search(
        self, waveforms: Sequence[Tensor], decoding: DecodingConfig
    ) -> list[SearchResult]:
        """Search for the texts of short waveforms, and collect the evidence for them.

        Where the memory of a GPU is too small for all of them, they are searched in
        two halves.

        Args:
            waveforms: (N,) float32 at 16 kHz each, not silent.
            decoding: settings of the search.

        Raises:
            ConfigError: it is too small for a single one.
        """
        if not waveforms:
            return []
        with suppress(torch.OutOfMemoryError):
            return self._search(waveforms, decoding)
        half = len(waveforms) // 2
        if not half:
            raise ConfigError(
                f"device {self.device.type}: has too little memory for "
                f"{len(waveforms[0]) / SAMPLE_RATE:.0f} s of audio at beam_size "
                f"{decoding.beam_size} (use a smaller one, or the CPU)"
            )
        torch.cuda.empty_cache()
        return [
            *self.search(waveforms[:half], decoding),
            *self.search(waveforms[half:], decoding),
        ]

    @torch.inference_mode()
    def score(
        self,
        waveforms: Sequence[Tensor],
        texts: Sequence[str],
        decoding: DecodingConfig,
    ) -> list[Hypothesis]:
        """Score texts that are given, as the search would have scored them.

        Args:
            waveforms: (N,) float32 at 16 kHz each.
            texts: one for each, in the characters of the tokenizer.
            decoding: settings of the search.

        Raises:
            ConfigError: a text has a character that the tokenizer does not know.
        """
        try:
            spellings = [self.tokenizer.encode(text) for text in texts]
        except ValueError as error:
            raise ConfigError(f"a text cannot be scored: {error}") from error
        features, num_frames = pad_rows([log_mel(waveform) for waveform in waveforms])
        output = self.las.listen(features.to(self.device), num_frames)
        log_probs = self.las.ctc_log_probs(output)
        return score_given(
            self._step_model(output, log_probs, decoding, whole=True),
            spellings,
            sos=self.tokenizer.sos,
            eos=self.tokenizer.eos,
            length_norm=decoding.length_norm,
        )

    def _search(
        self, waveforms: Sequence[Tensor], decoding: DecodingConfig
    ) -> list[SearchResult]:
        features, num_frames = pad_rows([log_mel(waveform) for waveform in waveforms])
        output = self.las.listen(features.to(self.device), num_frames)
        ctc_log_probs = self.las.ctc_log_probs(output)
        most = length_limits(num_frames / FRAMES_PER_SECOND)
        found = beam_search(
            self._step_model(output, ctc_log_probs, decoding),
            decoding,
            sos=self.tokenizer.sos,
            eos=self.tokenizer.eos,
            max_lengths=most.to(self.device),
        )
        tokens = [torch.tensor(one[0].tokens, dtype=torch.int64) for one in found]
        window = self._steps_in(decoding.attention_window)
        log_probs, weights = self._score_texts(output, tokens, window)
        ctc_log_probs, blank = ctc_log_probs.cpu(), self.tokenizer.pad
        return [
            SearchResult(
                hypotheses=hypotheses,
                texts=[self.tokenizer.decode(one.tokens) for one in hypotheses],
                pieces=self.tokenizer.pieces(hypotheses[0].tokens),
                alignment=align(ctc_log_probs[row, :num_ctc_steps], tokens[row], blank),
                log_probs=log_probs[row, : len(tokens[row]) + 1],
                weights=weights[row, : len(tokens[row]) + 1, :num_steps].clone(),
                seconds_per_ctc_step=(
                    self.las.listener.ctc_reduction / FRAMES_PER_SECOND
                ),
                seconds_per_step=self.las.listener.reduction / FRAMES_PER_SECOND,
                duration=len(waveforms[row]) / SAMPLE_RATE,
                block_size=self.las.speller.attention.block_size,
            )
            for row, (hypotheses, num_steps, num_ctc_steps) in enumerate(
                zip(
                    found,
                    output.num_steps.tolist(),
                    output.num_ctc_steps.tolist(),
                    strict=True,
                )
            )
        ]

    def _score_texts(
        self, output: ListenerOutput, texts: Sequence[Tensor], window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Feed (B,) texts to the speller: (B, I) log P, (B, I, J) alpha.

        Through a window where the search had one, so that it costs and sees no more.
        """
        sos, eos = (
            torch.tensor([token]) for token in (self.tokenizer.sos, self.tokenizer.eos)
        )
        inputs = pad_rows([torch.cat((sos, text)) for text in texts])[0]
        targets = pad_rows([torch.cat((text, eos)) for text in texts])[0]
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        if window is None:
            memory = self.las.precompute(output)
            spelling = self.las.speller.spell(memory, inputs)
            log_probs = spelling.logits.float().log_softmax(dim=-1)
            log_probs = log_probs.gather(2, targets[:, :, None])[:, :, 0]
            return log_probs.cpu(), spelling.weights.float().cpu()
        steps = self.las.steps(output, weights=self._weights, window=window)
        return _read(steps, inputs, targets)

    def _step_model(
        self,
        output: ListenerOutput,
        ctc_log_probs: Tensor,
        decoding: DecodingConfig,
        whole: bool = False,
    ) -> StepModel[Any]:
        """Combine the speller, the CTC head, the language model and hot words.

        Args:
            output: of the listener.
            ctc_log_probs: (B, J', V).
            decoding: settings of the search.
            whole: for texts that no search would find.
        """
        num_utterances, share = output.h.size(0), decoding.ctc_weight
        window = self._steps_in(decoding.attention_window)
        las = self.las.steps(output, decoding.coverage, self._weights, window)
        models: list[StepModel[Any]] = [las]
        weights = [1 - share]
        if share:
            ctc = (CTCPrefix if whole else search_prefix)(
                ctc_log_probs,
                output.num_ctc_steps,
                blank=self.tokenizer.pad,
                eos=self.tokenizer.eos,
                sos=self.tokenizer.sos,
            )
            models, weights = [*models, ctc], [*weights, share]
        if self.language_model and decoding.lm_weight:
            weight = decoding.lm_weight
            bonus = decoding.word_bonus / weight  # the weight is taken of it, too
            words: StepModel[Any] = self.language_model.steps(num_utterances, bonus)
            internal_lm = self.las.internal_lm(num_utterances, self._weights)
            models += [words, internal_lm]
            weights += [weight, -decoding.ilm_weight]
        if self.hotwords and decoding.hotword_weight:
            models.append(self.hotwords.steps(num_utterances))
            weights.append(decoding.hotword_weight)
        return Fusion(models, weights) if len(models) > 1 else las

    def _steps_in(self, seconds: float | None) -> int | None:
        """Return how many listener steps a window of the attention has."""
        if seconds is None:
            return None
        return max(1, round(seconds * FRAMES_PER_SECOND / self.las.listener.reduction))


def _read(
    steps: SpellerSteps, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Feed (B, I) tokens to a search's speller: (B, I) log P, (B, I, J) alpha."""
    state = steps.start()
    log_probs, weights = list[Tensor](), list[Tensor]()
    for tokens, wanted in zip(inputs.t(), targets.t(), strict=True):
        scores, state = steps.step(tokens, state)
        log_probs.append(scores.gather(1, wanted[:, None])[:, 0])
        weights.append(state.weights)
    return torch.stack(log_probs, dim=1).cpu(), torch.stack(weights, dim=1).cpu()
