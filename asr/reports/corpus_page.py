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
from asr.reports.charts import Bar, Column, bars, columns, whole
from asr.reports.markup import Html, asset, fill, join, markup, table
from asr.reports.players import Players
from asr.tensor_files import write_bytes

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
    drawn = join(_show(utterance, players) for utterance in _drawn(info.utterances))
    words = info.words
    content = fill(
        "corpus.html",
        style=asset("style.css"),
        script=asset("script.js"),
        name=info.manifest.stem,
        manifest=info.manifest,
        today=date.today().isoformat(),
        hours=_hours(info.seconds),
        utterances=whole(len(info.utterances)),
        num_speakers=whole(len(info.speakers)) if info.speakers else "?",
        speakers_note="" if info.speakers else "None is named.",
        words=whole(words.total()),
        different=whole(len(words)),
        rate=whole(60 * words.total() / info.seconds),
        lengths=_lengths(info),
        speakers=_speakers(info),
        characters=_characters(info),
        sound=_lines(sounding(info), "No recording was measured."),
        problems=_lines(
            [f"{number} x {kind}" for kind, number in info.problems.items()],
            "asr prepare has listed none.",
        ),
        drawn=drawn,
        players=players,
    )
    write_bytes(page, content.encode())


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _drawn(utterances: Sequence[Utterance]) -> list[Utterance]:
    number = min(NUM_DRAWN, len(utterances))
    places = random.Random(0).sample(range(len(utterances)), number)
    return [utterances[place] for place in sorted(places)]


def _show(utterance: Utterance, players: Players) -> Html:
    speaker = f"speaker {utterance.speaker}, " if utterance.speaker else ""
    return markup(
        "<article class='utterance'><header><h3>{}</h3><p>{}</p></header>{}"
        "<p class='said' dir='auto'>{}</p></article>",
        utterance.id,
        f"{speaker}{utterance.duration:.1f} s",
        players.player(utterance),
        utterance.text or "(no text)",
    )


def _lengths(info: CorpusInfo) -> Html:
    rows = histogram([utterance.duration for utterance in info.utterances])
    drawn = [
        Column(f"{low:.0f} to {high:.0f} s", [n], f"{low:g} to {high:g} s: {n}")
        for low, high, n in rows
    ]
    return columns(drawn, ["utterances"], lambda value: f"{value:,.0f} ")


def _speakers(info: CorpusInfo) -> Html:
    seconds = dict.fromkeys(info.speakers, 0.0)
    for utterance in info.utterances:
        if utterance.speaker:
            seconds[utterance.speaker] += utterance.duration
    if not seconds:
        return Html("<p class='nothing'>No speaker is named.</p>")
    ordered = sorted(seconds, key=lambda name: -seconds[name])
    rows = [
        Bar(name, seconds[name] / 60, None, f"{info.speakers[name]} utterances")
        for name in ordered[:_MOST_BARS]
    ]
    left = len(ordered) - len(rows)
    note = markup("<p>{} more speakers have less.</p>", left) if left else Html()
    mean = sum(seconds.values()) / len(seconds) / 60
    return join([bars(rows, mean, lambda value: f"{value:.1f} min"), note])


def _characters(info: CorpusInfo) -> Html:
    counts = info.characters.most_common()
    total = sum(number for _, number in counts)
    return table(
        ["character", "occurs", "share"],
        [
            (shown(character), whole(number), f"{100 * number / total:.2f} %")
            for character, number in counts
        ],
        "numbers",
    )


def _lines(lines: Sequence[str], nothing: str) -> Html:
    if not lines:
        return markup("<p class='nothing'>{}</p>", nothing)
    return join(markup("<p>{}</p>", line.strip()) for line in lines)
