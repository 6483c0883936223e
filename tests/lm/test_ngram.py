import random
import re
from itertools import pairwise, product
from math import inf, log
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.decoding import SearchConfig, beam_search
from asr.errors import CheckpointError
from asr.lm.ngram import NGramPrefix, WordNGram
from asr.lm.word_files import DESCRIPTION, FILE
from asr.lm.word_tables import UNKNOWN, Level
from asr.tensor_files import read_tensors, write_tensors
from asr.text import CharTokenizer

TOKENIZER = CharTokenizer()
WORDS = ["A", "AN", "AND", "BE", "I'M"]
UNK, END, N = 5, 6, 7


def make(seed: int = 0) -> WordNGram:
    """Random log-probabilities and back-offs: they need not sum to one here."""
    rng = np.random.default_rng(seed)

    def level(keys: Any) -> Level:
        keys = np.array(sorted(keys), dtype=np.int64)
        return Level(keys, -5 * rng.random(len(keys)), -rng.random(len(keys)))

    pairs = rng.choice(N * N - 1, 20, replace=False)
    triples = [p * N + w for p in pairs[:9] for w in (0, 3, UNK, END)]
    unigrams = np.log(np.array([0.2, 0.1, 0.15, 0.2, 0.05, 0.1, 0.2]))
    first = Level(np.arange(N), unigrams, -rng.random(N))
    return WordNGram(WORDS, [first, level(pairs), level(triples)])


