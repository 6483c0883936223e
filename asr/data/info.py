"""What is in a corpus: hours, speakers, lengths, characters, words, and how it sounds.

How it sounds is measured by librosa in some of the recordings (`asr.acoustics`).
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from asr.acoustics import Measures, measure
from asr.alphabet import character_counts, shown
from asr.data.manifest import Utterance, read_manifest, spread
from asr.data.recordings import read_utterance
from asr.errors import AudioError, ManifestError
from asr.progress import progress_bar
from asr.wording import counted

_RARE = 10
"""A character that occurs less often can hardly be learned."""
_BAR = 40  # characters of the longest bar
_CLIPPED = 0.0005
"""Share of samples at full scale from which on a recording counts as clipped."""
_MOST_LISTED = 12


@dataclass(frozen=True)
class CorpusInfo:
    """What was counted and measured in a manifest."""

    manifest: Path
    utterances: Sequence[Utterance]
    measures: Sequence[Measures]
    """Of some of the recordings."""
    unreadable: Sequence[str]
    """What is wrong with those of them that could not be read."""
    problems: Counter[str]
    """What `asr prepare` left out or found odd, by its kind."""

    @cached_property
    def seconds(self) -> float:
        """Of all utterances together."""
        return sum(utterance.duration for utterance in self.utterances)

    @cached_property
    def speakers(self) -> Counter[str]:
        """Utterances of each speaker that is named."""
        return Counter(u.speaker for u in self.utterances if u.speaker)

    @cached_property
    def characters(self) -> Counter[str]:
        """How often each character occurs."""
        return character_counts(utterance.text for utterance in self.utterances)

    @cached_property
    def words(self) -> Counter[str]:
        """How often each word occurs."""
        return Counter(word for u in self.utterances for word in u.text.split())

    @property
    def rare(self) -> list[str]:
        """Characters that can hardly be learned, as they are so few."""
        return sorted(c for c, number in self.characters.items() if number < _RARE)


def inspect(manifest: str | Path, recordings: int = 60) -> CorpusInfo:
    """Count and measure what is in a manifest.

    Args:
        manifest: of the corpus.
        recordings: how many are measured; 0 for none.

    Raises:
        ManifestError: it cannot be read.
    """
    manifest = Path(manifest)
    utterances = read_manifest(manifest)
    measures, unreadable = list[Measures](), list[str]()
    chosen = spread(utterances, recordings) if recordings > 0 else []
    with progress_bar(len(chosen), "measure", "recordings") as bar:
        for utterance in chosen:
            try:
                measures.append(measure(read_utterance(utterance)))
            except AudioError as error:
                unreadable.append(str(error))
            bar.update()
    return CorpusInfo(manifest, utterances, measures, unreadable, _problems(manifest))


def manifests(path: str | Path) -> list[Path]:
    """Return a manifest, or the manifests of a folder.

    Raises:
        ManifestError: the folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.glob("*.jsonl") if not p.name.startswith("."))
    if not found:
        raise ManifestError(f"{path}: holds no manifest (asr prepare writes them)")
    return found


def _problems(manifest: Path) -> Counter[str]:
    listing = manifest.with_name(f"{manifest.stem}.problems.txt")
    try:
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Counter()
    return Counter(line.partition(":")[0] for line in lines)


def histogram(values: Sequence[float]) -> list[tuple[float, float, int]]:
    """Count values between round numbers: (from, to, how many) each.

    >>> histogram([0.5, 1.2, 1.4, 3.0])
    [(0.0, 1.0, 1), (1.0, 2.0, 2), (2.0, 3.0, 0), (3.0, 4.0, 1)]
    """
    top = max(values)
    width = next(w for w in (0.5, 1, 2, 5, 10, 20, 50, 100, 10**9) if top / w <= 14)
    width = max(width, 1.0)
    counts = Counter(int(value // width) for value in values)
    return [
        (number * width, (number + 1) * width, counts[number])
        for number in range(min(counts), max(counts) + 1)
    ]


def describe(info: CorpusInfo) -> str:
    """Write what is in a corpus, in lines."""
    durations = [utterance.duration for utterance in info.utterances]
    characters, words = info.characters, info.words
    num_characters, num_words = characters.total(), words.total()
    lines = [
        f"{info.manifest}: {counted(len(durations), 'utterance')}, "
        f"{info.seconds / 3600:.2f} h, "
        f"{_speakers(info)}",
        f"  lengths: {min(durations):.1f} to {max(durations):.1f} s, half of them "
        f"below {statistics.median(durations):.1f} s",
        *_bars(durations),
        f"  texts: {num_words} words, {len(words)} different; "
        f"{num_characters / info.seconds:.1f} characters a second, "
        f"{60 * num_words / info.seconds:.0f} words a minute",
        f"  characters: {shown(''.join(sorted(characters)))}",
    ]
    if info.rare:
        listed = ", ".join(
            f"{shown(c)} {characters[c]}" for c in info.rare[:_MOST_LISTED]
        )
        more = ", …" if len(info.rare) > _MOST_LISTED else ""
        lines.append(f"  rare, hardly to be learned: {listed}{more}")
    empty = sum(not utterance.text for utterance in info.utterances)
    if empty:
        lines.append(f"  without a text: {empty}")
    lines += sounding(info)
    lines += [
        f"  problems: {number} x {kind}" for kind, number in info.problems.items()
    ]
    return "\n".join(lines)


def _speakers(info: CorpusInfo) -> str:
    speakers = info.speakers
    if not speakers:
        return "no speaker named"
    name, number = speakers.most_common(1)[0]
    if len(speakers) == 1:
        return f"one speaker ({name})"
    return f"{len(speakers)} speakers (at most {number} utterances each)"


def _bars(durations: Sequence[float]) -> list[str]:
    rows = histogram(durations)
    most = max(count for *_, count in rows)
    return [
        f"  {low:5.0f} to {high:3.0f} s  "
        f"{'#' * round(_BAR * count / most):{_BAR}} {count}"
        for low, high, count in rows
    ]


def sounding(info: CorpusInfo) -> list[str]:
    """Write how the recordings sound, in lines."""
    lines = [f"  {what}" for what in info.unreadable[:_MOST_LISTED]]
    if not info.measures:
        return lines
    found = np.array(info.measures, dtype=np.float64)
    low, high = (_middle(found[:, n]) for n in (2, 3))
    pitch = f"{low:.0f} to {high:.0f} Hz" if low == low else "none"
    clipped = int((found[:, 4] > _CLIPPED).sum())
    return [
        f"  measured in {counted(len(found), 'recording')} (medians): speech "
        f"{100 * _middle(found[:, 1]):.0f} %, pitch {pitch}, level "
        f"{_middle(found[:, 5]):.0f} dB, noise {_middle(found[:, 6]):.0f} dB; "
        f"clipped: {clipped}",
        *lines,
    ]


def _middle(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else float("nan")
