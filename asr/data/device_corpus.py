"""A corpus whose recordings lie in the device's memory, and are augmented there.

Waveforms are kept as 16-bit numbers, at every speed that training plays them at. What a
batch needs from the CPU is a few numbers an utterance; noise, rooms, features and
SpecAugment are worked out where the network is, for all rows of a batch at a time.
Chance is that of `Dataset`: the same utterance in the same epoch gets the same speed,
the same noise and the same stripes.

A corpus that is too large is read ahead of its use by processes that decode it (threads
share one lock), into pinned memory.

Shapes: B utterances, N samples, T frames, I tokens.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from asr.audio import SAMPLE_RATE
from asr.data.batching import Batch
from asr.data.dataset import Augmentation, Dataset
from asr.data.disturbances import NOTHING
from asr.data.length_classes import ClassBatch, Length, LengthClass
from asr.data.manifest import Utterance
from asr.data.recordings import read_utterance
from asr.errors import AudioError, ConfigError, TrainingError
from asr.features import (
    HOP,
    batch_log_mel,
    blank_stripes,
    change_speed,
    draw_stripes,
)
from asr.forking import end_with_parent
from asr.progress import progress_bar
from asr.runtime import send, use_one_thread

_LOUDEST = 32767
_AT_A_TIME = 16
_ROUNDED = 2 * HOP
"""Samples at the end of a recording that may be cut off: a manifest's durations are
rounded, and what is read ahead gets its place by them."""
_AHEAD = 4
"""Batches that each reading process has ready."""


class DeviceCorpus:
    """The utterances of a dataset as batches of fixed shapes on a device.

    Args:
        dataset: of the training, with its augmentation.
        device: where the batches are needed.
        device_hours: most hours of audio, at all speeds, that are kept there
            (0.12 GB each).
        processes: that decode; 1 for this one alone, None for one a core.

    Raises:
        AudioError: a recording cannot be read.
        ConfigError: there is no memory for that many hours.
        TrainingError: a process that reads died.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        device_hours: float,
        processes: int | None = None,
    ) -> None:
        assert dataset.augmentation is not None
        self.dataset, self.device = dataset, device
        self.augmentation: Augmentation = dataset.augmentation
        self.speeds = list(dict.fromkeys(self.augmentation.config.speeds))
        self.processes = processes or len(os.sched_getaffinity(0))
        self._num_tokens = [len(tokens) for tokens in dataset.tokens]
        seconds = sum(dataset.durations) * sum(1 / speed for speed in self.speeds)
        self.waveforms: Tensor | None = None
        self._places = np.zeros((len(dataset), len(self.speeds), 2), np.int64)
        if seconds <= 3600 * device_hours:
            self._read(seconds)
        else:
            for index, duration in enumerate(dataset.durations):
                for place, speed in enumerate(self.speeds):
                    samples = round(duration / speed * SAMPLE_RATE)
                    self._places[index, place, 1] = samples
        self.bank = dataset.bank.to(device)
        self.expected: list[Tensor] | None = None
        """(I + 1,) seconds, at speed 1, at which each token of an utterance is
        expected, and <eos>; None where nobody knows."""

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self.dataset)

    def lengths(self, epoch: int | None = None) -> list[Length]:
        """Return how long each utterance is in an epoch; None for all speeds."""
        found = list[Length]()
        for index, num_tokens in enumerate(self._num_tokens):
            speeds: Iterable[int] = range(len(self.speeds))
            if epoch is not None:
                speeds = (self._speed(epoch, index),)
            for speed in speeds:
                samples = int(self._places[index, speed, 1])
                found.append(Length(1 + samples // HOP, num_tokens))
        return found

    def load(
        self,
        batches: Iterable[tuple[ClassBatch, float]],
        epoch: int,
        reduction: int = 4,
    ) -> Generator[Batch, None, None]:
        """Make batches, one after the other; nothing waits for the device.

        Args:
            batches: and how strong their augmentation is (0 to 1).
            epoch: for the augmentation.
            reduction: frames of a listener's step, for where tokens are expected.

        Raises:
            AudioError: a recording cannot be read.
        """
        asked = deque[tuple[ClassBatch, float]]()

        def wanted() -> Iterator[_Wanted]:  # batches are asked for as late as possible
            for batch, strength in batches:
                asked.append((batch, strength))
                speeds = [self._speed(epoch, index) for index in batch.indexes]
                yield _Wanted(batch, speeds)

        for x, lengths in self._samples(wanted(), length_hint(batches, self.processes)):
            batch, strength = asked.popleft()
            yield self._make(batch, x, lengths, epoch, strength, reduction)

    def plain(
        self, batches: Sequence[ClassBatch]
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Make (B, T, F) features of recordings as they are, and (B,) their frames.

        They are played at `plain_speed`.
        """
        place = self.speeds.index(self.plain_speed)
        wanted = (_Wanted(batch, [place] * len(batch.indexes)) for batch in batches)
        for x, lengths in self._samples(wanted, len(batches)):
            lengths = lengths.clamp_min(1)
            filters = self.bank.mel_filters(())
            yield (
                batch_log_mel(x, send(lengths, self.device), filters),
                1 + lengths // HOP,
            )

    @property
    def plain_speed(self) -> float:
        """The speed that is nearest to that of the recordings."""
        return min(self.speeds, key=lambda speed: abs(speed - 1))

    def plain_lengths(self) -> list[Length]:
        """Return how long each utterance is at `plain_speed`."""
        place = self.speeds.index(self.plain_speed)
        samples = self._places[:, place, 1].tolist()
        return [
            Length(1 + count // HOP, num_tokens)
            for count, num_tokens in zip(samples, self._num_tokens, strict=True)
        ]

    def _samples(
        self, wanted: Iterator["_Wanted"], about: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (B, N) samples on the device and (B,) how many are real.

        Args:
            wanted: batches.
            about: how many they are.
        """
        if self.waveforms is not None:
            return (self._gather(batch, speeds) for batch, speeds in wanted)
        return self._read_ahead(wanted, about)

    def _read_ahead(
        self, wanted: Iterator["_Wanted"], about: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Let processes read what is wanted, some batches ahead."""
        loader = DataLoader(
            _Samples(self.dataset.utterances, self.speeds),
            batch_size=None,
            sampler=wanted,
            pin_memory=self.device.type == "cuda",
            **self._workers(about),
        )
        try:
            for found in loader:
                if isinstance(found, AudioError):
                    raise found
                packed, lengths = found
                on_device = packed.to(self.device, non_blocking=True)
                yield on_device.float() / _LOUDEST, lengths
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise _reader_died(error) from error

    def fitting(self, shape: LengthClass) -> list[int]:
        """Return utterances that fit into a batch of a shape in the first epoch."""
        fits = [
            index
            for index, length in enumerate(self.lengths(0))
            if length.frames <= shape.frames and length.tokens <= shape.tokens
        ]
        return fits[-shape.rows :]

    def _speed(self, epoch: int, index: int) -> int:
        return self.speeds.index(self.augmentation.speed(epoch, index))

    def _read(self, seconds: float) -> None:
        """Decode everything, about so many seconds, into the device's memory."""
        count = len(self.dataset)
        room = round(seconds * SAMPLE_RATE * 1.02) + count * SAMPLE_RATE
        with _memory_of(seconds):
            flat = torch.empty(room, dtype=torch.int16)
        at = 0
        with (
            self._decoded() as found,
            progress_bar(count, "read", "utt") as bar,
        ):
            for index, versions in enumerate(found):
                for place, samples in enumerate(versions):
                    end = at + len(samples)
                    if end > len(flat):
                        more = torch.empty(len(flat) // 2 + end, dtype=torch.int16)
                        flat = torch.cat((flat[:at], more))
                    flat[at:end] = torch.from_numpy(samples)
                    self._places[index, place] = at, len(samples)
                    at = end
                bar.update()
        with _memory_of(seconds):
            self.waveforms = flat[:at].to(self.device)

    def _workers(self, batches: int) -> dict[str, Any]:
        """Return the arguments of a `DataLoader` about processes."""
        if self.processes == 1:
            return {}
        return {
            "num_workers": max(1, min(self.processes, batches)),
            "prefetch_factor": _AHEAD,
            "multiprocessing_context": "forkserver",
            "worker_init_fn": _begin_reading,
        }

    @contextmanager
    def _decoded(self) -> Iterator[Iterator[list[np.ndarray]]]:
        """Decode all recordings, in order, at all speeds."""
        utterances = self.dataset.utterances
        decode = partial(_decode, speeds=self.speeds)
        if self.processes == 1:
            yield map(decode, utterances)
            return
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(self.processes, context, _begin_reading)
        try:
            yield pool.map(decode, utterances, chunksize=_AT_A_TIME)
        except BrokenProcessPool as error:
            raise _reader_died(error) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _gather(
        self, batch: ClassBatch, speeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return (B, N) samples on the device and (B,) how many are real."""
        assert self.waveforms is not None
        frames, _, rows = batch.shape
        places = torch.zeros(rows, 2, dtype=torch.int64)
        for row, (index, speed) in enumerate(zip(batch.indexes, speeds, strict=True)):
            places[row] = torch.from_numpy(self._places[index, speed])
        start, length = send(places, self.device).unbind(dim=1)
        steps = torch.arange(frames * HOP - 1, device=self.device)
        at = (start[:, None] + steps).clamp_max(len(self.waveforms) - 1)
        x = self.waveforms[at].float() / _LOUDEST
        return x * (steps < length[:, None]), places[:, 1]

    def _make(
        self,
        batch: ClassBatch,
        x: Tensor,
        lengths: Tensor,
        epoch: int,
        strength: float,
        reduction: int,
    ) -> Batch:
        """Turn (B, N) samples into a batch; tokens stay on the CPU."""
        indexes, shape = batch.indexes, batch.shape
        lengths = lengths.clamp_min(1)  # a row without an utterance is one of silence
        on_device = send(lengths, self.device)
        features = self._features(batch, x, on_device, epoch, strength)
        blanked = self._blanked(batch, lengths, epoch, strength)
        tokens = [self.dataset.tokens[index] for index in indexes]
        fed = [
            given
            for index, row in zip(indexes, tokens, strict=True)
            if (given := self._fed(epoch, index, row)) is not None
        ]
        num_tokens = torch.zeros(shape.rows, dtype=torch.int64)
        num_tokens[: len(indexes)] = torch.tensor([len(row) for row in tokens])
        return Batch(
            [self.dataset.utterances[index].id for index in indexes],
            blank_stripes(features, *blanked),
            1 + lengths // HOP,
            _filled(tokens, shape.rows, shape.tokens),
            num_tokens,
            float(lengths[: len(indexes)].sum()) / SAMPLE_RATE,
            _filled(fed, shape.rows, shape.tokens) if fed else None,
            self._expected(batch, epoch, reduction),
        )

    def _fed(self, epoch: int, index: int, tokens: Tensor) -> Tensor | None:
        return self.augmentation.inputs(epoch, index, tokens, self.dataset.alphabet)

    def _features(
        self,
        batch: ClassBatch,
        x: Tensor,
        lengths: Tensor,
        epoch: int,
        strength: float,
    ) -> Tensor:
        """(B, N), (B,) on the device -> (B, T, F), disturbed."""
        augmentation = self.augmentation
        drawn = [augmentation.disturbance(epoch, i, strength) for i in batch.indexes]
        drawn += [NOTHING] * (batch.shape.rows - len(drawn))
        x = self.bank.disturb(x, lengths, drawn)
        return batch_log_mel(x, lengths, self.bank.mel_filters(drawn))

    def _blanked(
        self, batch: ClassBatch, lengths: Tensor, epoch: int, strength: float
    ) -> tuple[Tensor, Tensor]:
        """Draw (B, M, 2) stripes of bands and (B, M', 2) of frames, on the device."""
        config = self.augmentation.config
        bands = torch.zeros(batch.shape.rows, config.frequency_masks, 2).long()
        frames = torch.zeros(batch.shape.rows, config.time_masks, 2).long()
        for row, index in enumerate(batch.indexes):
            count = 1 + int(lengths[row]) // HOP
            chance = self.augmentation.masks(epoch, index)
            stripes = draw_stripes(count, config, strength, chance)
            bands[row] = torch.tensor(stripes.bands).reshape(-1, 2)
            frames[row] = torch.tensor(stripes.frames).reshape(-1, 2)
        return send(bands, self.device), send(frames, self.device)

    def _expected(self, batch: ClassBatch, epoch: int, reduction: int) -> Tensor | None:
        """(B, I + 1) listener steps at which tokens are expected."""
        if self.expected is None:
            return None
        steps = torch.zeros(batch.shape.rows, batch.shape.tokens + 1)
        for row, index in enumerate(batch.indexes):
            speed = self.speeds[self._speed(epoch, index)]
            seconds = self.expected[index]
            scale = SAMPLE_RATE / HOP / reduction / speed
            steps[row, : len(seconds)] = seconds * scale
        return steps


@contextmanager
def _memory_of(seconds: float) -> Iterator[None]:
    """Let a lack of memory for so much audio be an error of the settings."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            f"training.device_hours: there is no memory for {seconds / 3600:.1f} h of "
            "audio, at all speeds (with a smaller number it is read ahead)"
        ) from error


def _filled(rows: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Put (I,) rows into (height, width), zero where there is nothing."""
    filled = torch.zeros(height, width, dtype=torch.int64)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled


def _decode(utterance: Utterance, speeds: Sequence[float]) -> list[np.ndarray]:
    """Read a recording, at several speeds, as 16-bit numbers."""
    waveform = read_utterance(utterance)
    return [_packed(change_speed(waveform, speed)) for speed in speeds]


def _packed(waveform: Tensor) -> np.ndarray:
    packed: np.ndarray = (waveform.clamp(-1, 1) * _LOUDEST).round().short().numpy()
    return packed


def _begin_reading(number: int = 0) -> None:
    """Be a process that reads, which no signal to all reaches: another one stops it."""
    del number  # of the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    use_one_thread()


def _reader_died(error: Exception) -> TrainingError:
    return TrainingError(
        f"a process that reads recordings died ({str(error).splitlines()[0]}; maybe "
        "there was not memory enough)"
    )


class _Wanted(NamedTuple):
    """A batch, and for each of its utterances the place of its speed."""

    batch: ClassBatch
    speeds: list[int]


class _Samples(torch.utils.data.Dataset[tuple[Tensor, Tensor] | AudioError]):
    """Batches of waveforms as processes read them."""

    def __init__(
        self, utterances: Sequence[Utterance], speeds: Sequence[float]
    ) -> None:
        self.utterances, self.speeds = utterances, speeds

    def __getitem__(self, wanted: _Wanted) -> tuple[Tensor, Tensor] | AudioError:
        """Return (B, N) 16-bit samples and (B,) how many are real.

        An error is returned, not raised: a `DataLoader` would put a traceback into it.
        """
        try:
            return self._read(*wanted)
        except AudioError as error:
            return error

    def _read(self, batch: ClassBatch, speeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        frames, _, rows = batch.shape
        room = frames * HOP - 1
        packed = torch.zeros(rows, room, dtype=torch.int16)
        lengths = torch.zeros(rows, dtype=torch.int64)
        for row, (index, place) in enumerate(zip(batch.indexes, speeds, strict=True)):
            utterance = self.utterances[index]
            (samples,) = _decode(utterance, (self.speeds[place],))
            if len(samples) > room + _ROUNDED:
                raise AudioError(
                    f"{utterance.audio}: lasts longer than in its manifest, "
                    f"{utterance.duration:.2f} s (prepare the data again)"
                )
            samples = samples[:room]
            packed[row, : len(samples)] = torch.from_numpy(samples)
            lengths[row] = len(samples)
        return packed, lengths