def slow_log_prob(model: WordNGram, history: tuple[int, ...], word: int) -> float:
    """Back off, written down as the formula is, in a dictionary of tuples."""
    tables = dict[tuple[int, ...], tuple[float, float]]()
    for n, level in enumerate(model.levels, 1):
        for key, log_prob, backoff in zip(*level, strict=True):
            gram = tuple(int(key) // N**i % N for i in reversed(range(n)))
            tables[gram] = (log_prob, backoff)

    def back_off(history: tuple[int, ...]) -> float:
        if (*history, word) in tables:
            return tables[(*history, word)][0]
        return tables.get(history, (0.0, 0.0))[1] + back_off(history[1:])

    return back_off(history)


def slow_sentence(model: WordNGram, text: str, bonus: float = 0.0) -> float:
    words = [*text.split(), None]
    history, total = (END, END), 0.0
    for word in words:
        number = END if word is None else UNK
        if word in WORDS:
            number = WORDS.index(word)
        total += slow_log_prob(model, history, number)
        if number == UNK and word is not None:
            total += UNKNOWN * len(word)
        total += bonus * (word is not None)
        history = (history[1], number)
    return total


def spell(steps: NGramPrefix, text: str) -> list[float]:
    tokens = [TOKENIZER.sos, *TOKENIZER.encode(text), TOKENIZER.eos]
    state, found = steps.start(), list[float]()
    for token, after in pairwise(tokens):
        scores, state = steps.step(torch.tensor([token]), state)
        found.append(scores[0, after].item())
    return found


def test_a_word_is_paid_character_by_character() -> None:
    model = make()
    after_a = spell(model.steps(1), "AND")

    # below A: A, AN, AND; below AN: AN, AND
    expected = [log(0.45), log(0.25 / 0.45), log(0.15 / 0.25)]
    assert after_a[:3] == pytest.approx(expected, abs=1e-5)
    rest = slow_log_prob(model, (END, END), 2) + slow_log_prob(model, (END, 2), END)
    assert after_a[3] == pytest.approx(rest - log(0.15), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "text",
    ["", "A", "AND BE AN A I'M", "BE BE BE", "XY", "ANDY AN", "B A", "A QU' I A"],
)
def test_the_scores_of_a_sentence_add_up(text: str, seed: int) -> None:
    model = make(seed)

    total = sum(spell(model.steps(1, bonus=0.7), text))

    assert total == pytest.approx(slow_sentence(model, text, 0.7), abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_fast_looks_up_what_slow_looks_up(seed: int) -> None:
    model, rng = make(seed), np.random.default_rng(seed)
    histories, words = rng.integers(0, N, (200, 2)), rng.integers(0, N, 200)

    found = model.log_prob(histories, words)

    expected = [
        slow_log_prob(model, tuple(h), w)
        for h, w in zip(histories.tolist(), words.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("text", ["", "A "])
def test_there_is_no_empty_word(text: str) -> None:
    steps = make().steps(1)
    state = steps.start()
    for token in [TOKENIZER.sos, *TOKENIZER.encode(text)]:
        scores, state = steps.step(torch.tensor([token]), state)

    assert scores[0, 3] == -inf
    assert (scores[0, TOKENIZER.eos] == -inf) == bool(text)
    assert (scores[0, :2] == -inf).all()
    assert scores[0, 4:].isfinite().all()


def test_a_row_does_not_see_its_neighbours_and_select_takes_it_along() -> None:
    steps = make().steps(3)
    texts = ["AN BE AND", "XYZ A BEA", "BE AN I'M"]
    tokens = torch.tensor([TOKENIZER.encode(text) for text in texts])
    _, state = steps.step(torch.full((3,), TOKENIZER.sos), steps.start())
    for column in tokens[:, :-1].T:
        _, state = steps.step(column, state)

    state = steps.select(state, torch.tensor([[2, 0], [1, 1]]))
    scores, _ = steps.step(tokens[[2, 0, 1, 1], -1], state)

    for row, utterance in enumerate([2, 0, 1, 1]):
        torch.testing.assert_close(scores[row], alone(texts[utterance]))


def alone(text: str) -> Tensor:
    steps = make().steps(1)
    state = steps.start()
    for token in [TOKENIZER.sos, *TOKENIZER.encode(text)]:
        scores, state = steps.step(torch.tensor([token]), state)
    return scores[0]


@pytest.mark.parametrize("bonus", [0.0, 9.0])
def test_it_can_be_searched(bonus: float) -> None:
    model = make()
    found = beam_search(
        model.steps(2, bonus),
        SearchConfig(beam_size=4, length_norm=0.0, eos_threshold=1.5),
        sos=TOKENIZER.sos,
        eos=TOKENIZER.eos,
        max_lengths=torch.tensor([12, 0]),
    )

    for hypothesis in found[0]:
        text = TOKENIZER.decode(hypothesis.tokens)
        if hypothesis.finished:
            expected = slow_sentence(model, text, bonus)
            assert hypothesis.log_prob == pytest.approx(expected, abs=1e-3)
    assert found[1][0].tokens == ()


def test_a_saved_model_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "lm", {})

    loaded = WordNGram.load(tmp_path / "lm")

    assert loaded.words == WORDS
    for ours, theirs in zip(model.levels, loaded.levels, strict=True):
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=0.032)

    for ours, theirs in zip(model.levels[:-1], loaded.levels, strict=False):
        np.testing.assert_allclose(ours.backoffs, theirs.backoffs, atol=0.032)
    total = sum(spell(loaded.steps(1), "AND BE"))
    assert total == pytest.approx(slow_sentence(model, "AND BE"), abs=0.2)


def bigrams_of_one_word(number: int) -> WordNGram:
    """Of many words; all but the last two may follow the first one."""
    words = ["".join(letters) for letters in product(ascii_uppercase, repeat=2)]
    first = Level(np.arange(678), np.full(678, -2.0), np.zeros(678))
    pairs = Level(np.arange(number), np.full(number, -1.0), np.zeros(number))
    return WordNGram(words, [first, pairs])


@pytest.mark.parametrize("number", [0, 254, 255, 256, 600])
def test_any_number_of_n_grams_may_begin_alike(number: int, tmp_path: Path) -> None:
    bigrams_of_one_word(number).save(tmp_path, {})

    loaded = WordNGram.load(tmp_path)

    np.testing.assert_array_equal(loaded.levels[1].keys, np.arange(number))
    assert read_tensors(tmp_path / FILE)[0]["counts_2"].dtype == torch.uint8


def test_counts_of_two_bytes_are_read(tmp_path: Path) -> None:
    """As versions up to 0.2 wrote them."""
    model = bigrams_of_one_word(600)
    model.save(tmp_path, {})
    (tmp_path / DESCRIPTION).unlink()
    tensors, metadata = read_tensors(tmp_path / FILE)
    counts = tensors["counts_2"].to(torch.uint16)
    counts[0] = tensors.pop("many_2")[0]
    tensors["counts_2"] = counts
    write_tensors(tmp_path / FILE, tensors, {**metadata, "format": 2})

    loaded = WordNGram.load(tmp_path)

    np.testing.assert_array_equal(loaded.levels[1].keys, model.levels[1].keys)


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"holds no language model \(asr lm build"
    ):
        WordNGram.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=rf"{FILE}: is damaged"):
        WordNGram.load(tmp_path)
    write_tensors(tmp_path / FILE, {"a": torch.zeros(1)}, {"kind": "other"})
    with pytest.raises(CheckpointError, match="is no language model"):
        WordNGram.load(tmp_path)


