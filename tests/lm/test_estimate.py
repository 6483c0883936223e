import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from asr.lm.ngram import WordNGram
from recipes.librispeech.language_model import estimate, main, measure

TEXT = ["A B", "A B", "A C", "B A B", "D A"]


def test_a_bigram_worked_by_hand() -> None:
    model = estimate([["A B", "A A"]], [1], vocabulary=2, order=2, least=[1])

    # Words A, B, <unk>, boundary: N = 4. Bigrams: <s>A 2, AB 1, AA 1, B</s> 1, A</s> 1.
    # Ways to the left: A 2 (<s>, A), B 1 (A), </s> 2 (A, B); of 5. No n3: D(c) = c / 2,
    # so D = 1, 0.5, 1; P(A) = (2 - 1 + 2.5 / 4) / 5 = 0.325; P(B) = 1.125 / 5 = 0.225.
    unigrams = np.exp(model.levels[0].log_probs)
    np.testing.assert_allclose(unigrams, [0.325, 0.225, 0.125, 0.325])
    # After A: c = 3, D = 0.5 each. P(B | A) = (1 - 0.5) / 3 + 1.5 / 3 * 0.225
    assert prob(model, "A", "B") == pytest.approx(0.5 / 3 + 0.5 * 0.225)
    # <unk> was not seen after A: what A, B and </s> leave, which is gamma = 1.5 / 3
    assert prob(model, "A", "X") == pytest.approx(0.5 * 0.125)


def prob(model: WordNGram, history: str, word: str) -> float:
    before, after = model.numbers([history]), model.numbers([word])
    return float(np.exp(model.log_prob(before[:, None], after)[0]))


@pytest.mark.parametrize("least", [[1, 1], [2, 1], [1, 2], [2, 2]])
@pytest.mark.parametrize("times", [1, 3])
def test_what_follows_a_history_sums_to_one(least: list[int], times: int) -> None:
    model = estimate([TEXT, ["C A B"]], [1, times], 3, 3, least)

    words = np.arange(model.base)
    for first in range(model.base):
        for second in range(model.base):
            histories = np.tile([first, second], (model.base, 1))
            total = np.exp(model.log_prob(histories, words)).sum()
            assert total == pytest.approx(1.0, abs=1e-6), (first, second)


def test_a_text_that_counts_twice_is_a_text_that_is_there_twice() -> None:
    twice = estimate([TEXT], [2], 10, 3, [1, 1])
    written = estimate([TEXT + TEXT], [1], 10, 3, [1, 1])

    for ours, theirs in zip(twice.levels, written.levels, strict=True):
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs)


def test_perplexity_and_oov_are_of_the_sentences() -> None:
    model = estimate([["A B", "A A"]], [1], vocabulary=2, order=2, least=[1])

    perplexity, strangers = measure(model, ["X"])

    start = np.exp(model.log_prob(np.array([[3]]), np.array([2]))[0])
    end = np.exp(model.log_prob(np.array([[2]]), np.array([3]))[0])
    assert perplexity == pytest.approx((start * end) ** -0.5)
    assert strangers == 1.0


def test_the_command_writes_a_model_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.xz"
    plain.write_text("\n".join(TEXT) + "\n")
    packed.write_bytes(lzma.compress(b"A D\n"))
    entry = {"id": "u", "audio": "u.wav", "duration": 1.0, "text": "A X"}
    (tmp_path / "dev.jsonl").write_text(json.dumps(entry) + "\n")

    texts, output = [str(plain), str(packed)], str(tmp_path / "lm")
    options = ["--output", output, "--dev", str(tmp_path / "dev.jsonl")]
    assert main([*texts, *options, "--times", "1", "2", "--least", "1", "1"]) == 0

    assert WordNGram.load(output).words == ["A", "B", "C", "D"]
    assert "OOV 50.00 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "is empty"),
        (b"lower\n", [], "holds 'e' (A-Z, apostrophe, space were expected)"),
        (b"\xff", [], "is damaged, or no text"),
        (None, [], "cannot be read (No such file"),
        (b"A\n", ["--times", "1", "2"], "--times: 1 numbers above zero are due"),
        (b"A\n", ["--least", "1"], "--least: 2 numbers are due"),
        (b"A\n", ["--vocabulary", "0"], "--vocabulary: must be at least 1"),
        (b"A\n", ["--output", "/dev/null/lm"], "cannot be made"),
    ],
)
def test_faults_are_one_line(
    content: bytes | None,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)

    assert main([str(text), "--output", str(tmp_path / "lm"), *options]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("language_model: ")
    assert message in printed
    assert printed.count("\n") == 1
