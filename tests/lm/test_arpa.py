import gzip
import lzma
from math import log
from pathlib import Path

import kenlm
import numpy as np
import pytest

from asr.cli import main
from asr.errors import CheckpointError
from asr.lm.arpa import read_arpa, write_arpa
from asr.lm.estimate import (
    NGramConfig,
    build,
    estimate,
    keep_letters,
    perplexity,
)
from asr.lm.ngram import WordNGram
from asr.lm.word_files import find_language_model
from asr.text import ALPHABET, CharTokenizer

Capture = pytest.CaptureFixture[str]

TEXT = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "AN AND I'M A BE", "A", "A BE"]
SENTENCES = ["A BE AN", "BE A", "I'M AND A", "QUI A BE", "A QUI QUI", "AN"]

# As KenLM writes: -99 nowhere but before <s>, no back-off of the longest or of </s>.
TRIGRAM = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.1\t<unk>\t0
-99\t<s>\t-0.3
-0.9\t</s>
-0.5\tA\t-0.25
-0.7\tBE\t-0.125
-1.3\tC

\\2-grams:
-0.2\t<s> A\t-0.1
-0.4\tA BE\t-0.2
-0.6\tBE </s>
-0.8\tA <unk>
-1.0\tBE A

\\3-grams:
-0.15\t<s> A BE
-0.35\tA BE </s>

