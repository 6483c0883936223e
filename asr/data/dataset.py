"""From an utterance to what the network learns from: features and tokens.

What chance does to an utterance in an epoch is a function of (seed, epoch, utterance)
alone, so that a training that was stopped goes on as if it had not been.
"""

import math
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, overload

import torch
from torch import Tensor

from asr.data.disturbances import (
    NOTHING,
    Disturbance,
    DisturbanceBank,
    draw_disturbance,
)
from asr.data.joining import joined_text, neighbours
from asr.data.manifest import Utterance, spread
from asr.data.recordings import read_utterance
from asr.data.shards import ShardedUtterances
from asr.errors import ManifestError
from asr.features import (
    AugmentConfig,
    batch_log_mel,
    change_speed,
    log_mel,
    spec_augment,
)
from asr.text import Tokenizer

LONGEST_JOINED = 30.0
"""Seconds of two utterances in a row, beyond which they stay apart."""
_VOICES = 64
"""Utterances that voices in the background are made of."""


@dataclass(frozen=True)
class Augmentation:
    """How training augments the utterances of an epoch."""

    config: AugmentConfig
    seed: int
    room: float = math.inf
    """Seconds of an utterance, before its speed is changed, that a batch has room for.
    """

    @property
    def disturbs(self) -> bool:
        """Whether the waveforms or their filters change, beside their speed."""
        c = self.config
        return any((c.noise, c.babble, c.room, c.band, c.clipping, c.stretch))

    def speed(self, epoch: int, index: int) -> float:
        """Return the speed at which utterance `index` is played in an epoch."""
        rng = random.Random(f"speed {self.seed} {epoch} {index}")
        return rng.choice(self.config.speeds)

    def joins(self, epoch: int, index: int) -> bool:
        """Return whether utterance `index` goes on with the next one in an epoch."""
        if not self.config.join:
            return False
        rng = random.Random(f"join {self.seed} {epoch} {index}")
        return rng.random() < self.config.join

    def masks(self, epoch: int, index: int) -> random.Random:
        """Return the source of chance for the masks of utterance `index`."""
        return random.Random(f"masks {self.seed} {epoch} {index}")

    def disturbance(self, epoch: int, index: int, strength: float) -> Disturbance:
        """Draw what is done to the recording of utterance `index`."""
        if not self.disturbs:
            return NOTHING
        rng = random.Random(f"disturbance {self.seed} {epoch} {index}")
        return draw_disturbance(self.config, strength, rng)

    def inputs(
        self, epoch: int, index: int, tokens: Tensor, alphabet: range
    ) -> Tensor | None:
        """Replace some of the (I,) characters that the speller is fed with.

        Args:
            epoch: in each others are replaced.
            index: place of the utterance.
            tokens: that were said.
            alphabet: tokens that write something.

        Returns:
            (I,) characters; None where all are as they were.
        """
        if not self.config.characters:
            return None
        rng = random.Random(f"characters {self.seed} {epoch} {index}")
        return torch.tensor(
            [
                rng.choice(alphabet) if rng.random() < self.config.characters else token
                for token in tokens.tolist()
            ],
            dtype=torch.int64,
        )


class Example(NamedTuple):
    """One utterance, ready for the network."""

    features: Tensor
    """(T, F)."""
    tokens: Tensor
    """(I,) int64, without <sos> and <eos>."""
    inputs: Tensor | None = None
    """(I,) what the speller is fed with after <sos>, if it is not the tokens."""


