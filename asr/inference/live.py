"""Live transcription: samples in, readings to be done out; their texts in, events out.

The listener of a LAS model reads both ways, so that no word is final before the audio
behind it is there. What is live is therefore this: a *piece* begins with speech and
ends at a pause, and its text is final when it was read as a whole. While it is open it
is read again after each 0.7 s of new audio, and the words on which two such readings in
a row agree are shown as provisional: they may change until the pause. (That is
LocalAgreement of Macháček, Dabre and Bojar 2023, arXiv:2307.14743, without its
promise to keep what was agreed on.) A piece in which nobody pauses is cut after 15 s,
as `segmentation` cuts recordings.

`LiveTranscriber` has no clock, thread or network. Whoever drives it feeds it samples,
does the one reading that it asks for when there is time, and gives the segment back:

    events = live.feed(samples)
    while reading := live.next_reading():
        events += live.done(recognize(reading.waveform))

Where recognition is slow, readings of the open piece are left out; audio never is. The
final texts depend on the samples alone, not on the blocks they come in or on the time
that readings take. What is kept is the open piece, those that wait to be read, and
nothing else: a day needs no more memory than a minute.

Shapes: N samples.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.inference.segmentation import (
    DEPTH,
    FLOOR,
    LONGEST,
    MARGIN,
    Pause,
    find_pauses,
    loudest,
    loudness,
    merge_segments,
    next_cut,
)
from asr.transcript import Segment, Word, moved, silence

DRAFT_BEAM = 8
"""Size of the beam for provisional words: half the time of a beam of 64."""
_TICK = SAMPLE_RATE // 10
"""Samples after which it is looked whether somebody speaks: whole blocks of the
session's clock, whatever the blocks that are fed."""
_BEFORE = SAMPLE_RATE
"""Samples that are kept while nobody speaks: the beginning of a word is in them."""
_LONGEST = round(LONGEST * SAMPLE_RATE)
_CLICK = 0.3
"""Seconds: a sound that is shorter (a click is 0.2 s, as loudness is measured) begins
no speech."""
_LEAST_DEPTH = 9.0
"""dB below speech that is a pause in noise, however loud that is."""
_NOISE_RISES, _SPEECH_FALLS = 0.1, 0.2
"""dB a tick: how fast what was learned of a room and a voice is given up."""


