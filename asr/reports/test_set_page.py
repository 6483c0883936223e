"""The page itself: numbers from `asr.scoring`, put where the templates want them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from asr.data.manifest import Utterance, read_paired, speaker_groups
from asr.folders import write_bytes
from asr.foreign import parse_table, read_file
from asr.inference.repetition import longest_repetition
from asr.reports.attention_failures import is_early_stop, is_loop
from asr.reports.charts import Bar, Column, bars, columns
from asr.reports.learning import show_learning
from asr.reports.players import Players
from asr.reports.templates import render
from asr.reports.utterances import Result, drawn, results, show_all, worst
from asr.scoring import (
    Confusion,
    ErrorRate,
    by_frequency,
    by_group,
    by_length,
    by_position,
    char_error_rate,
    confidence_interval,
    confusions,
    word_error_rate,
)
from asr.wording import counted

_PARTS = ("substituted", "missed", "invented")
_MOST_BARS = 60
_MOST_CONFUSIONS = 15
_MOST_FAULTS = 10
_FEWEST_UTTERANCES = 5
"""Of a speaker, for an interval."""
_UNKNOWN = "(unknown)"

Texts = Sequence[str]


def write_report(
    page: Path, references: Path, hypotheses: Path, *, run: Path | None = None
) -> None:
    """Write a page about a decoded set; it needs no network.

    Args:
        page: the HTML file; one that stood there is replaced.
        references: manifest with the references.
        hypotheses: manifest with the hypotheses, as `asr decode` writes it.
        run: folder of the training, to show its learning curves too.

    Raises:
        AsrError: a file cannot be read, manifests do not match, the run has no metrics,
            or the page cannot be written.
    """
    said, decoded = read_paired(references, hypotheses)
    texts, written = [u.text for u in said], [u.text for u in decoded]
    found = results(said, written)
    players = Players(page.parent)
    worst_shown = show_all(worst(found), players)
    drawn_shown = show_all(drawn(found), players)
    content = render(
        "reports/test_set.html",
        name=references.stem,
        references=references,
        hypotheses=hypotheses,
        today=date.today().isoformat(),
        **_headline(said, texts, written),
        **_decoding(hypotheses.parent / "decode.json"),
        **_by_speaker(said, texts, written),
        lengths=_rates(by_length(texts, written, [u.duration for u in said]), "length"),
        positions=_rates(_by_tenth(texts, written), "tenth of the utterance"),
        frequencies=_rates(by_frequency(texts, written), "said"),
        **_confusions(texts, written),
        **_search_errors(found),
        worst=worst_shown,
        drawn=drawn_shown,
        players=players,
        training=show_learning(run) if run else None,
    )
    write_bytes(page, content.encode(errors="backslashreplace"))


def _headline(
    said: Sequence[Utterance], texts: Texts, written: Texts
) -> dict[str, object]:
    """Count what stands on top of the page."""
    words, characters = word_error_rate(texts, written), char_error_rate(texts, written)
    groups = speaker_groups(said)
    low, high = confidence_interval(texts, written, groups=groups)
    top = max(1.0, words.rate, high)
    count = words.num_reference
    outcomes = {"wrong": words.substitutions, "lost": words.deletions}
    outcomes["right"] = count - sum(outcomes.values())
    numbers = {
        "wer": (words.rate, _percent(words.rate)),
        "low": (low, f"{100 * low:.1f}"),
        "high": (high, _percent(high)),
        "cer": (characters.rate, _percent(characters.rate)),
        "substitutions": (words.substitutions, f"{words.substitutions:,}"),
        "deletions": (words.deletions, f"{words.deletions:,}"),
        "insertions": (words.insertions, f"{words.insertions:,}"),
        "utterances": (len(said), f"{len(said):,}"),
        "words": (words.num_reference, f"{words.num_reference:,}"),
    }
    return {
        **numbers,
        "of_hundred": f"{100 * words.rate:.0f}",
        "resampled": _by_whom(said) if groups else f"{len(said)} utterances",
        "hours": _hours(sum(u.duration for u in said)),
        "gauge_fill": f"{100 * words.rate / top:.2f}%",
        "gauge_low": f"{100 * low / top:.2f}%",
        "gauge_span": f"{100 * (high - low) / top:.2f}%",
        "gauge_top": f"{100 * top:.0f} %",
        "by_whom": _by_whom(said),
        **{name: _percent(n / max(count, 1)) for name, n in outcomes.items()},
        **{f"flex_{name}": n for name, n in outcomes.items()},
    }


def _by_whom(said: Sequence[Utterance]) -> str:
    """Name how many speakers there are, as far as they are known."""
    number = len({utterance.speaker for utterance in said} - {""})
    unknown = sum(not utterance.speaker for utterance in said)
    if not number:
        return "unknown speakers"
    known = "one speaker" if number == 1 else f"{number} speakers"
    if not unknown:
        return known
    return f"{known} and {counted(unknown, 'utterance')} of unknown ones"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _decoding(path: Path) -> dict[str, object]:
    """Collect what `asr decode` wrote about model and settings, where it is there."""
    lacking: dict[str, object] = {"model": None, "decoding": (), "errors": ()}
    try:
        metadata = parse_table(read_file(path))
        settings = dict[str, Any](metadata.pop("decoding", {}))
        errors = list[object](metadata.pop("errors", metadata.pop("faults", [])))
    except FileNotFoundError:
        return {**lacking, "no_decoding": "No decode.json lies beside the hypotheses."}
    except (OSError, ValueError, TypeError):
        note = "The decode.json beside the hypotheses cannot be read."
        return {**lacking, "no_decoding": note}
    rows = [(name.replace("_", " "), value) for name, value in metadata.items()]
    rows += [(f"decoding.{name}", value) for name, value in settings.items()]
    return {
        "model": Path(str(metadata["model"])).name if "model" in metadata else None,
        "beam_size": settings.get("beam_size", "several"),
        "decoding": rows,
        "no_decoding": "",
        "errors": errors,
    }


def _by_speaker(
    said: Sequence[Utterance], texts: Texts, written: Texts
) -> dict[str, object]:
    """Show the speakers, those with the most errors first."""
    speakers = [utterance.speaker for utterance in said]
    rates = by_group(texts, written, speakers)
    if len(rates) < 2:
        return {"speakers": None, "only_speaker": speakers[0]}
    rates = dict(sorted(rates.items(), key=lambda item: -item[1].rate))
    rows = list[Bar]()
    for name in list(rates)[:_MOST_BARS]:
        places = [i for i, speaker in enumerate(speakers) if speaker == name]
        span = None
        if len(places) >= _FEWEST_UTTERANCES:
            span = confidence_interval(
                [texts[i] for i in places], [written[i] for i in places]
            )
        note = f"{name or _UNKNOWN}: {rates[name]}, {len(places)} utterances"
        rows.append(Bar(name or _UNKNOWN, rates[name].rate, span, note))
    shown = {
        "chart": bars(rows, word_error_rate(texts, written).rate, _short_percent),
        **_rate_table(rates, "speaker"),
    }
    return {"speakers": shown, "speakers_left": len(rates) - len(rows)}


def _by_tenth(texts: Texts, written: Texts) -> dict[str, ErrorRate]:
    names = ("1st", "2nd", "3rd", *(f"{number}th" for number in range(4, 11)))
    return dict(zip(names, by_position(texts, written), strict=True))


def _rates(rates: Mapping[str, ErrorRate], of_what: str) -> dict[str, object] | None:
    """Show error rates as columns of the three kinds of error, and as a table."""
    if not any(rate.num_reference for rate in rates.values()):
        return None
    rows = [
        Column(name, [part / max(rate.num_reference, 1) for part in _parts(rate)], note)
        for name, rate in rates.items()
        for note in [f"{name}: {rate}"]
    ]
    kinds = _PARTS if any(rate.insertions for rate in rates.values()) else _PARTS[:2]
    chart = columns(rows, kinds, _short_percent)
    return {"chart": chart, **_rate_table(rates, of_what, kinds)}


def _parts(rate: ErrorRate) -> tuple[int, int, int]:
    return rate.substitutions, rate.deletions, rate.insertions


def _rate_table(
    rates: Mapping[str, ErrorRate], of_what: str, kinds: Sequence[str] = _PARTS
) -> dict[str, object]:
    rows = [
        (
            *(name or _UNKNOWN, _percent(rate.rate), f"{rate.num_reference:,}"),
            *(f"{part:,}" for part in _parts(rate)[: len(kinds)]),
        )
        for name, rate in rates.items()
    ]
    return {"header": (of_what, "errors per word", "words", *kinds), "rows": rows}


def _confusions(texts: Texts, written: Texts) -> dict[str, object]:
    """List the words that were substituted, missed and invented most often."""
    most = word_error_rate(texts, written).errors
    found = confusions(texts, written, top=most)
    kinds: dict[str, Callable[[Confusion], bool]] = {
        "substituted": lambda c: bool(c.reference_word and c.hypothesis_word),
        "missed": lambda c: not c.hypothesis_word,
        "invented": lambda c: not c.reference_word,
    }
    return {
        kind: [
            [word for word in (c.reference_word, c.hypothesis_word) if word] + [c.count]
            for c in found
            if is_of_kind(c)
        ][:_MOST_CONFUSIONS]
        for kind, is_of_kind in kinds.items()
    }


def _search_errors(found: Sequence[Result]) -> dict[str, object]:
    """Count and list the loops and the early stops."""
    loops = [r for r in found if is_loop(r.utterance.text, r.hypothesis)]
    stops = [r for r in found if is_early_stop(r.utterance.text, r.hypothesis)]
    return {
        "num_loops": (len(loops), f"{len(loops):,}"),
        "loops": [
            (r.utterance.id, f"{times} \u00d7 {words}", r.hypothesis)
            for r in loops[:_MOST_FAULTS]
            for times, words in [longest_repetition(r.hypothesis)]
        ],
        "num_stops": (len(stops), f"{len(stops):,}"),
        "stops": [
            (
                r.utterance.id,
                f"{len(r.hypothesis.split())} of {len(r.utterance.text.split())}",
                r.hypothesis or "(nothing)",
            )
            for r in stops[:_MOST_FAULTS]
        ],
        "most_listed": _MOST_FAULTS,
    }


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _short_percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"
