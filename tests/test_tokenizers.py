import io
import json
import pickle
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import soundfile

from asr.audio import SAMPLE_RATE
from asr.cli import main
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import CheckpointError, ConfigError
from asr.model.storage import load_model
from asr.scoring import word_error_rate
from asr.text import ALPHABET, CharTokenizer, Tokenizer
from asr.tokenizers import (
    MOST_BYTES,
    SUBWORDS,
    Subwords,
    TokenizerConfig,
    alphabet_written,
    read_tokenizer,
)
from asr.transcript import Transcript
from recipes.toy.make import sing

TEXTS = [
    "THE CAT SAT ON THE MAT",
    "THE DOG SAT ON THE CAT",
    "A MAT IS NOT A HAT",
    "THAT HAT SAT THERE",
]


@pytest.fixture
def subwords() -> Subwords:
    return Subwords.make(TEXTS, 22)


def made(**settings: Any) -> bytes:
    """A vocabulary that somebody made with other settings of sentencepiece."""
    model = io.BytesIO()
    special = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 22, **special, **settings},
    )
    return model.getvalue()


def read_back(tokenizer: Tokenizer, content: bytes | None = None) -> Tokenizer:
    """Rebuild a tokenizer, perhaps with another content of its file."""
    entries = json.loads(json.dumps(tokenizer.to_dict()))
    files = tokenizer.files() if content is None else {SUBWORDS: content}

    def read(name: str, most: int) -> bytes:
        assert most == MOST_BYTES
        return files[name]

    return read_tokenizer(entries, read)


# Texts and tokens


def test_texts_come_back_in_fewer_tokens_than_characters(subwords: Subwords) -> None:
    assert subwords.size == 22
    for text in TEXTS:
        tokens = subwords.encode(text)
        assert all(3 < token < 22 for token in tokens)
        assert len(tokens) < len(text)
        framed = [subwords.sos, *tokens, subwords.eos, subwords.pad, subwords.unk]
        assert subwords.decode(framed) == text


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), Subwords.make(TEXTS, 22)])
def test_pieces_joined_have_the_words_of_the_text(tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.sos, *tokenizer.encode(TEXTS[0]), tokenizer.eos]

    pieces = tokenizer.pieces(tokens)

    assert len(pieces) == len(tokens)
    assert pieces[0] == pieces[-1] == ""
    assert "".join(pieces).split() == TEXTS[0].split()
    assert tokenizer.decode(tokens) == TEXTS[0]


def test_a_subword_that_begins_a_word_has_the_space_before_it(
    subwords: Subwords,
) -> None:
    assert subwords.pieces(subwords.encode("THE CAT")) == [" THE", " CAT"]


def test_special_tokens_have_the_numbers_of_the_characters_special_tokens() -> None:
    characters = CharTokenizer()

    assert (Subwords.pad, Subwords.sos, Subwords.eos) == (
        *(characters.pad, characters.sos, characters.eos),
    )


def test_a_character_that_no_subword_has_is_named(subwords: Subwords) -> None:
    with pytest.raises(ValueError, match="'X' is not among the subwords' characters"):
        subwords.encode("THE XAT")


@pytest.mark.parametrize("token", [-1, 22])
def test_a_token_outside_the_vocabulary_is_refused(
    subwords: Subwords, token: int
) -> None:
    with pytest.raises(ValueError, match=f"tokens are 0 to 21, got {token}"):
        subwords.decode([5, token])


# Made


