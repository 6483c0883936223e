import random
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.inference.live import (
    Event,
    Final,
    LiveConfig,
    LiveTranscriber,
    Provisional,
    Reading,
    SpeechStarted,
    SpeechStopped,
    TurnEnded,
    Unread,
)
from asr.inference.long_audio import Recording, transcripts
from asr.inference.segmentation import pieces
from asr.transcript import Segment, Transcript
from tests.beeps import WORDS, beeps, read_beeps

MANUAL = LiveConfig(pause=None)
BLOCK = 800  # samples that a microphone gives at once
TEN_WORDS = "ALPHA BRAVO CHARLIE DELTA ECHO FOXTROT GOLF HOTEL ALPHA BRAVO"


def blocks(waveform: Tensor, size: int = BLOCK) -> list[Tensor]:
    starts = range(0, len(waveform), size)
    return [waveform[start : start + size] for start in starts]


def transcribe(
    waveform: Tensor | Iterable[Tensor],
    config: LiveConfig | None = None,
    *,
    reads: Callable[[], bool] = lambda: True,
    recognize: Callable[[Tensor], Segment] = read_beeps,
) -> list[Event]:
    """Play samples to the end.

    Args:
        waveform: all, or in blocks.
        config: of the transcriber.
        reads: whether there is time for readings after a block.
        recognize: reads.
    """
    live = LiveTranscriber(config)
    events = list[Event]()
    given = blocks(waveform) if isinstance(waveform, Tensor) else waveform
    for block in given:
        events += live.feed(block)
        while reads() and (reading := live.next_reading()):
            events += live.done(recognize(reading.waveform))
    events += live.commit()
    while reading := live.next_reading():
        events += live.done(recognize(reading.waveform))
    return events


def finals(events: Iterable[Event]) -> list[str]:
    return [event.segment.text for event in events if isinstance(event, Final)]


def shown(events: Iterable[Event]) -> list[str]:
    return [
        " ".join(word.text for word in event.words)
        for event in events
        if isinstance(event, Provisional)
    ]


def of(kind: type[Event], events: Iterable[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


# Pauses


def test_a_pause_ends_a_piece_and_its_text_is_final() -> None:
    events = transcribe(beeps(", ALPHA BRAVO CHARLIE , DELTA ECHO ,"))

    assert finals(events) == ["ALPHA BRAVO CHARLIE", "DELTA ECHO"]
    assert [type(event) for event in events if not isinstance(event, Provisional)] == [
        *(SpeechStarted, SpeechStopped, Final, TurnEnded),
        *(SpeechStarted, SpeechStopped, Final, TurnEnded),
    ]


def test_times_are_those_of_the_session() -> None:
    events = transcribe(beeps(", ALPHA BRAVO , , DELTA ,"))
    starts, stops = of(SpeechStarted, events), of(SpeechStopped, events)
    words = [w for e in events if isinstance(e, Final) for w in e.segment.words]

    # 1 s; two words of 0.35 s; 2 s; a word.
    assert [word.start for word in words] == pytest.approx([1.0, 1.35, 3.7], abs=0.02)
    assert [s.start for s in starts if isinstance(s, SpeechStarted)] == pytest.approx(
        [0.75, 3.45], abs=0.11
    )
    assert [s.end for s in stops if isinstance(s, SpeechStopped)] == pytest.approx(
        [1.85, 4.2], abs=0.11
    )


def test_the_end_of_the_session_ends_a_piece() -> None:
    assert finals(transcribe(beeps(", ALPHA BRAVO"))) == ["ALPHA BRAVO"]


def test_a_short_pause_ends_nothing() -> None:
    events = transcribe(beeps(", ALPHA . BRAVO , CHARLIE"))

    assert finals(events) == ["ALPHA BRAVO", "CHARLIE"]


def test_speech_in_the_first_sample_is_not_missed() -> None:
    assert finals(transcribe(beeps("ALPHA BRAVO CHARLIE ,"))) == ["ALPHA BRAVO CHARLIE"]


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3, 1e-2])
def test_pauses_are_found_in_noise(noise: float) -> None:
    speech = beeps(", , ALPHA BRAVO , CHARLIE DELTA ,", noise=noise)

    assert finals(transcribe(speech)) == ["ALPHA BRAVO", "CHARLIE DELTA"]


def test_pauses_are_found_where_all_samples_have_an_offset() -> None:
    speech = beeps(", , ALPHA BRAVO , CHARLIE DELTA ,") + 0.09

    assert finals(transcribe(speech)) == ["ALPHA BRAVO", "CHARLIE DELTA"]


