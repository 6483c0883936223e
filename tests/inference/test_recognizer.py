import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

import asr.lm.ngram
from asr.decoding.config import DecodingConfig
from asr.decoding.ctc_alignment import CTCAlignment
from asr.decoding.ctc_window import FLOOR
from asr.decoding.hypothesis import Hypothesis
from asr.errors import AudioError, CheckpointError, ConfigError
from asr.features import log_mel
from asr.inference.confidence import FEATURES, Calibration
from asr.inference.recognizer import Recognizer
from asr.inference.retry import RETRY_CTC_WEIGHT
from asr.inference.search_result import END, SearchResult
from asr.lm.device_ngram import DeviceNGram
from asr.lm.ngram import WordNGram
from asr.lm.word_files import find_language_model
from asr.lm.word_tables import Level
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import CALIBRATION, Model, add_further, find_model, save_model
from asr.text import ALPHABET, CharTokenizer
from asr.transcript import Flag, Transcript


@pytest.fixture
def recognizer(model: Model) -> Recognizer:
    return Recognizer(model, DecodingConfig(beam_size=2))


def with_attention(block_size: int) -> Model:
    config = LASConfig(
        ListenerConfig(size=8, reductions=[2, 2], dropout=0.0),
        AttentionConfig(size=8, block_size=block_size),
        SpellerConfig(size=8, embedding_size=4, dropout=0.0),
    )
    tokenizer = CharTokenizer()
    return Model(LAS(config, tokenizer.size).eval(), tokenizer, {})


def noise(seconds: float) -> Tensor:
    return 0.1 * torch.randn(round(seconds * 16_000))


def test_a_file_its_samples_and_a_list_give_the_same_text(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    samples = noise(1.0).numpy()
    path = tmp_path / "noise.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")

    from_file = recognizer.transcribe(path)
    from_samples = recognizer.transcribe(samples, sample_rate=16_000)
    from_list = recognizer.transcribe([str(path), path])

    assert from_file.segments == from_samples.segments
    assert from_list == [from_file, from_file]
    assert (from_file.audio, from_samples.audio) == (str(path), "")
    assert from_file.duration == pytest.approx(1.0)