def test_vocabularies_are_equal_by_content(subwords: Subwords) -> None:
    again = Subwords.make(iter(TEXTS), 22)
    sent = pickle.loads(pickle.dumps(subwords))

    assert subwords == again == sent
    assert hash(subwords) == hash(again)
    assert subwords.to_dict() == again.to_dict()
    assert sent.encode(TEXTS[0]) == subwords.encode(TEXTS[0])
    other = Subwords.make(TEXTS, 21)
    assert subwords != other
    assert subwords.to_dict() != other.to_dict()


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (900, "tokenizer.size: 900 is too much for these texts (at most 2"),
        (5, "tokenizer.size: 5 is too little for these texts (at least "),
        (4, "tokenizer.size: must be above 4"),
        (-1, "tokenizer.size: must be above 4"),
        (2**31, f"tokenizer.size: {2**31} cannot be made of these texts"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_one_line(size: int, error: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(error)) as caught:
        Subwords.make(TEXTS, size)

    assert "\n" not in str(caught.value)
    assert "vocab" not in str(caught.value).lower()


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot be made of these texts \(are they"):
        Subwords.make([], 20)


@pytest.mark.parametrize("size", [900, 5])
def test_the_size_that_a_message_names_can_be_had(size: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Subwords.make(TEXTS, size)
    (named,) = re.findall(r"at (?:most|least) (\d+)", str(caught.value))

    assert Subwords.make(TEXTS, int(named)).size == int(named)


def test_settings_make_a_tokenizer(subwords: Subwords) -> None:
    assert TokenizerConfig().make(TEXTS) == CharTokenizer()
    assert TokenizerConfig("subwords", 22).make(iter(TEXTS)) == subwords


def test_the_alphabet_is_english_that_of_the_texts_or_that_of_a_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_text("abc\n", encoding="utf-8")

    made = [
        TokenizerConfig(alphabet=alphabet).make(["Über, so"])
        for alphabet in ("english", "auto", str(path))
    ]

    assert [alphabet_written(tokenizer) for tokenizer in made] == [
        ALPHABET,
        " ,beorsÜ",
        " abc",
    ]
    assert alphabet_written(Subwords.make(["a b", "ab c ä"], 10)) == " abcä"


def test_an_alphabet_for_subwords_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tokenizer.alphabet: is for .*=characters"):
        TokenizerConfig("subwords", 22, "auto")


@pytest.mark.parametrize(
    ("kind", "size", "error"),
    [
        ("words", None, "tokenizer.kind words: is not known (use characters or subw"),
        ("characters", 300, "tokenizer.size: is for tokenizer.kind=subwords only"),
        ("subwords", None, "tokenizer.size: tokenizer.kind=subwords needs it"),
    ],
)
def test_settings_that_say_nothing_are_refused(
    kind: str, size: int | None, error: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        TokenizerConfig(kind, size)


# Read


@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer(), CharTokenizer("абв "), Subwords.make(TEXTS, 22)]
)
def test_a_tokenizer_comes_back_by_its_kind(tokenizer: Tokenizer) -> None:
    assert read_back(tokenizer) == tokenizer


@pytest.mark.parametrize(
    "entries",
    [[], "subwords", None, {}, {"kind": ["subwords"]}, {"kind": "words", "size": 22}],
)
def test_a_kind_that_is_not_known_is_refused(entries: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"is of no known kind \(want characters or subwords\)"
    ):
        read_tokenizer(entries, lambda name, most: b"")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "subwords.model: is empty"),
        (b"no vocabulary", "subwords.model: is no vocabulary of sentencepiece"),
        (Subwords.make(TEXTS, 22).model[:-9], "is no vocabulary of sentencepiece"),
        (made(pad_id=-1), "has other special tokens, (-1, 1, 2, 3) (want 0, 1, 2, 3)"),
        (
            made(treat_whitespace_as_suffix=True),
            "a token that is no part of one word, '",
        ),
        (made(user_defined_symbols=["A B"]), "a token that is no part of one word"),
        (made(control_symbols=["<x>"]), "token that is no part of one word, '<x>'"),
        (Subwords.make(TEXTS, 21).model, "is not the vocabulary of this model"),
    ],
)
def test_a_vocabulary_that_is_not_the_one_that_was_written_is_refused(
    subwords: Subwords, content: bytes, error: str
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(error)) as caught:
        read_back(subwords, content)

    assert str(caught.value).startswith("subwords.model: ")
    assert "\n" not in str(caught.value)


def test_bytes_for_unknown_characters_are_refused() -> None:
    content = made(byte_fallback=True, vocab_size=22 + 256)

    with pytest.raises(ValueError, match="no part of one word, '<0x00>'"):
        Subwords(content)