@pytest.mark.parametrize(
    "part",
    ["vocabulary", "words_2", "counts_3", "log_probs_3", "log_probs_1", "backoffs_2"],
)
def test_a_table_that_does_not_match_is_refused(part: str, tmp_path: Path) -> None:
    make().save(tmp_path, {})
    tensors, metadata = read_tensors(tmp_path / FILE)
    write_tensors(tmp_path / FILE, {**tensors, part: tensors[part][:-4]}, metadata)
    with pytest.raises(CheckpointError, match="is damaged"):
        WordNGram.load(tmp_path)
    (tmp_path / DESCRIPTION).unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        WordNGram.load(tmp_path)


def altered(folder: Path, part: str, tensor: Tensor) -> None:
    make().save(folder, {})
    (folder / DESCRIPTION).unlink()
    tensors, metadata = read_tensors(folder / FILE)
    write_tensors(folder / FILE, {**tensors, part: tensor}, metadata)


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("words_2", torch.arange(20.0), "uint16 in a row was expected"),
        ("words_2", torch.full((20,), 7, dtype=torch.uint16), "word that is not there"),
        ("counts_2", torch.full((7,), 2, dtype=torch.uint16), "do not match"),
        ("counts_2", torch.full((7,), 2, dtype=torch.uint8), "do not match"),
        ("many_2", torch.full((3,), 300, dtype=torch.uint16), "is damaged"),
        ("log_probs_2", torch.zeros(20, 1, dtype=torch.uint8), "uint8 in a row"),
        ("log_probs_1", torch.full((7,), inf).half(), "is no number"),
        ("vocabulary", torch.full((2000,), 65, dtype=torch.uint8), "is not there"),
    ],
)
def test_a_table_of_another_make_is_refused(
    part: str, tensor: Tensor, message: str, tmp_path: Path
) -> None:
    altered(tmp_path, part, tensor)
    with pytest.raises(CheckpointError, match=message):
        WordNGram.load(tmp_path)


def test_a_word_without_end_is_refused() -> None:
    first = Level(np.arange(3), np.log([0.7, 0.1, 0.2]), np.zeros(3))
    with pytest.raises(ValueError, match="a word has more than 100 letters"):
        WordNGram(["A" * 101], [first])


def test_n_grams_that_no_number_holds_are_refused() -> None:
    first = Level(np.arange(3), np.log([0.7, 0.1, 0.2]), np.zeros(3))
    empty = Level(np.arange(0), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="40 of 3 words are no int64"):
        WordNGram(["A"], [first, *[empty] * 39])


def test_another_file_than_the_one_that_was_written_is_refused(tmp_path: Path) -> None:
    make(1).save(tmp_path / "other", {})
    make(0).save(tmp_path / "lm", {})
    (tmp_path / "other" / FILE).replace(tmp_path / "lm" / FILE)

    with pytest.raises(CheckpointError, match=rf"{FILE}: is damaged, or not the file"):
        WordNGram.load(tmp_path / "lm")


def test_a_language_model_without_a_checksum_is_read(tmp_path: Path) -> None:
    make().save(tmp_path, {})
    (tmp_path / DESCRIPTION).unlink()

    assert WordNGram.load(tmp_path).words == WORDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "does not describe a word n-gram"),
        ("{}", "does not describe a word n-gram"),
        ('{"files": {}}', f"has no checksum of {FILE}"),
        ('{"files": []}', "has no table of files"),
        ('{"files": {"../a": {}}}', "names '../a', which is not in its folder"),
    ],
)
def test_a_description_that_vouches_for_nothing_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    make().save(tmp_path, {})
    (tmp_path / DESCRIPTION).write_text(content)

    place = re.escape(f"{tmp_path / DESCRIPTION}: ")
    with pytest.raises(CheckpointError, match=place + message):
        WordNGram.load(tmp_path)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path / "lm", {})
    (tmp_path / "lm" / FILE).replace(tmp_path / "outside")
    (tmp_path / "lm" / FILE).symlink_to(tmp_path / "outside")

    with pytest.raises(CheckpointError, match="is a link that leads out"):
        WordNGram.load(tmp_path / "lm")


