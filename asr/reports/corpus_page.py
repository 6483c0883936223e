"""A page about a corpus: how much, how long, who, which letters; and ten to listen to.

It is one file, and needs no network.
"""

import random
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from asr.alphabet import shown
from asr.data.info import CorpusInfo, histogram, sounding
from asr.data.manifest import Utterance
from asr.folders import write_bytes
from asr.reports.charts import Bar, Column, bars, columns, whole
from asr.reports.players import Players
from asr.reports.templates import Markup, render

NUM_DRAWN = 10
"""Utterances to listen to."""
_MOST_BARS = 40


def write_corpus_page(page: Path, info: CorpusInfo) -> None:
    """Write a page about a corpus.

    Args:
        page: the HTML file; one that stood there is replaced.
        info: what was counted and measured.

    Raises:
        CheckpointError: the page cannot be written.
    """
    players = Players(page.parent)
    drawn = [(one, players.source(one)) for one in _drawn(info.utterances)]
    words = info.words
    content = render(
        "reports/corpus.html",
        name=info.manifest.stem,
        manifest=info.manifest,
        today=date.today().isoformat(),
        hours=_hours(info.seconds),
        utterances=whole(len(info.utterances)),
        num_speakers=whole(len(info.speakers)) if info.speakers else "",
        words=whole(words.total()),
        different=whole(len(words)),
        rate=whole(60 * words.total() / info.seconds),
        lengths=_lengths(info),
        speakers=_speakers(info),
        speakers_left=max(0, len(info.speakers) - _MOST_BARS),
        characters=_characters(info),
        sound=[line.strip() for line in sounding(info)],
        problems=info.problems.items(),
        drawn=drawn,
        players=players,
    )
    write_bytes(page, content.encode(errors="backslashreplace"))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _drawn(utterances: Sequence[Utterance]) -> list[Utterance]:
    number = min(NUM_DRAWN, len(utterances))
    places = random.Random(0).sample(range(len(utterances)), number)
    return [utterances[place] for place in sorted(places)]


def _lengths(info: CorpusInfo) -> Markup:
    rows = histogram([utterance.duration for utterance in info.utterances])
    drawn = [
        Column(f"{low:.0f} to {high:.0f} s", [n], f"{low:g} to {high:g} s: {n}")
        for low, high, n in rows
    ]
    return columns(drawn, ["utterances"], lambda value: f"{value:,.0f} ")


def _speakers(info: CorpusInfo) -> Markup | None:
    """Draw how much the speakers said, those with the most first; None if unnamed."""
    seconds = dict.fromkeys(info.speakers, 0.0)
    for utterance in info.utterances:
        if utterance.speaker:
            seconds[utterance.speaker] += utterance.duration
    if not seconds:
        return None
    rows = [
        Bar(name, seconds[name] / 60, None, f"{info.speakers[name]} utterances")
        for name in sorted(seconds, key=lambda name: -seconds[name])[:_MOST_BARS]
    ]
    mean = sum(seconds.values()) / len(seconds) / 60
    return bars(rows, mean, lambda value: f"{value:.1f} min")


def _characters(info: CorpusInfo) -> list[tuple[str, str, str]]:
    counts = info.characters.most_common()
    total = sum(number for _, number in counts)
    return [
        (shown(character), whole(number), f"{100 * number / total:.2f} %")
        for character, number in counts
    ]