def test_a_quiet_speaker_after_a_loud_one_is_found() -> None:
    loud, quiet = beeps(", ALPHA BRAVO , ,"), beeps("CHARLIE DELTA ,", noise=1e-5)

    def recognize(waveform: Tensor) -> Segment:
        return read_beeps(waveform * (0.3 / max(1e-3, float(waveform.abs().max()))))

    waveform = torch.cat((3 * loud, *[torch.zeros(160_000)] * 2, 0.05 * quiet))

    assert finals(transcribe(waveform, recognize=recognize)) == [
        "ALPHA BRAVO",
        "CHARLIE DELTA",
    ]


# Silence


@pytest.mark.parametrize(
    "waveform",
    [
        torch.zeros(0),
        torch.zeros(5),
        torch.zeros(20 * SAMPLE_RATE),
        1e-3 * torch.randn(20 * SAMPLE_RATE),
        0.1 * torch.randn(20 * SAMPLE_RATE),
    ],
    ids=["nothing", "five samples", "zeros", "hiss", "loud hiss"],
)
def test_silence_and_steady_noise_give_nothing(waveform: Tensor) -> None:
    def recognize(waveform: Tensor) -> Segment:
        raise AssertionError("nothing is to be read")

    assert transcribe(waveform, recognize=recognize) == []


def test_a_click_begins_no_speech() -> None:
    waveform = 1e-4 * torch.randn(5 * SAMPLE_RATE)
    waveform[2 * SAMPLE_RATE :][:400] += 0.5

    assert transcribe(waveform) == []


# Pieces without a pause


def test_speech_without_a_pause_is_cut_and_no_word_is_lost_or_said_twice() -> None:
    said = " ".join([TEN_WORDS] * 12)  # 42 s

    events = transcribe(beeps(f", {said} ,"))

    assert " ".join(finals(events)) == said
    assert len(finals(events)) >= 3
    assert len(of(TurnEnded, events)) == len(of(SpeechStarted, events)) == 1


def test_a_turn_knows_how_long_it_was() -> None:
    said = " ".join([TEN_WORDS] * 6)

    (ended,) = of(TurnEnded, transcribe(beeps(f", {said} ,")))

    assert isinstance(ended, TurnEnded)
    assert ended.seconds == pytest.approx(59 * 0.35 + 0.25 + 0.7, abs=0.15)


# Provisional words


def test_words_on_which_two_readings_agree_are_shown() -> None:
    events = transcribe(beeps(f", {TEN_WORDS} ,"))

    # Every 0.7 s two words more, the newest of them not agreed on yet.
    assert shown(events)[0] == "ALPHA"
    assert len(shown(events)) >= 4
    for text in shown(events):
        assert TEN_WORDS.startswith(text)
        assert "UM" not in text


def test_words_of_a_single_reading_are_not_shown() -> None:
    events = transcribe(beeps(", ALPHA ,"))

    assert shown(events) == []
    assert finals(events) == ["ALPHA"]


def test_provisional_words_may_change() -> None:
    readings = iter(["A B", "A B C", "A X", "A X Y", "A X Y Z"])

    def recognize(waveform: Tensor) -> Segment:
        return said(next(readings, "A X Y Z"))

    events = transcribe(beeps(f", {TEN_WORDS} ,"), recognize=recognize)

    assert shown(events)[:4] == ["A B", "A", "A X", "A X Y"]
    assert finals(events) == ["A X Y Z"]


def said(text: str) -> Segment:
    """A segment whose words are not in one place."""
    segment = read_beeps(beeps(" ".join(["ALPHA"] * len(text.split()))))
    words = [
        type(word)(text, word.start, word.end, 0.5)
        for word, text in zip(segment.words, text.split(), strict=True)
    ]
    return Segment(0.0, segment.end, text, tuple(words), 0.5, (), (), None)


def test_what_is_no_longer_said_is_taken_back() -> None:
    readings = iter(["A B", "A B", "", "", "", "", "", "", ""])

    def recognize(waveform: Tensor) -> Segment:
        return said(next(readings))

    events = transcribe(beeps(", ALPHA BRAVO CHARLIE DELTA ,"), recognize=recognize)

    assert shown(events) == ["A B", ""]
    assert finals(events) == []


@pytest.mark.parametrize("seed", range(6))
def test_final_and_provisional_words_are_together_what_was_said_so_far(
    seed: int,
) -> None:
    chance = random.Random(seed)
    said = [chance.choice(list(WORDS)) for _ in range(100)]
    text = " ".join(w + chance.choice([" ,", " .", "", "", "", ""]) for w in said)
    final = list[str]()

    for event in transcribe(beeps(f", {text} ,")):
        if isinstance(event, Final):
            final += event.segment.text.split()
            now = final
        elif isinstance(event, Provisional):
            now = [*final, *(word.text for word in event.words)]
        else:
            continue
        assert now == said[: len(now)]
    assert final == said