def test_channel_and_clip_of_samples_are_those_of_the_file(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    samples = torch.stack([noise(2.0), noise(2.0), noise(2.0)])
    path = tmp_path / "noise.wav"
    soundfile.write(path, samples.T.numpy(), 16_000, subtype="FLOAT")

    for channel in ("left", "right", 3):
        wishes: dict[str, Any] = {"channel": channel, "clip": (0.5, 1.5)}
        from_file = recognizer.transcribe(path, **wishes)
        from_samples = recognizer.transcribe(samples, sample_rate=16_000, **wishes)

        assert from_samples.segments == from_file.segments
        assert from_samples.segments[0].start == 0.5
        assert from_samples.duration == from_file.duration == 1.0
        assert from_samples.channel == from_file.channel == str(channel)


def test_what_is_no_channel_is_refused(recognizer: Recognizer, tmp_path: Path) -> None:
    channel: Any = "bogus"
    for audio in (noise(1.0), tmp_path / "a.wav"):
        with pytest.raises(ValueError, match=r"channel must be one of .*, not 'bogus'"):
            recognizer.transcribe(audio, sample_rate=16_000, channel=channel)


@pytest.mark.parametrize("num_samples", [1, 1599])
def test_a_moment_is_too_short_for_words(
    recognizer: Recognizer, num_samples: int
) -> None:
    transcript = recognizer.transcribe(torch.ones(num_samples), sample_rate=16_000)

    assert transcript.segments[0].flags == (Flag.SILENCE,)


def test_the_rate_of_samples_is_heeded(recognizer: Recognizer) -> None:
    transcript = recognizer.transcribe(np.zeros(44_100) + 0.1, sample_rate=44_100)

    assert transcript.duration == pytest.approx(1.0, abs=1e-3)


def test_samples_without_a_rate_are_refused(recognizer: Recognizer) -> None:
    with pytest.raises(TypeError, match="need their rate"):
        recognizer.transcribe(np.zeros(100))


def test_silence_has_no_words(recognizer: Recognizer) -> None:
    transcript = recognizer.transcribe(torch.zeros(16_000), sample_rate=16_000)

    assert transcript.text == ""
    assert transcript.segments[0].flags == (Flag.SILENCE,)
    assert transcript.segments[0].end == 1.0


def test_utterances_do_not_depend_on_their_company(recognizer: Recognizer) -> None:
    waveforms = [noise(seconds) for seconds in (0.3, 1.5, 0.8)]

    together = recognizer.recognize(waveforms)
    alone = [recognizer.recognize([waveform])[0] for waveform in waveforms]

    assert [s.text for s in together] == [s.text for s in alone]
    assert [s.end for s in together] == pytest.approx([0.3, 1.5, 0.8])


def test_a_silent_one_keeps_its_place_in_a_batch(recognizer: Recognizer) -> None:
    found = recognizer.recognize([noise(0.5), torch.zeros(8000), noise(0.7)])

    assert [segment.end for segment in found] == pytest.approx([0.5, 0.5, 0.7])
    assert found[1].text == ""


def test_an_alignment_has_a_row_for_each_character_and_the_end(
    recognizer: Recognizer,
) -> None:
    transcript = recognizer.transcribe(
        noise(1.0), sample_rate=16_000, return_alignment=True
    )

    (segment,) = transcript.segments
    assert segment.alignment is not None
    rows, steps = segment.alignment.weights.shape
    assert rows == len(segment.text) + 1 == len(segment.alignment.tokens)
    assert segment.alignment.characters == segment.text + END
    assert steps == 26  # 101 frames, joined by fours
    assert segment.alignment.seconds_per_step == 0.04
    torch.testing.assert_close(
        segment.alignment.weights.sum(dim=1), torch.ones(rows), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("block_size", [0, 5])
def test_an_alignment_has_the_blocks_of_its_attention(block_size: int) -> None:
    recognizer = Recognizer(with_attention(block_size), DecodingConfig(beam_size=2))

    (segment,) = recognizer.recognize([noise(1.0)], return_alignment=True)

    assert segment.alignment is not None
    assert segment.alignment.block_size == block_size


@pytest.mark.parametrize("block_size", [0, 5])
def test_a_text_is_read_through_the_window_of_its_search(block_size: int) -> None:
    model = with_attention(block_size)
    waveforms = [noise(1.5), noise(0.9)]
    narrow, wide, whole = (
        Recognizer(model, DecodingConfig(beam_size=2, attention_window=window))
        for window in (0.12, 9.0, None)  # seconds: 3 steps, and all of them
    )

    for found in narrow.search(waveforms):
        place = 0
        for row in torch.as_tensor(found.weights):
            first, behind = place - 3, place + 4
            if block_size:
                first = first // block_size * block_size
                behind = -(-behind // block_size) * block_size
            seen = row.nonzero()[:, 0]
            assert first <= seen.min()
            assert seen.max() < behind
            place = int(row.argmax())
    for through, over in zip(
        wide.search(waveforms), whole.search(waveforms), strict=True
    ):
        assert through.texts == over.texts
        torch.testing.assert_close(through.weights, over.weights)
        torch.testing.assert_close(through.log_probs, over.log_probs)


def test_a_text_that_no_search_would_find_is_scored_over_all_steps() -> None:
    model = with_attention(0)
    with torch.no_grad():
        model.las.ctc.weight.normal_(std=100.0)  # sure of itself at every step
    recognizer = Recognizer(model, DecodingConfig(beam_size=2, ctc_weight=1.0))
    waveform, text = noise(6.0), "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG"
    output = model.las.listen(log_mel(waveform)[None], torch.tensor([601]))
    log_probs = model.las.ctc_log_probs(output).detach().double().clamp(min=FLOOR)

    (found,) = recognizer.score([waveform], [text])

    loss = ctc_loss(
        log_probs.transpose(0, 1),
        torch.tensor([model.tokenizer.encode(text)]),
        output.num_ctc_steps,
        torch.tensor([len(text)]),
        blank=model.tokenizer.pad,
        reduction="sum",
    )
    assert found.log_prob == pytest.approx(-float(loss), rel=1e-5)


def test_a_long_recording_is_cut_into_segments_in_order(recognizer: Recognizer) -> None:
    transcript = recognizer.transcribe(noise(31.0), sample_rate=16_000)

    ends = [segment.end for segment in transcript.segments]
    starts = [segment.start for segment in transcript.segments]
    assert len(ends) >= 3
    assert starts == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(31.0)
    words = [word for s in transcript.segments for word in s.text.split()]
    assert transcript.text == " ".join(words)


def test_nbest_is_ranked_and_begins_with_the_text(recognizer: Recognizer) -> None:
    (segment,) = recognizer.transcribe(noise(1.0), sample_rate=16_000).segments

    scores = [alternative.score for alternative in segment.nbest]
    assert scores == sorted(scores, reverse=True)
    assert segment.nbest[0].text == segment.text


def test_the_ctc_head_has_its_say(model: Model) -> None:
    with torch.no_grad():  # a head that is sure of blank, whatever the sound
        model.las.ctc.bias[model.tokenizer.pad] = 100.0
    waveform = noise(1.0)

    without = Recognizer(model, DecodingConfig(beam_size=2, ctc_weight=0.0))
    with_ctc = Recognizer(model, DecodingConfig(beam_size=2, ctc_weight=0.9))

    assert without.search([waveform])[0].texts[0] != ""
    assert with_ctc.search([waveform])[0].texts[0] == ""


def words(characters: str = ALPHABET) -> WordNGram:
    """A language model that knows but one word."""
    first = Level(np.arange(3), np.log([0.7, 1e-9, 0.3]), np.zeros(3))
    return WordNGram(["CAB"], [first], CharTokenizer(characters))


def test_the_language_model_has_its_say(model: Model) -> None:
    waveform = noise(0.5)

    def recognize(weight: float, bonus: float) -> str:
        decoding = DecodingConfig(
            length_norm=0.0,
            eos_threshold=None,
            lm_weight=weight,
            word_bonus=bonus,
        )
        recognizer = Recognizer(model, decoding, language_model=words())
        return recognizer.recognize([waveform])[0].text

    plain = DecodingConfig(length_norm=0.0, eos_threshold=None)
    without = Recognizer(model, plain).recognize([waveform])[0].text
    assert recognize(0.0, 9.0) == without
    assert set(recognize(5.0, 0.0).split()) <= {"CAB"}
    assert len(recognize(5.0, 40.0).split()) > len(recognize(5.0, -40.0).split())


def test_the_speller_s_own_language_model_is_taken_off_beside_another(
    model: Model,
) -> None:
    waveform = noise(0.5)

    def score(weight: float, language_model: WordNGram | None) -> float:
        decoding = DecodingConfig(beam_size=1, ilm_weight=weight)
        recognizer = Recognizer(model, decoding, language_model=language_model)
        return recognizer.search([waveform])[0].hypotheses[0].log_prob

    assert score(0.5, words()) > score(0.0, words())  # what is taken off is negative
    assert score(0.5, None) == score(0.0, None)


def test_a_language_model_of_another_alphabet_is_refused(model: Model) -> None:
    with pytest.raises(CheckpointError, match="has another alphabet"):
        Recognizer(model, language_model=words(" ABC"))


@pytest.mark.parametrize("kind", ["characters", "subwords", "words"])
def test_hot_words_have_their_say(
    kind: str, model: Model, subword_model: Model
) -> None:
    """Also one that the language model beside it does not know."""
    waveform, language_model = noise(0.6), words() if kind == "words" else None
    model = subword_model if kind == "subwords" else model

    def recognize(weight: float) -> str:
        decoding = DecodingConfig(
            beam_size=8, hotwords=("the mat", "Cat"), hotword_weight=weight
        )
        recognizer = Recognizer(model, decoding, language_model=language_model)
        assert recognizer.settings["hotwords"] == ["THE MAT", "CAT"]
        return recognizer.recognize([waveform])[0].text

    assert not {"MAT", "CAT"} & set(recognize(0.0).split())
    assert {"MAT", "CAT"} & set(recognize(20.0).split())


def test_a_hot_word_that_the_model_cannot_write_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"hot word '北京': has no letter that this"):
        Recognizer(model, DecodingConfig(hotwords=("北京",)))


def test_further_hot_words_make_another_recognizer_of_the_same_network(
    model: Model,
) -> None:
    one = Recognizer(model, DecodingConfig(beam_size=2, hotwords=("Anna",)))

    other = one.with_hotwords(["Berta", "anna"])
    alone = Recognizer(
        model, DecodingConfig(beam_size=2, hotwords=("Anna", "Berta", "anna"))
    )

    assert other.settings["hotwords"] == ["ANNA", "BERTA"]
    assert one.settings["hotwords"] == ["ANNA"]
    assert other.las is one.las
    sound = noise(1.0)
    assert other.recognize([sound]) == alone.recognize([sound])
    assert one.with_hotwords("Berta,New York").decoding.hotwords == (
        *("ANNA", "BERTA", "NEW YORK"),
    )
    with pytest.raises(ConfigError, match="has no letter that this model writes"):
        one.with_hotwords(["北京"])
    with pytest.raises(ConfigError, match=r"decoding\.hotwords are texts in a list"):
        one.with_hotwords([1])  # type: ignore[list-item]


@pytest.fixture
def _first_notice() -> None:
    asr.lm.word_files._leave_out.cache_clear()


@pytest.mark.usefixtures("_first_notice")
def test_the_language_model_of_words_is_left_out_beside_subwords(
    subword_model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, *subword_model)

    recognizers = [Recognizer.load(tmp_path) for _ in range(2)]

    assert [one.language_model for one in recognizers] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "asr: the word language model is left out: it is for characters only, which "
        "this model does not write"
    ]
    assert recognizers[0].settings["language_model"] is False


@pytest.mark.usefixtures("_first_notice")
def test_nothing_is_left_out_where_none_was_asked_for(
    subword_model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, *subword_model)

    Recognizer.load(tmp_path, decoding=DecodingConfig(lm_weight=0))

    assert not caplog.records


@pytest.mark.usefixtures("_first_notice")
def test_the_bundled_language_model_is_left_out_beside_another_alphabet(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = CharTokenizer(ALPHABET[::-1])
    save_model(tmp_path, model.las, other, {})

    assert Recognizer.load(tmp_path).language_model is None
    assert "is left out: it has another alphabet than this model" in caplog.text


def test_a_language_model_that_was_asked_for_is_not_left_out(
    subword_model: Model, model: Model, tmp_path: Path
) -> None:
    save_model(tmp_path / "subwords", *subword_model)
    save_model(tmp_path / "other", model.las, CharTokenizer(ALPHABET[::-1]), {})
    folder = find_language_model(None)

    with pytest.raises(
        CheckpointError, match="is for characters only, which this model"
    ):
        Recognizer.load(tmp_path / "subwords", language_model=folder)
    with pytest.raises(CheckpointError, match="language model has another alphabet"):
        Recognizer.load(tmp_path / "other", language_model=folder)


def test_a_model_of_subwords_transcribes_with_times_and_all_else(
    subword_model: Model,
) -> None:
    recognizer = Recognizer(subword_model, DecodingConfig(beam_size=4))

    transcript = recognizer.transcribe(
        noise(20.0), sample_rate=16_000, return_alignment=True
    )

    assert len(transcript.segments) >= 2
    assert [word.text for word in transcript.words] == transcript.text.split() != []
    times = [time for word in transcript.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(0 <= word.confidence <= 1 for word in transcript.words)
    for segment in transcript.segments:
        assert segment.nbest[0].text.split()
        if segment.alignment:
            rows = segment.alignment.tokens
            assert len(rows) == len(segment.alignment.weights)
            assert "".join(rows).rstrip(END).split() == segment.text.split()
    again = Transcript.from_dict(transcript.to_dict())
    assert again.to_dict() == transcript.to_dict()


def test_a_missing_language_model_is_reported_by_its_path(
    model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="none: holds no language model"):
        Recognizer.load(model_folder, language_model=tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_several_threads_get_the_same_answers(model: Model, precision: str) -> None:
    recognizer = Recognizer(
        model, DecodingConfig(beam_size=2), precision=precision, language_model=words()
    )
    waveforms = [noise(0.3 + 0.2 * i) for i in range(8)]

    def recognize(i: int) -> Transcript:
        return recognizer.transcribe(waveforms[i], sample_rate=16_000)

    alone = [recognize(i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(recognize, [*range(8), *range(8)]))

    assert len({transcript.text for transcript in alone}) > 4
    assert together == alone + alone


def test_a_saved_model_transcribes_like_the_one_in_memory(
    model: Model, recognizer: Recognizer, tmp_path: Path
) -> None:
    save_model(tmp_path / "run" / "model", model.las, model.tokenizer, {})
    waveform = noise(1.0)

    decoding = DecodingConfig(beam_size=2, lm_weight=0)
    loaded = Recognizer.load(tmp_path / "run", decoding=decoding)

    assert loaded.recognize([waveform]) == recognizer.recognize([waveform])


def test_the_bundled_language_model_has_its_say(model: Model, tmp_path: Path) -> None:
    save_model(tmp_path, model.las, model.tokenizer, {})
    waveform = noise(1.0)

    with_words, without = (
        Recognizer.load(tmp_path, decoding=DecodingConfig(beam_size=2, lm_weight=w))
        for w in (1.0, 0.0)
    )

    assert without.language_model is None
    assert with_words.recognize([waveform]) != without.recognize([waveform])


@pytest.mark.slow
def test_the_language_model_of_a_gpu_finds_the_same_text() -> None:
    recognizer = Recognizer.load()
    assert recognizer.language_model
    recording = Path(str(files("asr") / "assets" / "sample.opus"))

    expected = recognizer.transcribe(recording)
    there = DeviceNGram(recognizer.language_model, torch.device("cpu"))
    recognizer._search.language_model = there
    found = recognizer.transcribe(recording)

    assert found.text == expected.text
    for one, other in zip(
        found.segments[0].nbest, expected.segments[0].nbest, strict=True
    ):
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=1e-4)
    assert "GO" in found.text


def test_what_the_memory_of_a_gpu_cannot_hold_is_searched_in_halves(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveforms = [noise(0.3 + 0.1 * number) for number in range(5)]
    expected = [segment.text for segment in recognizer.recognize(waveforms)]
    search, sizes = recognizer._search._search, list[int]()
    most = 2

    def short_of_memory(
        waveforms: Sequence[Tensor], decoding: DecodingConfig
    ) -> list[SearchResult]:
        if len(waveforms) > most:
            raise torch.OutOfMemoryError
        sizes.append(len(waveforms))
        return search(waveforms, decoding)

    monkeypatch.setattr(recognizer._search, "_search", short_of_memory)
    found = [segment.text for segment in recognizer.recognize(waveforms)]

    assert found == expected
    assert sizes[:3] == [2, 1, 2]
    most = 0
    with pytest.raises(
        ConfigError, match=r"too little memory for 1 s of audio at beam_size 2 \(use"
    ):
        recognizer.recognize([noise(1.0)])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model \(a folder with model"):
        find_model(tmp_path)


def test_a_bundled_model_is_found_by_its_name_where_no_path_has_it(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder)
    assert find_model("las_mini") == find_model(Path("las_mini")) == find_model(None)

    model_folder.rename(model_folder.with_name("las_mini"))
    monkeypatch.chdir(model_folder.parent)
    assert find_model("las_mini") == Path("las_mini")


def test_an_unknown_name_is_answered_with_the_bundled_ones(tmp_path: Path) -> None:
    for name in ("las_maxi", "words", "..", str(tmp_path / "las_mini")):
        with pytest.raises(CheckpointError, match=r"was expected: las_mini\)$"):
            Recognizer.load(name)


def test_a_file_of_a_bundled_models_name_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "las_mini").write_text("a file")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(CheckpointError, match="las_mini: holds no model"):
        find_model("las_mini")


def test_a_missing_recording_is_reported_by_its_path(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav"):
        recognizer.transcribe(tmp_path / "gone.wav")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ctc_weight": 1.5}, r"decoding\.ctc_weight is a share from 0 to 1, not 1\.5"),
        ({"coverage": -1.0}, r"decoding\.coverage must be at least 0"),
        ({"lm_weight": -1.0}, r"decoding\.lm_weight must be zero or more"),
        ({"ilm_weight": -1.0}, r"decoding\.ilm_weight must be zero or more"),
        ({"word_bonus": inf}, r"decoding\.word_bonus must be a number, not inf"),
        ({"beam_size": 0}, r"decoding\.beam_size must be at least 1"),
        ({"hotword_weight": -1.0}, r"decoding\.hotword_weight must be zero or more"),
        ({"hotwords": "ANNA"}, r"decoding\.hotwords are texts in a list, not 'ANNA'"),
        ({"hotwords": [1]}, r"decoding\.hotwords are texts in a list, not \[1\]"),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingConfig(**settings)  # type: ignore[arg-type]


def test_a_model_that_never_ends_is_stopped_by_each_length(model: Model) -> None:
    with torch.no_grad():
        model.las.speller.output.bias[model.tokenizer.eos] = -100.0
    recognizer = Recognizer(model, DecodingConfig(beam_size=2, ctc_weight=0.0))

    short, long = recognizer.search([noise(0.4), noise(2.0)])

    assert len(short.texts[0]) == 15  # 25 a second, and 5
    assert len(long.texts[0]) == 55
    assert Flag.UNFINISHED in short.segment(None).flags


# A text that is no good


class Answers:
    """Findings of given texts: with the usual settings, and with care."""

    def __init__(self, usual: str, careful: str, finished: bool = True) -> None:
        self.usual, self.careful, self.finished = usual, careful, finished
        self.weights = list[float]()

    def __call__(
        self, waveforms: Sequence[Tensor], ctc_weight: float = 0.0
    ) -> list[SearchResult]:
        self.weights += [ctc_weight] * len(waveforms)
        text = self.careful if ctc_weight else self.usual
        finished = self.finished or ctc_weight > 0
        steps = torch.arange(float(len(text)))
        hypothesis = Hypothesis(tuple(range(len(text))), -1.0, finished=finished)
        result = SearchResult(
            hypotheses=[hypothesis],
            texts=[text],
            pieces=text,
            alignment=CTCAlignment(steps, steps + 1, torch.zeros(len(text))),
            log_probs=torch.zeros(len(text) + 1),
            weights=torch.zeros(len(text) + 1, 9),
            seconds_per_ctc_step=0.04,
            seconds_per_step=0.04,
            duration=1.0,
        )
        return [result] * len(waveforms)


LOOP = "AND " * 9


@pytest.mark.parametrize(
    ("usual", "careful", "finished", "text", "flags"),
    [
        ("GO ON", "GO", True, "GO ON", ()),
        (LOOP, "GO", True, "GO", (Flag.RETRIED,)),
        ("GO ON", "GO", False, "GO", (Flag.RETRIED,)),
        (LOOP, LOOP, True, LOOP.strip(), (Flag.LOOP,)),
    ],
)
def test_a_text_that_is_no_good_is_searched_for_again(
    usual: str,
    careful: str,
    finished: bool,
    text: str,
    flags: tuple[Flag, ...],
    recognizer: Recognizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = Answers(usual, careful, finished)
    monkeypatch.setattr(recognizer, "search", answers)

    (segment,) = recognizer.recognize([noise(1.0)])

    assert (segment.text, segment.flags) == (text, flags)
    again = usual == LOOP or not finished
    assert answers.weights == ([0.0, RETRY_CTC_WEIGHT] if again else [0.0])


def test_the_second_search_gives_the_ctc_head_more_weight(model: Model) -> None:
    with torch.no_grad():  # a head that is sure of blank, whatever the sound
        model.las.ctc.bias[model.tokenizer.pad] = 100.0
    recognizer = Recognizer(model, DecodingConfig(beam_size=2, ctc_weight=0.0))

    assert recognizer.search([noise(1.0)])[0].texts[0] != ""
    assert recognizer.search([noise(1.0)], RETRY_CTC_WEIGHT)[0].texts[0] == ""


# Confidence


def test_the_calibration_of_a_model_folder_is_loaded(model_folder: Path) -> None:
    calibration = Calibration((0.0,) * len(FEATURES), 0.0, speech=0.0)
    add_further(model_folder, CALIBRATION, json.dumps(calibration.to_dict()).encode())

    recognizer = Recognizer.load(model_folder, decoding=DecodingConfig(beam_size=2))

    assert recognizer.calibration == calibration
    words = recognizer.transcribe(noise(1.0), sample_rate=16_000).words
    assert {word.confidence for word in words} == {0.5}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": 1, "bias": 0}'])
def test_a_damaged_calibration_is_reported(model_folder: Path, content: str) -> None:
    add_further(model_folder, CALIBRATION, content.encode())

    with pytest.raises(CheckpointError, match=r"confidence\.json: "):
        Recognizer.load(model_folder)


def test_a_head_that_finds_nothing_makes_it_noise(model: Model) -> None:
    with torch.no_grad():
        model.las.ctc.bias[model.tokenizer.pad] = 100.0
    strict = Calibration((0.0,) * len(FEATURES), 0.0, speech=0.3)
    decoding = DecodingConfig(beam_size=2, ctc_weight=0.0)

    (segment,) = Recognizer(model, decoding, calibration=strict).recognize([noise(1.0)])

    assert (segment.text, segment.flags) == ("", (Flag.NOISE,))


# Long recordings, clips and channels


def test_a_long_recording_is_transcribed_piece_by_piece(recognizer: Recognizer) -> None:
    waveform = torch.cat((noise(6.0), torch.zeros(3 * 16_000), noise(6.0)))
    done = list[float]()

    found = recognizer.transcribe(waveform, sample_rate=16_000, progress=done.append)

    assert [Flag.SILENCE in segment.flags for segment in found.segments] == [
        *(False, True, False),
    ]
    assert found.duration == 15.0
    assert sum(done) == pytest.approx(15.0)
    times = [t for word in found.words for t in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= 15.0


def test_a_clip_of_a_channel_is_transcribed_as_if_it_were_alone(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    left, right = noise(3.0), noise(3.0)
    soundfile.write(
        tmp_path / "a.wav", torch.stack((left, right), 1).numpy(), 16_000, "FLOAT"
    )

    found = recognizer.transcribe(tmp_path / "a.wav", channel="right", clip=(1, 2.5))

    (alone,) = recognizer.recognize([right[16_000:40_000]])
    assert found.text == alone.text
    assert (found.duration, found.channel) == (1.5, "right")
    assert [word.start for word in found.words] == pytest.approx(
        [word.start + 1 for word in alone.words]
    )


def test_a_transcript_records_how_it_was_made(model_folder: Path) -> None:
    recognizer = Recognizer.load(
        model_folder, decoding=DecodingConfig(beam_size=2), precision="int8"
    )

    found = recognizer.transcribe(noise(0.5), sample_rate=16_000)

    assert found.model == str(model_folder)
    assert found.settings["beam_size"] == 2
    assert found.settings["precision"] == "int8"


# In bytes


def test_bytes_give_nearly_the_same_scores_and_leave_the_model_alone(
    model: Model,
) -> None:
    exact, waveform = Recognizer(model, DecodingConfig(beam_size=1)), noise(1.0)
    before = exact.recognize([waveform])

    int8 = Recognizer(model, DecodingConfig(beam_size=1), precision="int8")
    (segment,) = int8.recognize([waveform])

    assert segment.nbest[0].score != before[0].nbest[0].score
    assert segment.nbest[0].score == pytest.approx(before[0].nbest[0].score, abs=0.2)
    assert exact.recognize([waveform]) == before


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("int4", "cpu", r"precision int4: is not known \(use float32 or int8\)"),
        ("int8", "meta", r"precision int8: is for the CPU \(not for meta\)"),
    ],
)
def test_a_precision_that_is_not_to_be_had_is_refused(
    model: Model, precision: str, device: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Recognizer(model, device=device, precision=precision)


# Names of version 0.1


def test_arguments_of_version_0_1_are_accepted_with_a_warning(
    recognizer: Recognizer,
) -> None:
    with pytest.warns(FutureWarning) as warned:
        transcript = recognizer.transcribe(  # type: ignore[call-overload]
            noise(1.0), rate=16_000, alignment=True
        )

    assert transcript.segments[0].alignment is not None
    assert {str(one.message).partition(" now")[0] for one in warned} == {
        "transcribe: rate is called sample_rate",
        "transcribe: alignment is called return_alignment",
    }


def test_a_device_that_is_not_there_is_reported(model: Model) -> None:
    with pytest.raises(ConfigError, match="device tpu: is not known"):
        Recognizer(model, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device cuda: torch finds no GPU here"):
            Recognizer(model, device="cuda:0")
        assert Recognizer(model, device="auto").device.type == "cpu"


def test_another_beam_leaves_the_recognizer_as_it_is(model: Model) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=4))

    narrow = recognizer.with_beam_size(1)

    assert (recognizer.decoding.beam_size, narrow.decoding.beam_size) == (4, 1)
    assert narrow.las is recognizer.las
    with pytest.raises(ConfigError, match="beam_size"):
        recognizer.with_beam_size(0)
