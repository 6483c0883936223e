"""Play utterances in real time to live transcription, and measure how late words are.

    python -m tools.live_latency data/dev-clean.held.jsonl --number 20

Latency is counted on the clock of the player: the first provisional word from the
start of the first word, and the final text from the end of the last word, both as
`asr transcribe` finds them in the whole utterance. Recognition is in the same thread
as the player, as in `asr live`: what comes meanwhile waits. Word errors of the final
texts stand beside those of `asr transcribe`, on the same utterances.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.manifest import Utterance, read_manifest, spread
from asr.inference.live import (
    Event,
    Final,
    LiveConfig,
    LiveTranscriber,
    Provisional,
    Reading,
)
from asr.inference.recognizer import Recognizer
from asr.memory import keep_freed_memory
from asr.runtime import use_one_thread
from asr.scoring import word_error_rate
from asr.transcript import Segment

BLOCK = SAMPLE_RATE // 20
"""Samples that a microphone gives at once."""
BEFORE, AFTER = 0.5, 2.0
"""Seconds of silence around an utterance."""


@dataclass
class Measured:
    """What was measured."""

    first: list[float] = field(default_factory=list)
    """Seconds from the start of the first word to the first word shown."""
    final: list[float] = field(default_factory=list)
    """Seconds from the end of the last word to the last final text."""
    pieces: int = 0
    cpu: float = 0.0
    seconds: float = 0.0
    references: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


class Clock:
    """The seconds of a player.

    Args:
        kind: "real"; or "cpu", which counts the CPU time of this process, and lets
            waiting cost nothing: a machine that others use is as fast as an idle one.
    """

    def __init__(self, kind: str) -> None:
        self._time = time.monotonic if kind == "real" else time.process_time
        self._is_real = kind == "real"
        self._start = self._time()

    def now(self) -> float:
        """Return the seconds since the clock was made."""
        return self._time() - self._start

    def wait(self, seconds: float) -> None:
        """Let some seconds pass."""
        if self._is_real:
            time.sleep(seconds)
        else:
            self._start -= seconds


class Player:
    """Plays a waveform to live transcription by a clock."""

    def __init__(
        self, recognizer: Recognizer, draft: Recognizer, config: LiveConfig, clock: str
    ) -> None:
        self.recognizer, self.draft = recognizer, draft
        self.config, self.clock = config, clock

    def play(self, waveform: Tensor) -> list[tuple[float, Event]]:
        """Return the events, each with the second of the player at which it came."""
        live, clock, fed = LiveTranscriber(self.config), Clock(self.clock), 0
        found = list[tuple[float, Event]]()

        def note(events: list[Event]) -> None:
            found.extend((clock.now(), event) for event in events)

        while fed < len(waveform):
            now = int(clock.now() * SAMPLE_RATE)
            for start in range(fed, min(now - BLOCK, len(waveform)) + 1, BLOCK):
                note(live.feed(waveform[start : start + BLOCK]))
                fed = start + BLOCK
            if reading := live.next_reading():
                note(live.done(self.read(reading)))
            else:
                clock.wait(0.01)
        note(live.commit())
        while reading := live.next_reading():
            note(live.done(self.read(reading)))
        return found

    def read(self, reading: Reading) -> Segment:
        """Recognise what is to be read."""
        reader = self.recognizer if reading.is_final else self.draft
        return reader.recognize([reading.waveform])[0]


def measure(player: Player, utterances: list[Utterance]) -> Measured:
    """Play utterances one after the other."""
    found = Measured()
    for utterance in utterances:
        waveform = read_waveform(utterance.audio)
        whole = player.recognizer.transcribe(waveform.numpy(), SAMPLE_RATE)
        silence = [torch.zeros(round(s * SAMPLE_RATE)) for s in (BEFORE, AFTER)]
        played = torch.cat((silence[0], waveform, silence[1]))
        start = time.process_time()
        events = player.play(played)
        found.cpu += time.process_time() - start
        found.seconds += len(played) / SAMPLE_RATE
        finals = [event for _, event in events if isinstance(event, Final)]
        found.pieces += len(finals)
        found.references.append(utterance.text)
        found.whole.append(whole.text)
        found.live.append(" ".join(final.segment.text for final in finals))
        shown = [
            second for second, event in events if isinstance(event, Final | Provisional)
        ]
        last = [second for second, event in events if isinstance(event, Final)]
        if shown and whole.words:
            found.first.append(shown[0] - BEFORE - whole.words[0].start)
            found.final.append(last[-1] - BEFORE - whole.words[-1].end)
        print(f"{utterance.id}: {found.live[-1]}", flush=True)
    return found


def report(found: Measured) -> None:
    """Print what was measured."""
    for name, values in (("first word", found.first), ("final text", found.final)):
        median, slow = np.percentile(values, [50, 90])
        print(f"{name}: median {median:.2f} s, 90 % within {slow:.2f} s")
    print(f"pieces: {found.pieces} of {len(found.live)} utterances")
    print(f"CPU: {found.cpu / found.seconds:.2f} s for each second of audio")
    for name, texts in (("live", found.live), ("transcribe", found.whole)):
        print(f"{name}: {word_error_rate(found.references, texts)}")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--number", type=int, default=20, help="of utterances")
    parser.add_argument("--pause", type=float, default=LiveConfig.pause)
    parser.add_argument("--interval", type=float, default=LiveConfig.interval)
    parser.add_argument("--draft-beam", type=int, default=8)
    parser.add_argument(
        "--clock",
        choices=("real", "cpu"),
        default="real",
        help="cpu: only the CPU time of this process passes while it recognises",
    )
    args = parser.parse_args()
    use_one_thread()
    keep_freed_memory()
    config = LiveConfig(args.pause, args.interval)
    recognizer = Recognizer.load()
    draft = recognizer.with_beam_size(args.draft_beam)
    chosen = spread(read_manifest(args.manifest), args.number)
    report(measure(Player(recognizer, draft, config, args.clock), chosen))


if __name__ == "__main__":
    main()
