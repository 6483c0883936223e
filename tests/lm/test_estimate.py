"""Estimating a word n-gram from text, and `asr lm build`."""

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from asr.cli import main
from asr.lm.estimate import (
    NGramConfig,
    build,
    estimate,
    keep_letters,
    measure,
    read_text,
)
from asr.lm.ngram import WordNGram
from asr.lm.word_files import find_language_model

TEXT = ["A B", "A B", "A C", "B A B", "D A"]


def test_a_bigram_worked_by_hand() -> None:
    model = estimate([["A B", "A A"]], [1], NGramConfig(2, 2, (1,)))

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


@pytest.mark.parametrize("least", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("weight", [1, 3])
def test_what_follows_a_history_sums_to_one(
    least: tuple[int, int], weight: int
) -> None:
    model = estimate([TEXT, ["C A B"]], [1, weight], NGramConfig(3, 3, least))

    words = np.arange(model.base)
    for first in range(model.base):
        for second in range(model.base):
            histories = np.tile([first, second], (model.base, 1))
            total = np.exp(model.log_prob(histories, words)).sum()
            assert total == pytest.approx(1.0, abs=1e-6), (first, second)


def test_a_text_that_counts_twice_is_a_text_that_is_there_twice() -> None:
    twice = estimate([TEXT], [2], NGramConfig(3, 10, (1, 1)))
    written = estimate([TEXT + TEXT], [1], NGramConfig(3, 10, (1, 1)))

    for ours, theirs in zip(twice.levels, written.levels, strict=True):
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs)


def test_perplexity_and_oov_are_of_the_sentences() -> None:
    model = estimate([["A B", "A A"]], [1], NGramConfig(2, 2, (1,)))

    perplexity, unknown = measure(model, ["X"])

    start = np.exp(model.log_prob(np.array([[3]]), np.array([2]))[0])
    end = np.exp(model.log_prob(np.array([[2]]), np.array([3]))[0])
    assert perplexity == pytest.approx((start * end) ** -0.5)
    assert unknown == 1.0


def test_the_bundled_model_is_as_it_was() -> None:
    model = WordNGram.load(find_language_model(None))

    texts = ["WHAT DID HE SAY", "THE NIGHT WAS DARK AND THE XYLQ WAS COLD"]
    perplexity, unknown = measure(model, texts)

    assert perplexity == pytest.approx(25.8075, rel=1e-4)
    assert unknown == 1 / 13


# The command


def test_the_command_writes_a_model_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, xz, gz = tmp_path / "a.txt", tmp_path / "b.txt.xz", tmp_path / "c.txt.gz"
    plain.write_text("\n".join(TEXT) + "\n")
    xz.write_bytes(lzma.compress(b"A D\n"))
    gz.write_bytes(gzip.compress(b"B D\n\n"))
    entry = {"id": "u", "audio": "u.wav", "duration": 1.0, "text": "A X"}
    (tmp_path / "dev.jsonl").write_text(json.dumps(entry) + "\n")

    texts, folder = [str(plain), str(xz), str(gz)], str(tmp_path / "new" / "lm")
    options = ["--dev", str(tmp_path / "dev.jsonl"), "--weights", "1", "2", "3"]
    assert (
        main(["lm", "build", *texts, folder, *options, "--min-counts", "1", "1"]) == 0
    )

    model = WordNGram.load(folder)
    assert model.words == ["A", "B", "C", "D"]
    printed = capsys.readouterr().out
    perplexity, _ = measure(model, ["A X"])
    assert f"perplexity {perplexity:.1f}, 50.00 % of its words are not" in printed
    assert "n-grams: 6 of order 1, " in printed