def damage(folder: Path, seed: int) -> None:
    """Alter bytes of the header, or of all, and sometimes take the checksum away."""
    rng = random.Random(seed)
    if rng.random() < 0.9:
        (folder / DESCRIPTION).unlink()
    content = bytearray((folder / FILE).read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(rng.randint(1, 4)):
        first, last = (8, end) if rng.random() < 0.6 else (0, len(content))
        place = rng.randrange(first, last)
        if rng.random() < 0.5:
            content[place] = rng.choice(b'0123456789FIU"\xff')
        else:
            content[place] ^= 1 << rng.randrange(8)
    if rng.random() < 0.5:
        header = bytes(content[8:end])
        names = ("F16", "F32", "I64", "U8", "BF16", "F8_E4M3", "F4", "BOOL", "1e999")
        for name in rng.sample(names, 4):
            header = header.replace(name.encode(), rng.choice(names).encode(), 1)
        content[:end] = len(header).to_bytes(8, "little") + header
    (folder / FILE).write_bytes(content)


@pytest.mark.parametrize(
    "seeds",
    [range(30), pytest.param(range(30, 230), marks=pytest.mark.slow)],
    ids=["30", "200 more"],
)
def test_whatever_is_altered_a_model_comes_or_a_checkpoint_error(
    tmp_path: Path, seeds: range
) -> None:
    refusals = list[str]()
    for seed in seeds:
        folder = tmp_path / str(seed)
        make().save(folder, {})
        damage(folder, seed)
        try:
            model = WordNGram.load(folder)
        except CheckpointError as error:
            refusals.append(str(error))
        else:
            spell(model.steps(1), "AND BE")

    assert len(refusals) > 0.6 * len(seeds)
    assert all(one.startswith(str(tmp_path)) and "\n" not in one for one in refusals)


@pytest.mark.parametrize("value", [60_000.0, 0.5])
def test_a_log_probability_above_zero_is_refused(value: float, tmp_path: Path) -> None:
    log_probs = torch.full((7,), -1.0).half()
    log_probs[3] = value
    altered(tmp_path, "log_probs_1", log_probs)
    with pytest.raises(CheckpointError, match="is no number, or above zero"):
        WordNGram.load(tmp_path)


@pytest.mark.parametrize("order", [0, 41, 10**9, "3", None, True, [3]])
def test_an_order_that_cannot_be_is_refused(order: object, tmp_path: Path) -> None:
    make().save(tmp_path, {})
    (tmp_path / DESCRIPTION).unlink()
    tensors, metadata = read_tensors(tmp_path / FILE)
    write_tensors(tmp_path / FILE, tensors, {**metadata, "order": order})
    with pytest.raises(CheckpointError, match=r"a number (from 1 to 40 )?was"):
        WordNGram.load(tmp_path)


def test_many_words_and_a_long_one_are_refused_before_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asr.lm.word_tables.MOST_LETTERS", 2**10)
    words = sorted(f"A{'B' * (n + 1)}" for n in range(50))
    first = Level(np.arange(52), np.full(52, -4.0), np.zeros(52))
    with pytest.raises(ValueError, match="50 words of up to 51 letters are too many"):
        WordNGram(words, [first])


def test_an_impossible_name_is_no_language_model() -> None:
    with pytest.raises(CheckpointError, match="holds no language model"):
        WordNGram.load("a" * 5000)


# Words of a user


def test_a_word_of_a_user_is_as_likely_as_the_rarest() -> None:
    model = make()  # P(I'M) is 0.05, the least, and P(<unk>) 0.1
    with_words = model.with_words(["ANNA", "AND"])

    # as <unk>, but with the share 0.05 / 0.1 of it in place of its four characters
    expected = slow_sentence(model, "A ANNA BE") - 4 * UNKNOWN + log(0.05 / 0.1)
    found = sum(spell(with_words.steps(1), "A ANNA BE"))
    assert found == pytest.approx(expected, abs=1e-4)
    for text in ("AND BE", "ANN", "ANNAB", "XY"):  # all else stays as it was
        assert sum(spell(with_words.steps(1), text)) == pytest.approx(
            slow_sentence(model, text), abs=1e-4
        )


def test_what_a_user_s_word_costs_is_paid_on_the_way_to_it() -> None:
    letters = spell(make().with_words(["ANNA"]).steps(1), "ANNA")

    # below A: A, AN, AND, ANNA; below AN: AN, AND, ANNA; below ANN: ANNA
    expected = [log(0.5), log(0.3 / 0.5), log(0.05 / 0.3), 0.0]
    assert letters[:4] == pytest.approx(expected, abs=1e-5)


def test_words_of_a_user_are_at_most_half_of_the_unknown() -> None:
    words = ["ANNA", "BEBE", "QUI"]
    with_words = make().with_words([*words, *words])

    for word in words:
        share = sum(spell(with_words.steps(1), word)) - slow_sentence(make(), word)
        assert share + UNKNOWN * len(word) == pytest.approx(-log(6), abs=1e-4)


def test_a_model_with_further_words_leaves_the_first_as_it_was() -> None:
    model = make()
    before = spell(model.steps(1), "ANNA BEBE")

    model.with_words(["ANNA", "BEBE"])

    assert spell(model.steps(1), "ANNA BEBE") == before
    assert model.with_words(["A", "AN"]) is model