@dataclass(frozen=True)
class LiveConfig:
    """Settings of live transcription."""

    pause: float | None = 0.5
    """Seconds of a pause that end a piece; None where the caller ends it by `commit`,
    or 15 s do."""
    interval: float | None = 0.7
    """Seconds of new audio after which an open piece is read again; None for never."""
    margin: float = MARGIN
    """Seconds before speech that belong to its piece."""
    rise: float = 6.0
    """dB above the noise of the room that are speech."""

    def __post_init__(self) -> None:
        """Refuse the impossible."""
        for name, least, most in (
            ("pause", 0.1, 10.0),
            ("interval", 0.1, LONGEST),
            ("margin", 0.0, _BEFORE / SAMPLE_RATE),
            ("rise", 0.0, 60.0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} is {least:g} to {most:g}, not {value:g}")


class Reading(NamedTuple):
    """Audio that is to be recognised."""

    waveform: Tensor
    """(N,) at 16 kHz, at most 15 s."""
    is_final: bool
    """Whether its text will be final; else a smaller beam may do."""
    hotwords: tuple[str, ...] = ()
    """To favour: those of `LiveTranscriber.hotwords` when its audio ended."""


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks: a turn begins."""

    turn: int
    """Its number, from 0 on; a turn without any text has one, too."""
    start: float
    """Seconds on the session's clock."""


@dataclass(frozen=True)
class SpeechStopped:
    """A pause has ended a turn; its last text is still to come."""

    turn: int
    end: float
    """Seconds on the session's clock."""


@dataclass(frozen=True)
class Provisional:
    """All words that are shown but not final; they replace those shown before."""

    turn: int
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Final:
    """Text that will not change; nothing provisional is left before it."""

    turn: int
    segment: Segment
    """It has words. Times are those of the session's clock."""


@dataclass(frozen=True)
class Unread:
    """A piece that could not be recognised."""

    turn: int
    start: float
    """Seconds on the session's clock."""
    end: float


@dataclass(frozen=True)
class TurnEnded:
    """All text of a turn is there."""

    turn: int
    seconds: float
    """How much audio it had."""


Event = SpeechStarted | SpeechStopped | Provisional | Final | Unread | TurnEnded


class _Piece(NamedTuple):
    """A piece that has ended, and waits to be read."""

    turn: int
    start: int
    """Samples from the beginning of the session."""
    waveform: Tensor
    hotwords: tuple[str, ...] = ()
    overlap: int = 0
    """Samples at its beginning that the piece before it has too."""
    is_repeated: bool = False
    """Whether its own end is in the next piece too."""
    is_silent: bool = False
    turn_seconds: float | None = None
    """How long the turn was, in its last piece."""

    @property
    def end(self) -> int:
        """Samples from the beginning of the session."""
        return self.start + len(self.waveform)


class LiveTranscriber:
    """Decides what of a stream of samples is read when, and what of it is final.

    Args:
        config: its settings.
    """

    def __init__(self, config: LiveConfig | None = None) -> None:
        self.config = config or LiveConfig()
        self.hotwords: tuple[str, ...] = ()
        """To favour in what ends from now on, however late it is read."""
        self._rest = torch.zeros(0)  # of a tick
        self._window, self._start = torch.zeros(0), 0
        self._overlap = 0
        self._is_open = False
        self._turn, self._turn_start = 0, 0
        self._pause = 0.0  # seconds, at the end of the window
        self._speech, self._noise = FLOOR, 0.0
        self._waiting = deque[_Piece]()
        self._reading: _Piece | None = None
        self._held: Segment | None = None  # its end is read again
        self._draft: tuple[Word, ...] = ()
        self._draft_end = 0
        self._shown: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How much audio there was: the session's clock."""
        return (self._start + len(self._window) + len(self._rest)) / SAMPLE_RATE

    @property
    def unread_seconds(self) -> float:
        """How much audio has ended and is not read yet."""
        pieces = self._waiting
        samples = sum(len(p.waveform) - p.overlap for p in pieces if not p.is_silent)
        return samples / SAMPLE_RATE

    @property
    def turn(self) -> int | None:
        """The turn that is open, if one is."""
        is_open = self._is_open or (self.config.pause is None and len(self._rest) > 0)
        return self._turn if is_open else None

    def has_turn(self, turn: int) -> bool:
        """Return whether text of a turn may still come."""
        return turn == self.turn or any(p.turn == turn for p in self._waiting)

    def configure(self, config: LiveConfig) -> list[Event]:
        """Go on with other settings; a turn that is open ends first."""
        events = self.commit() if self.turn is not None else []
        self.config = config
        return events

    def feed(self, samples: Tensor) -> list[Event]:
        """Take (N,) samples at 16 kHz, of any number."""
        events = list[Event]()
        samples = torch.cat((self._rest, samples))
        whole = len(samples) // _TICK * _TICK
        for start in range(0, whole, _TICK):
            tick = samples[start : start + _TICK]
            self._window = torch.cat((self._window, tick))
            if self.config.pause is None:
                events += self._begin(0) if not self._is_open else []
            else:
                events += self._look(self.config.pause)
            while len(self._window) > _LONGEST and self._is_open:
                self._cut()
        self._rest = samples[whole:].clone()
        return [*events, *self._settle()]

    def commit(self) -> list[Event]:
        """End the turn here, as at the end of a recording."""
        self._window, self._rest = torch.cat((self._window, self._rest)), torch.zeros(0)
        events = list[Event]()
        if not self._is_open and len(self._window):
            begin = 0 if self.config.pause is None else self._sound(least=0.0)
            events = [] if begin is None else self._begin(begin)
        if self._is_open:
            while len(self._window):
                self._cut()
            self._end_turn()
        self._drop()
        return [*events, *self._settle()]

    def clear(self) -> list[Event]:
        """Forget the audio of the open turn, but for pieces that have ended."""
        self._window, self._rest = torch.cat((self._window, self._rest)), torch.zeros(0)
        if self._is_open and self._start > self._turn_start:
            self._end_turn()
        elif self._is_open:
            self._turn, self._is_open = self._turn + 1, False
        self._drop()
        return self._settle()

    def next_reading(self) -> Reading | None:
        """Return what is to be recognised next, unless something is already.

        Its segment goes to `done`; where there is none, `failed` is called.
        """
        if self._reading:
            return None
        if self._waiting:
            piece = self._reading = self._waiting[0]
            return Reading(piece.waveform, is_final=True, hotwords=piece.hotwords)
        end, interval = self._start + len(self._window), self.config.interval
        since = end - max(self._draft_end, self._start + self._overlap)
        if interval is None or not self._is_open or since < interval * SAMPLE_RATE:
            return None
        if self._pause > (self.config.pause or LONGEST) / 2:
            return None  # the final reading is near, and would have to wait
        self._draft_end = end
        self._reading = self._piece(self._window)
        return Reading(self._window, is_final=False, hotwords=self.hotwords)

    def done(self, segment: Segment) -> list[Event]:
        """Take the segment of the reading, which starts at 0 as a recognizer has it.

        Raises:
            ValueError: no reading is under way.
        """
        reading = self._taken()
        segment = moved(segment, reading.start / SAMPLE_RATE)
        if not self._waiting or reading is not self._waiting[0]:
            return self._agree(reading, segment)
        self._waiting.popleft()
        return [*self._finish(reading, segment), *self._settle()]

    def failed(self) -> list[Event]:
        """Go on without the reading: nothing could be recognised.

        Raises:
            ValueError: no reading is under way.
        """
        reading = self._taken()
        if not self._waiting or reading is not self._waiting[0]:
            return []
        self._waiting.popleft()
        start = (reading.start + reading.overlap) / SAMPLE_RATE
        unread = Unread(reading.turn, start, reading.end / SAMPLE_RATE)
        events = [*self._release(reading.turn), *self._show(reading.turn, ()), unread]
        return [*events, *_end(reading), *self._settle()]

    def _taken(self) -> _Piece:
        if self._reading is None:
            raise ValueError("no reading is under way")
        reading, self._reading = self._reading, None
        return reading

    # What the samples decide

    def _look(self, pause: float) -> list[Event]:
        """See whether speech begins or ends with the last tick."""
        if not self._is_open:
            begin = self._sound(_CLICK)
            if begin is not None:
                return self._begin(begin)
            self._speech = max(self._speech - _SPEECH_FALLS, FLOOR)
            self._forget(len(self._window) - _BEFORE)
            return []
        last = self._pauses(_LEAST_DEPTH)[-1:]
        at_end = bool(last) and last[0].end == len(self._window)
        self._pause = last[0].seconds if at_end else 0.0
        if self._pause < pause:
            return []
        self._speech = loudest(loudness(self._window.numpy()), self._speech)
        margin = round(MARGIN * SAMPLE_RATE)
        end = max(min(last[0].start + margin, last[0].end), self._overlap)
        self._push(end, is_silent=last[0].start == 0)
        stopped = SpeechStopped(self._turn, self._start / SAMPLE_RATE)
        self._end_turn()
        return [stopped]

    def _pauses(self, least_depth: float) -> list[Pause]:
        """Find the pauses of the window.

        Args:
            least_depth: dB below the loudest that a pause has at least, in noise, too.
        """
        levels = loudness(self._window.numpy())
        self._noise = max(min(self._noise + _NOISE_RISES, float(levels.min())), FLOOR)
        loud = loudest(levels, self._speech)
        noise = min(self._noise + self.config.rise, loud - least_depth)
        return find_pauses(levels, max(loud - DEPTH, noise), len(self._window))

    def _sound(self, least: float) -> int | None:
        """Return where the first sound of some seconds begins in the window."""
        pauses = self._pauses(-self.config.rise)
        edges = [0, *(edge for pause in pauses for edge in pause), len(self._window)]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start > least * SAMPLE_RATE:
                return max(0, start - round(self.config.margin * SAMPLE_RATE))
        return None

    def _begin(self, begin: int) -> list[Event]:
        """Open a turn in the window."""
        self._forget(begin)
        self._is_open, self._turn_start, self._pause = True, self._start, 0.0
        if self.config.pause is None:
            return []
        return [SpeechStarted(self._turn, self._start / SAMPLE_RATE)]

    def _cut(self) -> None:
        """End a piece as a recording is cut, and the turn goes on."""
        window = self._window[: _LONGEST + 1]
        cut, self._speech = next_cut(window.numpy(), self._speech)
        self._push(cut.end, cut.overlap, cut.silent)

    def _push(self, end: int, repeated: int = 0, is_silent: bool = False) -> None:
        """End a piece there; so many samples of it are the next one's, too."""
        piece = self._piece(self._window[:end].clone())
        self._waiting.append(
            piece._replace(is_repeated=repeated > 0, is_silent=is_silent)
        )
        self._overlap = repeated
        self._forget(end - repeated)

    def _piece(self, waveform: Tensor) -> _Piece:
        """Return a piece of the open turn: the window up to some sample."""
        return _Piece(self._turn, self._start, waveform, self.hotwords, self._overlap)

    def _end_turn(self) -> None:
        """Let the turn end with the pieces that it has."""
        seconds = (self._start - self._turn_start) / SAMPLE_RATE
        end = _Piece(self._turn, self._start, torch.zeros(0), is_silent=True)
        self._waiting.append(end._replace(turn_seconds=seconds))
        self._turn, self._is_open, self._overlap = self._turn + 1, False, 0

    def _forget(self, num_samples: int) -> None:
        """Drop samples at the beginning of the window."""
        if num_samples > 0:
            self._window = self._window[num_samples:].clone()
            self._start += num_samples
            self._draft = ()

    def _drop(self) -> None:
        self._forget(len(self._window))
        self._overlap = 0

    # What the readings decide

    def _settle(self) -> list[Event]:
        """Finish the pieces in which there is nothing to read."""
        events = list[Event]()
        while self._waiting and self._waiting[0].is_silent:
            piece = self._waiting.popleft()
            seconds = len(piece.waveform) / SAMPLE_RATE
            quiet = moved(silence(seconds), piece.start / SAMPLE_RATE)
            events += self._finish(piece, quiet)
        return events

    def _finish(self, piece: _Piece, segment: Segment) -> list[Event]:
        """Take the text of a piece as final, but for what is read again."""
        events = list[Event]()
        if self._held and piece.overlap:
            self._held, segment = merge_segments(self._held, segment)
        events += self._release(piece.turn)
        self._held = segment
        if piece.is_repeated:
            return [*events, *self._show(piece.turn, segment.words)]
        return [*events, *self._release(piece.turn), *_end(piece)]

    def _release(self, turn: int) -> list[Event]:
        """Let what was held be final."""
        held, self._held = self._held, None
        if not held:
            return []
        if not held.words:
            return self._show(turn, ())
        self._shown = ()
        return [Final(turn, held)]

    def _agree(self, reading: _Piece, segment: Segment) -> list[Event]:
        """Show the words on which the last two readings of the open piece agree."""
        if not self._is_open or reading.start != self._start:
            return []  # it has ended meanwhile
        agreed = _common(self._draft, segment.words)
        self._draft = segment.words
        if not agreed and self._held:
            return self._show(reading.turn, self._held.words)
        if self._held:
            part = replace(segment, words=agreed, alignment=None)
            both = merge_segments(self._held, part)
            agreed = (*both[0].words, *both[1].words)
        return self._show(reading.turn, agreed)

    def _show(self, turn: int, words: tuple[Word, ...]) -> list[Event]:
        """Return what is shown now, if it is something else than before."""
        texts = tuple(word.text for word in words)
        if texts == self._shown:
            return []
        self._shown = texts
        return [Provisional(turn, words)]


def _common(before: Sequence[Word], after: tuple[Word, ...]) -> tuple[Word, ...]:
    """Return the words of a reading up to the first that the one before has not."""
    number = 0
    for left, right in zip(before, after, strict=False):
        if left.text != right.text:
            break
        number += 1
    return after[:number]


def _end(piece: _Piece) -> list[Event]:
    """Return the end of the turn, if the piece is its last one."""
    if piece.turn_seconds is None:
        return []
    return [TurnEnded(piece.turn, piece.turn_seconds)]