class Dataset:
    """The utterances of a manifest as examples; safe to use from several threads.

    Args:
        utterances: what to learn from; those of shards are read as they are needed. A
            text must be in the tokenizer's alphabet.
        tokenizer: turns text into tokens.
        augmentation: None for validation: the utterances as they are.
        cache_hours: hours of audio that are kept in memory once they were read
            (0.23 GB an hour).

    Raises:
        ManifestError: a text has a character that is not in the alphabet.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        augmentation: Augmentation | None = None,
        cache_hours: float = 0.0,
    ) -> None:
        self.utterances: Sequence[Utterance]
        self.tokens: Sequence[Tensor]
        self.durations: Sequence[float]
        """Seconds of each utterance, as its manifest has them."""
        if isinstance(utterances, ShardedUtterances):
            self.utterances, self.durations = utterances, utterances.durations
            self.tokens = _ShardedTokens(utterances, tokenizer)
        else:
            self.utterances = list(utterances)
            self.durations = [utterance.duration for utterance in utterances]
            self.tokens = [_encode(utterance, tokenizer) for utterance in utterances]
        self.augmentation = augmentation
        self.alphabet = range(tokenizer.eos + 1, tokenizer.size)
        self._tokenizer = tokenizer
        self._cache = dict[int, Tensor]()
        self._room = cache_hours * 3600
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self.utterances)

    def duration(self, index: int, epoch: int) -> float:
        """Length in seconds of utterance `index`, as it is played in an epoch."""
        speed = self.augmentation.speed(epoch, index) if self.augmentation else 1.0
        return sum(self.durations[i] for i in self._parts(epoch, index)) / speed

    def _parts(self, epoch: int, index: int) -> tuple[int, ...]:
        """Return what an example is made of: an utterance, and maybe the next one."""
        after = index + 1
        if not self.augmentation or not self.augmentation.joins(epoch, index):
            return (index,)
        if after == len(self) or not self._go_together(index, after):
            return (index,)
        return index, after

    def _go_together(self, one: int, other: int) -> bool:
        assert self.augmentation is not None
        seconds = self.durations[one] + self.durations[other]
        if seconds > min(LONGEST_JOINED, self.augmentation.room):
            return False
        first, second = self.utterances[one], self.utterances[other]
        if not first.speaker and not second.speaker:
            return len(neighbours([first, second])) == 1
        return first.speaker == second.speaker

    def example(self, index: int, epoch: int = 0, strength: float = 1.0) -> Example:
        """Make the example of utterance `index`.

        Args:
            index: place in the manifest.
            epoch: the augmentation is another one in each.
            strength: 0 to 1, of the masks.

        Raises:
            AudioError: the recording cannot be read.
        """
        parts = self._parts(epoch, index)
        if len(parts) == 1:
            waveform, tokens = self.waveform(index), self.tokens[index]
        else:
            waveform = torch.cat([self.waveform(part) for part in parts])
            text = joined_text(self.utterances[part] for part in parts)
            tokens = _tokens(text, self._tokenizer)
        augmentation = self.augmentation
        if augmentation is None:
            return Example(log_mel(waveform), tokens)
        waveform = change_speed(waveform, augmentation.speed(epoch, index))
        drawn = augmentation.disturbance(epoch, index, strength)
        if drawn == NOTHING:
            features = log_mel(waveform)
        else:
            length, bank = torch.tensor([len(waveform)]), self.bank
            disturbed = bank.disturb(waveform[None], length, [drawn])
            filters = bank.mel_filters([drawn])
            features = batch_log_mel(disturbed, length, filters)[0]
        rng = augmentation.masks(epoch, index)
        masked = spec_augment(features, augmentation.config, strength, rng)
        inputs = augmentation.inputs(epoch, index, tokens, self.alphabet)
        return Example(masked, tokens, inputs)

    @cached_property
    def bank(self) -> DisturbanceBank:
        """Noises, voices and rooms that the recordings are disturbed with."""
        assert self.augmentation is not None
        config, seed = self.augmentation.config, self.augmentation.seed
        some = spread(range(len(self)), _VOICES) if config.babble else ()
        return DisturbanceBank(config, seed, [self.waveform(index) for index in some])

    def waveform(self, index: int) -> Tensor:
        """Read the recording of utterance `index`; (N,) samples at 16 kHz."""
        waveform = self._cache.get(index)
        if waveform is None:
            utterance = self.utterances[index]
            if isinstance(self.utterances, ShardedUtterances):
                self.utterances.read_ahead(index)
            waveform = read_utterance(utterance)
            with self._lock:
                if index not in self._cache and self._room >= utterance.duration:
                    self._room -= utterance.duration
                    self._cache[index] = waveform
        return waveform


class _ShardedTokens(Sequence[Tensor]):
    """The tokens of utterances in shards, made when they are asked for.

    Raises:
        ManifestError: a text has a character that is not in the alphabet.
    """

    def __init__(self, utterances: ShardedUtterances, tokenizer: Tokenizer) -> None:
        self._utterances, self._tokenizer = utterances, tokenizer
        letters = set[str]()
        for utterance in utterances:
            letters.update(utterance.text)
        try:
            tokenizer.encode("".join(sorted(letters)))
        except ValueError:  # better now than after hours
            for utterance in utterances:
                _encode(utterance, tokenizer)

    def __len__(self) -> int:
        return len(self._utterances)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _encode(self._utterances[index], self._tokenizer)


def _encode(utterance: Utterance, tokenizer: Tokenizer) -> Tensor:
    try:
        return _tokens(utterance.text, tokenizer)
    except ValueError as error:
        raise ManifestError(
            f"{utterance.id}: {error} (tokenizer.alphabet=auto learns what the texts "
            "have)"
        ) from error


def _tokens(text: str, tokenizer: Tokenizer) -> Tensor:
    return torch.tensor(tokenizer.encode(text), dtype=torch.int64)