def test_the_stored_counts_follow_the_order(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A B\nA B\nB A\n")

    assert main(["lm", "build", str(text), str(tmp_path / "lm"), "--order", "2"]) == 0

    model = WordNGram.load(tmp_path / "lm")
    pairs = [(key // 4, key % 4) for key in model.levels[1].keys.tolist()]
    assert pairs == [
        (0, 1),
        (1, 3),
        (3, 0),
    ]  # A B, B </s>, <s> A: those that occur twice


def test_a_command_is_a_call(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXT))
    config = NGramConfig(vocabulary_size=3, min_counts=(1, 1))
    options = ["--vocabulary-size", "3", "--min-counts", "1", "1"]

    model = build([text], tmp_path / "called", config)
    assert main(["lm", "build", str(text), str(tmp_path / "typed"), *options]) == 0

    assert model.words == ["A", "B", "C"]
    for name in ("ngram.safetensors", "ngram.json"):
        called, typed = (tmp_path / f / name for f in ("called", "typed"))
        assert called.read_bytes() == typed.read_bytes()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "text.txt: is empty"),
        (b"\n \n", [], "text.txt: is empty"),
        ("?!\n北京\n".encode(), [], "text.txt: is empty"),
        (b"A\n" + b"B" * 1001, [], "text.txt:2: holds a word of 1001 letters"),
        (b"\xff", [], "is damaged, or is no text"),
        (None, [], "cannot be read (No such file"),
        (b"A\n", ["--weights", "1", "2"], "weights: 1 whole numbers above 0 were"),
        (b"A\n", ["--weights", "0"], "weights: 1 whole numbers above 0 were"),
        (b"A\n", ["--min-counts", "1"], "min_counts takes 2 whole numbers above 0"),
        (b"A\n", ["--min-counts", "0", "1"], "min_counts takes 2 whole numbers above"),
        (b"A\n", ["--order", "4"], "order must be 2 or 3, not 4"),
        (b"A\n", ["--vocabulary-size", "0"], "vocabulary_size must be from 1 to"),
        (b"A\n", ["--vocabulary-size", "9999999"], "vocabulary_size must be from 1 to"),
        (b"A\n", ["--dev", "no.jsonl"], "no.jsonl: cannot be read"),
    ],
)
def test_errors_are_one_line(
    content: bytes | None,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)

    assert main(["lm", "build", str(text), str(tmp_path / "lm"), *options]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("asr: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "lm" / "ngram.json").exists()


@pytest.mark.parametrize("name", ["text.xz", "text.gz"])
@pytest.mark.parametrize("content", [b"A B\n", lzma.compress(b"A" * 99)[:-9]])
def test_a_broken_archive_is_an_error(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["lm", "build", str(tmp_path / name), str(tmp_path / "lm")]) == 1
    assert f"{name}: is damaged, or is no text" in capsys.readouterr().err


def test_a_cut_gzip_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"A B C\n" * 99)[:-12])
    assert main(["lm", "build", str(tmp_path / "text.gz"), str(tmp_path / "lm")]) == 1
    assert "text.gz: is damaged, or is no text" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, file = tmp_path / "text.txt", tmp_path / "file"
    text.write_text("A\n")
    file.touch()
    (tmp_path / "lm" / "ngram.json").mkdir(parents=True)

    assert main(["lm", "build", str(text), str(file)]) == 1
    assert main(["lm", "build", str(text), str(tmp_path / "lm")]) == 1

    assert capsys.readouterr().err == (
        f"asr: {file}: cannot be made (File exists)\n"
        f"asr: {tmp_path}/lm/ngram.json: cannot be written (Is a directory)\n"
    )


@pytest.mark.parametrize("command", [[], ["build"], ["train"]])
def test_help_has_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["lm", *command, "--help"])
    assert "example" in capsys.readouterr().out


def test_a_line_in_capitals_is_spelled_as_all_others(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("DAS IST GUT\nDas ist für 'alle'\n", encoding="utf-8")
    texts = [str(path), str(tmp_path / "lm")]

    assert main(["lm", "build", *texts, "--normalize", "plain"]) == 0

    words = WordNGram.load(tmp_path / "lm").words
    assert words == ["alle", "das", "für", "gut", "ist"]


def test_lines_in_other_letters_are_normalized(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("A B\n'TIS O' B\nSaid Zoë: \u201cno!\u201d\r\n", encoding="utf-8")

    assert read_text(path) == ["A B", "'TIS O' B", "SAID ZOE NO"]
    assert read_text(path, keep_letters)[2] == "Said Zoë: \u201cno!\u201d"
    assert read_text(path, str.lower)[:2] == ["a b", "'tis o' b"]
