"""How well are long recordings transcribed, and words found in time?

    python recipes/librispeech/long.py DEV.jsonl FOLDER

joins utterances of a manifest with pauses to one recording of --minutes, whose words
and whose utterances' beginnings and ends are known, writes it into FOLDER, and
transcribes it twice: as it is, and utterance by utterance. Printed are both word error
rates, the real-time factor, the peak memory, and how far the first and the last word
of an utterance are from where its sound begins and ends, by the CTC head's times and by
attention's.
"""

import argparse
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, encode, read_waveform
from asr.data.manifest import Utterance, read_manifest
from asr.decoding.ctc_alignment import word_places
from asr.errors import AsrError
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.runtime import use_one_thread
from asr.scoring import word_error_rate
from asr.tensor_files import write_bytes
from asr.transcript import Segment, Transcript

SOUND = 30.0
"""dB below an utterance's loudest 10 ms, from which on it is sound."""
_HOP = SAMPLE_RATE // 100


class Joined(NamedTuple):
    """A recording made of utterances."""

    waveform: Tensor
    utterances: list[Utterance]
    waveforms: list[Tensor]
    begins: list[float]
    """Seconds where each utterance begins."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after telling what to mend."""
    parser = argparse.ArgumentParser(prog="long", description="Try a long recording.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path, help="for long.flac")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", type=Path, help="default: the bundled one")
    args = parser.parse_args(argv)
    use_one_thread()
    try:
        joined = join_utterances(read_manifest(args.manifest), 60 * args.minutes)
        recognizer = Recognizer.load(args.model)
        args.folder.mkdir(parents=True, exist_ok=True)
        path = args.folder / "long.flac"
        write_bytes(path, encode(joined.waveform, "flac"))
        print(report(joined, path, recognizer))
    except (AsrError, OSError) as error:
        print(f"long: {error}", file=sys.stderr)
        return 1
    return 0


def join_utterances(utterances: Sequence[Utterance], seconds: float) -> Joined:
    """Join utterances, those of a chapter in their order, with pauses of 0.2 to 1.5 s.

    Args:
        utterances: as many as are needed are taken.
        seconds: length of the recording.
    """
    rng = random.Random(1)
    chapters = sorted({utterance.id.rsplit("-", 1)[0] for utterance in utterances})
    rng.shuffle(chapters)
    order = [
        utterance
        for chapter in chapters
        for utterance in utterances
        if utterance.id.rsplit("-", 1)[0] == chapter
    ]
    parts, taken, waveforms, begins = list[Tensor](), list[Utterance](), [], []
    length = 0
    for utterance in order:
        waveform = read_waveform(utterance.audio)
        begins.append(length / SAMPLE_RATE)
        pause = torch.zeros(round(rng.uniform(0.2, 1.5) * SAMPLE_RATE))
        parts += [waveform, pause]
        taken.append(utterance)
        waveforms.append(waveform)
        length += len(waveform) + len(pause)
        if length >= seconds * SAMPLE_RATE:
            break
    return Joined(torch.cat(parts), taken, waveforms, begins)


def _sound(waveform: Tensor) -> tuple[float, float]:
    """Tell from which second to which there is sound in (N,) samples."""
    power = waveform[: len(waveform) // _HOP * _HOP].view(-1, _HOP).square().mean(dim=1)
    loud = (power > power.max() * 10 ** (-SOUND / 10)).nonzero()[:, 0]
    return int(loud[0]) / 100, (int(loud[-1]) + 1) / 100


def report(joined: Joined, path: Path, recognizer: Recognizer) -> str:
    """Transcribe a recording in both ways, and compare."""
    before = _peak()
    started, used = time.perf_counter(), time.process_time()
    whole = recognizer.transcribe(path)
    wall, used = time.perf_counter() - started, time.process_time() - used
    peak = _peak()
    order = sorted(
        range(len(joined.waveforms)), key=lambda i: -len(joined.waveforms[i])
    )
    apart = dict[int, Segment]()
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        waveforms = [joined.waveforms[i] for i in some]
        segments = recognizer.recognize(waveforms, return_alignment=True)
        apart |= dict(zip(some, segments, strict=True))
    said = [utterance.text for utterance in joined.utterances]
    alone = [apart[i] for i in range(len(said))]
    by_utterance = word_error_rate(said, [one.text for one in alone])
    together = word_error_rate([" ".join(said)], [whole.text])
    flags = [flag for segment in whole.segments for flag in segment.flags]
    return "\n".join(
        [
            f"{whole.duration / 60:.1f} min, {len(said)} utterances, "
            f"{len(whole.segments)} pieces, flags {sorted(map(str, set(flags)))}",
            f"by utterance   %WER {by_utterance}",
            f"as a whole     %WER {together} ({together.rate / by_utterance.rate:.3f})",
            f"real-time factor {wall / whole.duration:.4f} "
            f"({used / whole.duration:.4f} CPU seconds a second)",
            f"peak memory    {peak:.0f} MiB ({before:.0f} MiB before)",
            "",
            "first word's start and last word's end, from where sound begins and ends:",
            _errors("CTC", [_ctc_times(one) for one in alone], joined),
            _errors("attention", [_attention_times(one) for one in alone], joined),
            _errors("CTC, in the whole", _times_in_whole(whole, joined), joined),
        ]
    )


def _peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Times = tuple[float, float] | None
"""Start of the first word and end of the last."""


def _ctc_times(segment: Segment) -> Times:
    return (segment.words[0].start, segment.words[-1].end) if segment.words else None


def _attention_times(segment: Segment) -> Times:
    """Take the steps where attention looked for the first and last character."""
    alignment = segment.alignment
    if alignment is None or not segment.words:
        return None
    places = word_places(segment.text)
    steps = alignment.weights.argmax(dim=1)
    first, last = steps[places[0].start], steps[places[-1].stop - 1]
    seconds = alignment.seconds_per_step
    return float(first) * seconds, float(last + 1) * seconds


def _times_in_whole(whole: Transcript, joined: Joined) -> list[Times]:
    """Find for each utterance the words of the whole that lie in it."""
    found = list[Times]()
    for begin, waveform in zip(joined.begins, joined.waveforms, strict=True):
        end = begin + len(waveform) / SAMPLE_RATE
        words = [w for w in whole.words if begin < (w.start + w.end) / 2 < end]
        times = (words[0].start - begin, words[-1].end - begin) if words else None
        found.append(times)
    return found


def _errors(name: str, found: Sequence[Times], joined: Joined) -> str:
    """Say how far times are from the truth: median, and 90 % of them within."""
    starts, ends = list[float](), list[float]()
    for times, waveform in zip(found, joined.waveforms, strict=True):
        if times is not None:
            start, end = _sound(waveform)
            starts.append(times[0] - start)
            ends.append(times[1] - end)
    return f"{name:18} start {_spread(starts)}   end {_spread(ends)}"


def _spread(errors: Sequence[float]) -> str:
    values = torch.tensor(errors)
    middle = values.median()
    within = float((values - middle).abs().quantile(0.8))
    return f"{float(middle):+.3f} s, 80 % within {within:.3f} s of that"


if __name__ == "__main__":
    sys.exit(main())