def test_no_provisional_reading_is_begun_when_a_pause_is_about_to_end_the_piece() -> (
    None
):
    live = LiveTranscriber()
    speech = beeps(", ALPHA BRAVO CHARLIE ,")

    live.feed(speech[: round(2.4 * SAMPLE_RATE)])  # 0.45 s after the last word
    assert live.next_reading() is None
    live.feed(speech[round(2.4 * SAMPLE_RATE) :])

    reading = live.next_reading()
    assert reading
    assert reading.is_final


def test_no_reading_of_an_open_piece_where_none_is_wanted() -> None:
    live = LiveTranscriber(LiveConfig(interval=None))

    live.feed(beeps(f", {TEN_WORDS}"))

    assert live.next_reading() is None
    live.commit()
    reading = live.next_reading()
    assert reading
    assert reading.is_final


# Block sizes, and the time that readings take


def conversation(seed: int) -> Tensor:
    chance = random.Random(seed)
    words = [
        chance.choice([*WORDS, *WORDS, ",", ".", "."]) + " " * chance.randint(0, 1)
        for _ in range(60)
    ]
    return beeps(" ".join(words), pause=chance.uniform(0.4, 2.5))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", [LiveConfig(), MANUAL], ids=["pauses", "commit"])
def test_the_final_text_is_the_same_for_blocks_of_any_size(
    seed: int, config: LiveConfig
) -> None:
    waveform = conversation(seed)
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(len(waveform)), 40))

    expected = transcribe(waveform, config)

    for given in (
        [waveform],
        blocks(waveform, 1_600),
        blocks(waveform, 1_601),
        waveform.tensor_split(cuts),
        blocks(waveform[: 3 * SAMPLE_RATE], 7),
    )[: 4 if seed else 5]:
        alone = given if len(given) < 1_000 else [*given, waveform[3 * SAMPLE_RATE :]]
        events = transcribe(alone, config)
        assert of(Final, events) == of(Final, expected)
        assert of(TurnEnded, events) == of(TurnEnded, expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_final_text_is_the_same_however_slow_readings_are(seed: int) -> None:
    waveform = conversation(seed)
    chance = random.Random(seed)

    slow = transcribe(waveform, reads=lambda: chance.random() < 0.02)
    never = transcribe(waveform, reads=lambda: False)

    assert of(Final, slow) == of(Final, transcribe(waveform)) == of(Final, never)


@pytest.mark.parametrize("seed", range(4))
def test_a_session_that_is_ended_by_the_caller_is_cut_as_a_recording_is(
    seed: int,
) -> None:
    waveform = conversation(seed)
    recording = Recording(lambda: [waveform])
    (whole,) = transcripts(
        [recording], lambda batches: ([read_beeps(w) for w in b] for b in batches)
    )

    events = transcribe(waveform, MANUAL)

    assert isinstance(whole, Transcript)
    assert [e.segment for e in events if isinstance(e, Final)] == [
        segment for segment in whole.segments if segment.words
    ]


def test_readings_that_take_long_are_left_out_but_no_audio_is() -> None:
    live = LiveTranscriber()
    readings = list[Reading]()

    for block in blocks(beeps(f", {TEN_WORDS}")):
        live.feed(block)
        if reading := live.next_reading():
            readings.append(reading)  # and never done

    assert len(readings) == 1
    assert not readings[0].is_final
    events = [*live.done(read_beeps(readings[0].waveform)), *live.commit()]
    while late := live.next_reading():
        events += live.done(read_beeps(late.waveform))
    assert finals(events) == [TEN_WORDS]


def test_memory_does_not_grow_with_the_session() -> None:
    live = LiveTranscriber()
    stretch = beeps(
        f", {TEN_WORDS} {TEN_WORDS} {TEN_WORDS} {TEN_WORDS} {TEN_WORDS} , ,"
    )
    sizes = list[int]()

    for _ in range(8):
        live.feed(stretch)
        while reading := live.next_reading():
            live.done(read_beeps(reading.waveform))
        sizes.append(held_samples(live))

    assert max(sizes) <= 16 * SAMPLE_RATE
    assert live.unread_seconds == 0
    assert live.seconds == pytest.approx(8 * len(stretch) / SAMPLE_RATE)


def held_samples(live: LiveTranscriber) -> int:
    """How many samples are reachable: storages, not views of them."""
    tensors = [v for v in vars(live).values() if isinstance(v, Tensor)]
    assert len(tensors) >= 2
    assert not live._waiting
    return sum(tensor.untyped_storage().nbytes() // 4 for tensor in tensors)


def test_it_is_known_how_much_is_unread() -> None:
    live = LiveTranscriber()

    live.feed(beeps(f", {TEN_WORDS} , {TEN_WORDS} ,"))

    assert live.unread_seconds == pytest.approx(2 * (3.4 + 0.7), abs=0.3)


# Commit, clear and failure


def test_the_caller_ends_a_turn() -> None:
    live = LiveTranscriber(MANUAL)

    live.feed(beeps("ALPHA BRAVO , , CHARLIE"))
    assert live.turn == 0
    live.commit()
    assert live.turn is None
    live.feed(beeps("DELTA"))
    assert live.turn == 1
    live.commit()
    events = list[Event]()
    while reading := live.next_reading():
        events += live.done(read_beeps(reading.waveform))

    assert finals(events) == ["ALPHA BRAVO CHARLIE", "DELTA"] or finals(events) == [
        "ALPHA BRAVO",
        "CHARLIE",
        "DELTA",
    ]
    assert [e.turn for e in events if isinstance(e, TurnEnded)] == [0, 1]


def test_what_is_cleared_is_not_read() -> None:
    live = LiveTranscriber(MANUAL)

    live.feed(beeps("ALPHA BRAVO"))
    reading = live.next_reading()
    assert reading
    assert live.clear() == []
    assert live.done(read_beeps(reading.waveform)) == []
    live.feed(beeps("CHARLIE"))
    events = live.commit()
    while reading := live.next_reading():
        events += live.done(read_beeps(reading.waveform))

    assert finals(events) == ["CHARLIE"]
    assert [e.turn for e in events if isinstance(e, TurnEnded)] == [1]


def test_pieces_that_had_ended_are_kept_when_the_rest_is_cleared() -> None:
    live = LiveTranscriber()

    said = " ".join([TEN_WORDS] * 5)  # 17.5 s: a piece of 15 s and a rest
    events = live.feed(beeps(f", {said}", noise=0.0))
    events += live.clear()
    while reading := live.next_reading():
        events += live.done(read_beeps(reading.waveform))

    assert len(of(TurnEnded, events)) == 1
    assert 20 < len(finals(events)[0].split()) < 50
    assert said.startswith(finals(events)[0].removesuffix(" UM"))


def test_a_reading_that_fails_is_reported_and_the_next_one_done() -> None:
    live = LiveTranscriber()
    events = live.feed(beeps(", ALPHA BRAVO , CHARLIE ,"))

    assert live.next_reading()
    events += live.failed()
    while reading := live.next_reading():
        events += live.done(read_beeps(reading.waveform))

    (unread,) = of(Unread, events)
    assert isinstance(unread, Unread)
    assert (unread.start, unread.end) == pytest.approx((0.75, 1.85), abs=0.15)
    assert finals(events) == ["CHARLIE"]
    assert len(of(TurnEnded, events)) == 2


def test_a_failed_reading_of_an_open_piece_costs_nothing() -> None:
    live = LiveTranscriber()
    events = live.feed(beeps(", ALPHA BRAVO CHARLIE"))

    reading = live.next_reading()
    assert reading
    assert not reading.is_final
    assert live.failed() == []
    events += live.feed(beeps(","))
    while reading := live.next_reading():
        events += live.done(read_beeps(reading.waveform))

    assert finals(events) == ["ALPHA BRAVO CHARLIE"]


def test_one_reading_at_a_time() -> None:
    live = LiveTranscriber()
    live.feed(beeps(", ALPHA , BRAVO ,"))

    assert live.next_reading()
    assert live.next_reading() is None


def test_other_settings_end_what_is_open() -> None:
    live = LiveTranscriber()
    live.feed(beeps(", ALPHA BRAVO"))

    live.configure(MANUAL)
    live.feed(beeps("CHARLIE , DELTA ,"))
    events = live.commit()
    while reading := live.next_reading():
        events += live.done(read_beeps(reading.waveform))

    assert finals(events) == ["ALPHA BRAVO", "CHARLIE DELTA"]


def test_a_segment_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="no reading is under way"):
        LiveTranscriber().done(read_beeps(torch.zeros(100)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pause": 0.0}, "pause is 0.1 to 10, not 0"),
        ({"interval": 60.0}, "interval is 0.1 to 15, not 60"),
        ({"margin": 2.0}, "margin is 0 to 1, not 2"),
        ({"rise": -1.0}, "rise is 0 to 60, not -1"),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LiveConfig(**settings)


def test_pieces_are_those_of_a_recording() -> None:
    """The shared logic of pauses: `pieces` and the open turn agree on the cuts."""
    waveform = beeps(" ".join([TEN_WORDS] * 12))
    live = LiveTranscriber(LiveConfig(pause=None, interval=None))
    live.feed(waveform)
    live.commit()
    lengths = list[int]()
    while reading := live.next_reading():
        lengths.append(len(reading.waveform))
        live.done(read_beeps(reading.waveform))

    assert lengths == [len(piece.waveform) for piece in pieces([waveform])]
