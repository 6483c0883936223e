"""The page itself: numbers from `asr.scoring`, put where the templates want them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from asr.data.manifest import Utterance, read_paired
from asr.foreign import parse_table, read_file
from asr.inference.repetition import longest_repetition
from asr.reports.attention_failures import is_early_stop, is_loop
from asr.reports.charts import Bar, Column, bars, columns
from asr.reports.learning import show_learning
from asr.reports.markup import Html, asset, fill, join, markup, table
from asr.reports.players import Players
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
from asr.tensor_files import write_bytes

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
    content = fill(
        "page.html",
        style=asset("style.css"),
        script=asset("script.js"),
        name=references.stem,
        references=references,
        hypotheses=hypotheses,
        today=date.today().isoformat(),
        **_headline(said, texts, written),
        **_decoding(hypotheses.parent / "decode.json"),
        speakers=_by_speaker(said, texts, written),
        lengths=_rates(by_length(texts, written, [u.duration for u in said]), "length"),
        positions=_rates(_by_tenth(texts, written), "tenth of the utterance"),
        frequencies=_rates(by_frequency(texts, written), "said"),
        **_confusions(texts, written),
        **_search_errors(found),
        worst=worst_shown or Html("<p class='nothing'>Not one error was made.</p>"),
        drawn=drawn_shown,
        players=players,
        training_link=Html("<a href='#training'>Training</a>") if run else "",
        training=show_learning(run) if run else "",
    )
    write_bytes(page, content.encode())


def _headline(
    said: Sequence[Utterance], texts: Texts, written: Texts
) -> dict[str, object]:
    """Count what stands on top of the page."""
    words, characters = word_error_rate(texts, written), char_error_rate(texts, written)
    speakers = [utterance.speaker for utterance in said]
    num_speakers = len(set(speakers))
    groups = speakers if num_speakers > 1 else None
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
    shown = {name: _number(name, *number) for name, number in numbers.items()}
    return {
        **shown,
        "of_hundred": f"{100 * words.rate:.0f}",
        "resampled": f"{num_speakers} speakers"
        if groups
        else f"{len(said)} utterances",
        "hours": _hours(sum(u.duration for u in said)),
        "gauge_fill": f"{100 * words.rate / top:.2f}%",
        "gauge_low": f"{100 * low / top:.2f}%",
        "gauge_span": f"{100 * (high - low) / top:.2f}%",
        "gauge_top": f"{100 * top:.0f} %",
        "by_whom": "one speaker" if num_speakers == 1 else f"{num_speakers} speakers",
        **{name: _percent(n / max(count, 1)) for name, n in outcomes.items()},
        **{f"flex_{name}": n for name, n in outcomes.items()},
    }


def _number(name: str, value: float, shown: str) -> Html:
    return markup("<data id='{}' value='{}'>{}</data>", name, value, shown)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _decoding(path: Path) -> dict[str, object]:
    """Show what `asr decode` wrote down about model and settings, where it is there."""
    try:
        metadata = parse_table(read_file(path))
        settings = dict[str, Any](metadata.pop("decoding", {}))
        errors = list[object](metadata.pop("errors", metadata.pop("faults", [])))
    except FileNotFoundError:
        nothing = Html("<p>No decode.json lies beside the hypotheses.</p>")
        return {"model": "", "decoding": nothing, "errors": ""}
    except (OSError, ValueError, TypeError):
        nothing = Html("<p>The decode.json beside the hypotheses cannot be read.</p>")
        return {"model": "", "decoding": nothing, "errors": ""}
    rows = [(name.replace("_", " "), value) for name, value in metadata.items()]
    rows += [(f"decoding.{name}", value) for name, value in settings.items()]
    warning = markup(
        "<p class='warning'>Recordings that could not be read, so that their text is "
        "empty: {}. The first: {}</p>",
        *(len(errors), errors[0] if errors else ""),
    )
    model = markup(
        "Written by the model <b>{}</b>, the best of {} hypotheses followed at a time.",
        *(Path(str(metadata.get("model"))).name, settings.get("beam_size", "several")),
    )
    return {
        "model": model if "model" in metadata else "",
        "decoding": table(("what", "value"), rows),
        "errors": warning if errors else "",
    }


def _by_speaker(said: Sequence[Utterance], texts: Texts, written: Texts) -> Html:
    """Show the speakers, those with the most errors first."""
    speakers = [utterance.speaker for utterance in said]
    rates = by_group(texts, written, speakers)
    if len(rates) < 2:
        name = speakers[0] or "unknown"
        return markup("<p class='nothing'>There is only one speaker: {}.</p>", name)
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
    left_out = len(rates) - len(rows)
    more = f"{left_out} more speakers with lower rates are in the table."
    return join(
        [
            bars(rows, word_error_rate(texts, written).rate, _short_percent),
            markup("<p>{}</p>", more) if left_out else Html(),
            _rate_table(rates, "speaker"),
        ]
    )


def _by_tenth(texts: Texts, written: Texts) -> dict[str, ErrorRate]:
    names = ("1st", "2nd", "3rd", *(f"{number}th" for number in range(4, 11)))
    return dict(zip(names, by_position(texts, written), strict=True))


def _rates(rates: Mapping[str, ErrorRate], of_what: str) -> Html:
    """Show error rates as columns of the three kinds of error, and as a table."""
    if not any(rate.num_reference for rate in rates.values()):
        return Html("<p class='nothing'>The references have no words.</p>")
    rows = [
        Column(name, [part / max(rate.num_reference, 1) for part in _parts(rate)], note)
        for name, rate in rates.items()
        for note in [f"{name}: {rate}"]
    ]
    kinds = _PARTS if any(rate.insertions for rate in rates.values()) else _PARTS[:2]
    chart = columns(rows, kinds, _short_percent)
    return join([chart, _rate_table(rates, of_what, kinds)])


def _parts(rate: ErrorRate) -> tuple[int, int, int]:
    return rate.substitutions, rate.deletions, rate.insertions


def _rate_table(
    rates: Mapping[str, ErrorRate], of_what: str, kinds: Sequence[str] = _PARTS
) -> Html:
    header = (of_what, "errors per word", "words", *kinds)
    rows = [
        (
            *(name or _UNKNOWN, _percent(rate.rate), f"{rate.num_reference:,}"),
            *(f"{part:,}" for part in _parts(rate)[: len(kinds)]),
        )
        for name, rate in rates.items()
    ]
    return markup(
        "<details><summary>As a table</summary>{}</details>",
        table(header, rows, "numbers"),
    )


def _confusions(texts: Texts, written: Texts) -> dict[str, Html]:
    """Make three tables, of words that were substituted, missed and invented."""
    most = word_error_rate(texts, written).errors
    found = confusions(texts, written, top=most)
    kinds: dict[str, tuple[Callable[[Confusion], bool], Sequence[str]]] = {
        "substituted": (
            lambda c: bool(c.reference_word and c.hypothesis_word),
            ("reference", "hypothesis", "times"),
        ),
        "missed": (lambda c: not c.hypothesis_word, ("reference", "times")),
        "invented": (lambda c: not c.reference_word, ("hypothesis", "times")),
    }
    tables = dict[str, Html]()
    for kind, (is_of_kind, header) in kinds.items():
        rows = [
            [word for word in (c.reference_word, c.hypothesis_word) if word] + [c.count]
            for c in found
            if is_of_kind(c)
        ][:_MOST_CONFUSIONS]
        nothing = Html("<p class='nothing'>None.</p>")
        tables[kind] = table(header, rows) if rows else nothing
    return tables


def _search_errors(found: Sequence[Result]) -> dict[str, object]:
    """Count and list the loops and the early stops."""
    loops = [r for r in found if is_loop(r.utterance.text, r.hypothesis)]
    stops = [r for r in found if is_early_stop(r.utterance.text, r.hypothesis)]
    repeated = [
        (r.utterance.id, f"{times} \u00d7 {words}", r.hypothesis)
        for r in loops[:_MOST_FAULTS]
        for times, words in [longest_repetition(r.hypothesis)]
    ]
    short = [
        (
            r.utterance.id,
            f"{len(r.hypothesis.split())} of {len(r.utterance.text.split())}",
            r.hypothesis or "(nothing)",
        )
        for r in stops[:_MOST_FAULTS]
    ]
    return {
        "num_loops": _number("num-loops", len(loops), f"{len(loops):,}"),
        "loops": _listed("Loops", ("utterance", "repeated", "hypothesis"), repeated),
        "num_stops": _number("num-stops", len(stops), f"{len(stops):,}"),
        "stops": _listed("Early stops", ("utterance", "words", "hypothesis"), short),
    }


def _listed(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    if not rows:
        return Html()
    return markup(
        "<details><summary>{} (at most {} are listed)</summary>{}</details>",
        *(name, _MOST_FAULTS, table(header, rows)),
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _short_percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"