\\end\\
"""


def written(folder: Path, content: str, name: str = "lm.arpa") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


def log10(model: WordNGram, sentence: str) -> float:
    return perplexity(model, [sentence]).log_prob / log(10)


# Golden: worked by hand


def test_a_file_is_read_as_it_backs_off(tmp_path: Path) -> None:
    model = read_arpa(written(tmp_path, TRIGRAM)).model

    assert model.words == ["A", "BE", "C"]
    # <s> A, <s> A BE, A BE </s>
    assert log10(model, "A BE") == pytest.approx(-0.2 - 0.15 - 0.35)
    # <s> + C; no back-off of C, </s>
    assert log10(model, "C") == pytest.approx(-0.3 - 1.3 - 0.9)
    # <s> A; <s> A + A <unk>; back-offs of "A <unk>" and <unk> are none
    assert log10(model, "A XY") == pytest.approx(-0.2 - 0.1 - 0.8 - 0.9)


def test_nothing_is_backed_off_from_the_end_of_a_sentence(tmp_path: Path) -> None:
    """<s> and </s> are one number: a sentence must not begin like an empty one."""
    content = TRIGRAM.replace("-1.0\tBE A", "-1.0\tBE A\n-2.5\t<s> </s>\t-4")

    model = read_arpa(written(tmp_path, content.replace("2=5", "2=6"))).model

    assert log10(model, "A BE") == pytest.approx(-0.2 - 0.15 - 0.35)
    assert log10(model, "") == pytest.approx(-2.5)


def test_perplexity_counts_words_and_ends(tmp_path: Path) -> None:
    model = read_arpa(written(tmp_path, TRIGRAM)).model

    found = perplexity(model, ["A BE", "A XY"])

    assert (found.num_sentences, found.num_words, found.num_unknown) == (2, 4, 1)
    assert found.with_unknown == pytest.approx(10 ** ((0.7 + 2.0) / 6))
    assert found.without_unknown == pytest.approx(10 ** ((0.7 + 2.0 - 0.9) / 5))


# Parity: KenLM


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
@pytest.mark.parametrize("order", [2, 3])
def test_kenlm_reads_what_is_written(tmp_path: Path, order: int, name: str) -> None:
    least = (1,) * (order - 1)
    model = estimate([TEXT], [1], NGramConfig(order, 4, least))

    write_arpa(model, tmp_path / name)

    theirs = kenlm.Model(str(tmp_path / name))
    again = read_arpa(tmp_path / name).model
    assert theirs.order == order
    for sentence in SENTENCES:
        expected = theirs.score(sentence)
        assert log10(model, sentence) == pytest.approx(expected, abs=1e-4)
        assert log10(again, sentence) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("text", ["A BE", "C", "A XY", "BE A BE", "", "XY XY A"])
def test_a_file_scores_as_kenlm_scores_it(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, TRIGRAM)

    found = read_arpa(path).model

    assert log10(found, text) == pytest.approx(kenlm.Model(str(path)).score(text))


def test_an_n_gram_of_order_five_scores_as_kenlm_scores_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    words = ["A", "B", "C", "D"]
    grams: set[tuple[str, ...]] = {(w,) for w in ["<unk>", "<s>", "</s>", *words]}
    parts = [sorted(grams)]
    for _ in range(4):
        longer = {
            (*gram, word)
            for gram in parts[-1]
            for word in [*words, "</s>"]
            if gram[-1] != "</s>" and (word,) in grams and (*gram[1:], word) in grams
        }
        kept = [gram for gram in sorted(longer) if rng.random() < 0.7]
        parts.append(kept)
        grams |= set(kept)
    text = "\\data\\\n" + "".join(
        f"ngram {n}={len(part)}\n" for n, part in enumerate(parts, 1)
    )
    for n, part in enumerate(parts, 1):
        text += f"\n\\{n}-grams:\n"
        for gram in part:
            log_prob = -99 if gram == ("<s>",) else -3 * rng.random()
            backoff = "" if n == 5 or gram[-1] == "</s>" else f"\t{-rng.random():.4f}"
            text += f"{log_prob:.4f}\t{' '.join(gram)}{backoff}\n"
    path = written(tmp_path, text + "\n\\end\\\n")
    theirs, ours = kenlm.Model(str(path)), read_arpa(path).model

    assert len(ours.levels) == theirs.order == 5
    for _ in range(40):
        sentence = " ".join(rng.choice([*words, "Q"], rng.integers(1, 9)))
        assert log10(ours, sentence) == pytest.approx(theirs.score(sentence), abs=1e-5)


# Kinds of files


@pytest.mark.parametrize(
    "content",
    [
        TRIGRAM.replace("\n", "\r\n"),
        TRIGRAM.replace("\n", "\t \n"),
        TRIGRAM.replace("\t", " "),
        "\ufeff" + TRIGRAM,
        "a comment\n\n" + TRIGRAM + "\nwhatever\n",
        TRIGRAM.replace("<unk>", "<UNK>"),
        TRIGRAM.replace("ngram 1=6", "ngram  1 = 6"),
        TRIGRAM.replace("-99\t<s>", "-inf\t<s>"),
        TRIGRAM.replace("A\t-0.25", "a\t-0.25").replace("A BE", "a BE"),
    ],
)
def test_files_of_other_makes_are_the_same(tmp_path: Path, content: str) -> None:
    expected = read_arpa(written(tmp_path, TRIGRAM, "first.arpa")).model
    if "a BE" in content:
        content = content.replace("<s> A", "<s> a").replace("A <", "a <")
        content = content.replace("BE A", "BE a")

    found = read_arpa(written(tmp_path, content)).model

    assert found.words == expected.words
    for level, other in zip(found.levels, expected.levels, strict=True):
        for part, known in zip(level, other, strict=True):
            np.testing.assert_array_equal(part, known)


@pytest.mark.parametrize(("suffix", "zipped"), [("gz", gzip), ("xz", lzma)])
def test_a_packed_file_is_read(tmp_path: Path, suffix: str, zipped: object) -> None:
    path = tmp_path / f"lm.arpa.{suffix}"
    path.write_bytes(zipped.compress(TRIGRAM.encode()))  # type: ignore[attr-defined]

    assert read_arpa(path).model.words == ["A", "BE", "C"]


def test_without_unk_what_is_unknown_is_as_likely_as_the_rarest(tmp_path: Path) -> None:
    content = TRIGRAM.replace("-1.1\t<unk>\t0\n", "").replace("1=6", "1=5")
    content = content.replace("-0.8\tA <unk>\n", "").replace("2=5", "2=4")

    found = read_arpa(written(tmp_path, content))

    assert not found.has_unknown
    assert "no <unk>" in next(found.notices())
    assert log10(found.model, "XY") == pytest.approx(-0.3 - 1.3 - 0.9)


def test_a_beginning_that_is_not_stored_is_backed_off_to(tmp_path: Path) -> None:
    content = TRIGRAM.replace("-0.2\t<s> A\t-0.1\n", "").replace("2=5", "2=4")
    model = read_arpa(written(tmp_path, content)).model

    model.save(tmp_path / "lm", {})

    assert log10(model, "A BE") == pytest.approx(-0.3 - 0.5 - 0.15 - 0.35)
    assert log10(model, "A") == pytest.approx(-0.3 - 0.5 - 0.25 - 0.9)


def test_words_that_fall_together_are_one_and_those_that_are_none_are_left_out(
    tmp_path: Path,
) -> None:
    content = TRIGRAM.replace("\tBE", "\ta", 1).replace("\tC", "\tA-B")
    content = content.replace("A BE", "A a").replace("BE </s>", "a </s>")
    content = content.replace("BE A", "a A")

    found = read_arpa(written(tmp_path, content))

    assert found.model.words == ["A"]
    assert found.left_out == ["A-B"]
    assert found.merged == 2  # a with A, A a with a A
    # <s> A, <s> A A; of A a and a A the former with its back-off; A A </s>
    assert log10(found.model, "A A A") == pytest.approx(-0.2 - 0.15 - 0.2 - 0.4 - 0.35)
    notices = list(found.notices())
    assert "1 words are left out, and their n-grams" in notices[0]
    assert "n-grams fell together" in notices[1]


@pytest.mark.parametrize("has_unknown", [True, False])
def test_a_punctuation_mark_does_not_make_unknown_words_likely(
    has_unknown: bool, tmp_path: Path
) -> None:
    lines = ["-99\t<s>\t-0.5", "-1\t</s>", "-0.3\t,\t-0.2", "-0.8\tA\t-0.3", "-2\tB"]
    pairs = ["-0.5\t<s> A", "-0.1\tA ,", "-0.6\t, B", "-0.9\tA B"]
    lines += ["-4\t<unk>"] if has_unknown else []
    header = [f"\\data\\\nngram 1={len(lines)}\nngram 2={len(pairs)}\n\\1-grams:"]
    content = "\n".join([*header, *lines, "\\2-grams:", *pairs, "\\end\\\n"])

    found = read_arpa(written(tmp_path, content))

    assert found.left_out == [","]
    unknown = -4 if has_unknown else -2
    assert log10(found.model, "A XY") == pytest.approx(-0.5 - 0.3 + unknown - 1)
    assert log10(found.model, "A XY B") == pytest.approx(-0.8 + unknown - 2 - 1)


def test_words_in_capitals_are_spelled_as_all_others(tmp_path: Path) -> None:
    found = read_arpa(written(tmp_path, TRIGRAM), str.lower)

    assert found.model.words == ["a", "be", "c"]


def test_letters_of_other_languages_are_kept(tmp_path: Path) -> None:
    content = TRIGRAM.replace("BE", "süß").replace("\tC", "\tu\u0308b")
    path = written(tmp_path, content)

    found = read_arpa(path, keep_letters).model
    found.save(tmp_path / "lm", {})
    again = WordNGram.load(tmp_path / "lm")
    german = CharTokenizer(" abcdefghijklmnopqrstuvwxyzäöüßA")
    for_a_model = WordNGram.load(tmp_path / "lm", tokenizer=german)

    assert found.words == again.words == ["A", "süß", "üb"]
    assert again.tokenizer.characters == " Absßü"
    assert for_a_model.tokenizer == german
    with pytest.raises(CheckpointError, match="which does not write 'b'"):
        WordNGram.load(tmp_path / "lm", tokenizer=CharTokenizer())
    with pytest.raises(CheckpointError, match="whose first is 'A' and not the space"):
        WordNGram.load(tmp_path / "lm", tokenizer=CharTokenizer("Absßü "))


# Errors


def changed(old: str, new: str) -> str:
    assert old in TRIGRAM
    return TRIGRAM.replace(old, new)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"arpa:0: the file ends before its \\end\\"),
        (TRIGRAM[:-8], r"arpa:2\d: the file ends before its \\end\\"),
        (TRIGRAM[: TRIGRAM.index("-0.6")], r"arpa:16: the file ends before its"),
        (changed("\\data\\", "\\date\\"), r"arpa:1: is not \\data\\, which was"),
        (changed("ngram 1=6\n", ""), r"arpa:2: is not `ngram 1=…`"),
        (TRIGRAM.replace("ngram", "gram"), r"arpa:2: is not `ngram 1=…`, which"),
        (changed("1=6", "1=7"), r"is no n-gram of order 1 \(number 7 of 7 was"),
        (changed("1=6", "1=5"), r"is not \\2-grams:, which was expected"),
        (changed("3=2", "3=1"), r"is not \\end\\, which was expected"),
        (changed("-0.4\tA BE", "-0.4\tA B"), r"'B' is none of the words of order 1"),
        (changed("-0.4\tA BE", "x\tA BE"), r"arpa:16: 'x' is no number"),
        (changed("-0.4\tA BE", "nan\tA BE"), r"arpa:16: 'nan' is no number"),
        (changed("-0.4\tA BE", "0.4\tA BE"), r"0\.4 is no log10 of a probability"),
        (changed("A BE\t-0.2", "A BE\tinf"), r"'inf' is no number"),
        (changed("-0.4\tA BE\t-0.2", "-0.4\tA BE C D"), r"is no n-gram of order 2"),
        (changed("-0.9\t</s>", "-0.9\tS"), r"the words above lack </s>"),
        ("\\data\\\nngram 1=2\n\\1-grams:\n0\t<s>\n0\t</s>\n\\end\\\n", "has no words"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_arpa(written(tmp_path, content))


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    binary, cut = tmp_path / "lm.binary", tmp_path / "lm.arpa.gz"
    binary.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    cut.write_bytes(gzip.compress(TRIGRAM.encode())[:-20])
    latin = tmp_path / "latin.arpa"
    latin.write_bytes(TRIGRAM.replace("BE", "süß").encode("latin-1"))

    with pytest.raises(CheckpointError, match="is KenLM's binary format"):
        read_arpa(binary)
    for path in (cut, latin):
        with pytest.raises(CheckpointError, match="is damaged, or is no text"):
            read_arpa(path)
    with pytest.raises(CheckpointError, match=r"none\.arpa: cannot be read \(No such"):
        read_arpa(tmp_path / "none.arpa")


def test_an_order_that_cannot_be_numbered_is_refused(tmp_path: Path) -> None:
    content = "\\data\\\n" + "".join(
        f"ngram {n + 1}={3 * (n == 0)}\n" for n in range(40)
    )
    content += "\\1-grams:\n0\t<s>\n0\t</s>\n0\tA\n\\2-grams:\n"

    with pytest.raises(
        CheckpointError,
        match=r"is of order 40, which 1 words .* \(make one of order 39",
    ):
        read_arpa(written(tmp_path, content))


def test_what_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    model = read_arpa(written(tmp_path, TRIGRAM)).model

    with pytest.raises(CheckpointError, match=r"b\.arpa: cannot be written \(No such"):
        write_arpa(model, tmp_path / "a" / "b.arpa")


# Commands


def test_a_model_goes_to_a_file_and_back(tmp_path: Path, capsys: Capture) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXT))
    model = build([text], tmp_path / "lm", NGramConfig(min_counts=(1, 1)))
    there, back = tmp_path / "lm.arpa.gz", tmp_path / "back"

    assert main(["lm", "convert", str(tmp_path / "lm"), str(there)]) == 0
    assert main(["lm", "convert", str(there), str(back)]) == 0

    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("n-grams: ")[2] for line in printed] == 2 * [
        "7 of order 1, 16 of order 2, 16 of order 3"
    ]
    again = WordNGram.load(back)
    assert again.words == model.words
    for level, other in zip(again.levels, model.levels, strict=True):
        for part, known in zip(level, other, strict=True):
            np.testing.assert_allclose(part, known, atol=1e-3)


def test_a_file_is_converted_again_into_its_folder(tmp_path: Path) -> None:
    path, out = str(written(tmp_path, TRIGRAM)), tmp_path / "out"

    assert main(["lm", "convert", path, str(out)]) == 0
    assert main(["lm", "convert", path, str(out)]) == 0

    assert WordNGram.load(out).words


def test_an_lstm_of_other_words_is_not_left_beside_what_is_converted(
    tmp_path: Path, capsys: Capture
) -> None:
    path, out = str(written(tmp_path, TRIGRAM)), tmp_path / "out"
    out.mkdir()
    words = find_language_model(None)
    for name in ("lstm.json", "lstm.safetensors"):
        (out / name).symlink_to(words / name)

    assert main(["lm", "convert", path, str(out)]) == 1

    assert "out: holds an LSTM that does not fit" in capsys.readouterr().err


def test_a_file_and_a_file_are_nothing_to_convert(
    tmp_path: Path, capsys: Capture
) -> None:
    path = str(written(tmp_path, TRIGRAM))

    assert main(["lm", "convert", path, f"{path}.gz"]) == 1
    assert main(["lm", "convert", str(tmp_path), str(tmp_path / "out")]) == 1

    errors = capsys.readouterr().err.splitlines()
    assert "both are files" in errors[0]
    assert "both are folders" in errors[1]


def test_perplexities_of_texts_are_printed(tmp_path: Path, capsys: Capture) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A BE\na xy\n")

    assert main(["lm", "score", str(written(tmp_path, TRIGRAM)), str(text)]) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(
        "2 sentences, 4 words, 1 (25.00 %) of them not in the vocabulary"
    )
    assert second == (
        f"  n-gram alone: perplexity {10 ** (2.7 / 6):.2f}, without the words that are "
        f"not in the vocabulary {10 ** (1.8 / 5):.2f}"
    )


@pytest.mark.parametrize("normalize", ["english", "none"])
def test_a_model_is_built_in_any_alphabet(
    normalize: str, tmp_path: Path, capsys: Capture
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Schöne Grüße!\nschöne Gru\u0308ße\n", encoding="utf-8")
    given = [str(text), str(tmp_path / "lm"), "--normalize", normalize]

    assert main(["lm", "build", *given, "--min-counts", "1", "1"]) == 0
    printed = capsys.readouterr().out
    found = WordNGram.load(tmp_path / "lm")

    if normalize == "english":
        assert found.words == ["GRUSSE", "SCHONE"]
        assert found.tokenizer.characters == ALPHABET
    else:
        assert found.words == ["Grüße", "Grüße!", "Schöne", "schöne"]
        assert "letters: !GSceh" in printed