def test_a_file_is_read(subwords: Subwords, tmp_path: Path) -> None:
    path = tmp_path / SUBWORDS
    path.write_bytes(subwords.model)

    assert Subwords.read(path) == subwords

    path.write_bytes(b"no vocabulary")
    with pytest.raises(CheckpointError, match=r"/subwords\.model: is no vocabulary of"):
        Subwords.read(path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model: cannot be read \(No such file"):
        Subwords.read(path)


def test_without_sentencepiece_the_errors_name_the_extra(
    subwords: Subwords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SUBWORDS).write_bytes(subwords.model)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    extra = re.escape('pip install "listen-attend-spell[subwords]"')

    with pytest.raises(ConfigError, match=f"^tokenizer.kind=subwords: .*{extra}"):
        Subwords.make(TEXTS, 22)
    with pytest.raises(CheckpointError, match=f"^tokenizer: .*{extra}"):
        read_back(subwords)
    with pytest.raises(CheckpointError, match=rf"subwords\.model: .*{extra}"):
        Subwords.read(tmp_path / SUBWORDS)
    assert read_back(CharTokenizer()) == CharTokenizer()


# From the texts to a transcript

WORDS = ["ONTO", "INTO", "ONE", "TEN", "NINE", "NOTE", "TONE", "TINT", "IN", "ON"]


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """Words of which each letter is a tone, as manifests."""
    for subset, size in {"train": 160, "dev": 16, "test": 16}.items():
        rng, utterances = random.Random(subset), list[Utterance]()
        for number in range(size):
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 3)))
            samples = sing(text, rng)
            path = tmp_path / f"{subset}-{number}.wav"
            soundfile.write(path, samples, SAMPLE_RATE)
            seconds = len(samples) / SAMPLE_RATE
            utterances.append(Utterance(path.stem, str(path), seconds, text))
        write_manifest(tmp_path / f"{subset}.jsonl", utterances)
    return tmp_path


def sounding(path: str) -> list[tuple[float, float]]:
    """Find the words of such a recording by the pauses between them."""
    samples, rate = soundfile.read(path)
    loud = np.flatnonzero(np.abs(samples) > 0.05) / rate
    cuts = np.flatnonzero(np.diff(loud) > 0.08)
    starts, ends = [loud[0], *loud[cuts + 1]], [*loud[cuts], loud[-1]]
    return [(float(s), float(e)) for s, e in zip(starts, ends, strict=True)]


@pytest.mark.slow
def test_subwords_are_trained_exported_decoded_and_transcribed_with_times(
    tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[1] / "recipes" / "toy" / "las.yaml"
    run, packed, out = tones / "run", tones / "packed", tones / "out"
    settings = [
        f"data.train=[{tones / 'train.jsonl'}]",
        f"data.dev={tones / 'dev.jsonl'}",
        *("tokenizer.kind=subwords", "tokenizer.size=18"),
        *("training.epochs=50", "training.validations=1"),
    ]
    test = read_manifest(tones / "test.jsonl")

    assert main(["train", str(config), str(run), *settings]) == 0
    assert main(["export", str(run), str(packed)]) == 0
    shutil.rmtree(run)
    search = ["--model", str(packed), "--beam", "8"]
    decode = ["decode", str(tones / "test.jsonl"), str(out), "--processes", "1"]
    assert main([*decode, *search]) == 0
    files = [utterance.audio for utterance in test]
    formats = ["--output-dir", str(out), "--output-format", "all"]
    assert main(["transcribe", *files, *formats, *search]) == 0
    page = str(out / "page.html")
    assert main(["explain", files[0], "--output", page, *search]) == 0

    tokenizer = load_model(packed).tokenizer
    assert isinstance(tokenizer, Subwords)
    assert any(len(piece) > 2 for piece in tokenizer.pieces(range(tokenizer.size)))
    decoded = read_manifest(out / "hypotheses.jsonl")
    texts = [utterance.text for utterance in test]
    assert word_error_rate(texts, [u.text for u in decoded]).rate < 0.3
    right = 0
    for utterance in test:
        tree = json.loads((out / f"{utterance.id}.json").read_text())
        transcript = Transcript.from_dict(tree)
        if transcript.text != utterance.text:
            continue
        right += 1
        spans = sounding(utterance.audio)
        for word, (start, end) in zip(transcript.words, spans, strict=True):
            assert start - 0.1 < word.start < word.end < end + 0.2  # a spike inside
        assert transcript.segments[0].nbest[0].text == utterance.text
        assert all(0 < word.confidence <= 1 for word in transcript.words)
    assert right > 8
    assert '"tokens": [" ' in (out / "page.html").read_text()
    assert capsys.readouterr().out.count("dev loss") == 1
