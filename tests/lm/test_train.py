"""Training the LSTM that is mixed into the word n-gram, and `asr lm train`."""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.cli import main
from asr.errors import TrainingError
from asr.lm.estimate import NGramConfig, estimate, measure
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram
from asr.lm.sentences import batches, pad, prepare
from asr.lm.train import train
from asr.lm.trainer import CHECKPOINT, LSTMTrainer, LSTMTrainingConfig
from asr.lm.word_files import FILE as NGRAM
from asr.lm.word_lstm import FILE, WordLSTM
from asr.locks import locked
from asr.tensor_files import read_metadata, read_tensors, write_tensors
from asr.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
TEXT = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "AN AND I'M A BE", "A"]
SMALL = LSTMTrainingConfig(
    updates=60, embedding_size=4, hidden_size=16, batch_words=100, validations=2
)

Capture = pytest.CaptureFixture[str]


def sentences(count: int) -> list[str]:
    """Five words each; the last is the first, which is more than a trigram can see."""
    rng = random.Random(0)
    drawn = [rng.choices("ABCD", k=4) for _ in range(count)]
    return [" ".join([*words, words[0]]) for words in drawn]


def write_dev(path: Path, texts: Sequence[str]) -> Path:
    entries = [
        {"id": f"u{i}", "audio": "u.wav", "duration": 1.0, "text": text}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


class Corpus:
    """A text, a dev set, and n-grams of the text in as many folders as are asked for.

    Args:
        root: folder of it all.
        num_train: sentences.
    """

    def __init__(self, root: Path, num_train: int = 100) -> None:
        texts = sentences(num_train + 100)
        self.root, self.dev_texts = root, texts[num_train:]
        self.text, self.dev = root / "text.txt", root / "dev.jsonl"
        self.text.write_text("\n".join(texts[:num_train]) + "\n")
        write_dev(self.dev, self.dev_texts)
        self.ngram = estimate([texts[:num_train]], [1], NGramConfig(3, 9, (1, 1)))

    def folder(self, name: str = "lm") -> Path:
        self.ngram.save(self.root / name, {})
        return self.root / name

    def train(self, folder: Path, config: LSTMTrainingConfig = SMALL) -> None:
        train([self.text], folder, self.dev, config)

    def command(self, folder: Path, *options: str) -> int:
        places = ["--language-model", str(folder), "--dev", str(self.dev)]
        return main(["lm", "train", str(self.text), *places, *options])


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


SIZES = ("--embedding-size", "4", "--hidden-size", "16", "--batch-words", "100")


# What is learned


def test_the_lstm_learns_what_a_trigram_cannot_see(
    tmp_path: Path, capsys: Capture
) -> None:
    corpus = Corpus(tmp_path, num_train=500)
    folder = corpus.folder()
    alone, _ = measure(corpus.ngram, corpus.dev_texts)

    options = ["--embedding-size", "8", "--hidden-size", "32", "--batch-words", "150"]
    options += ["--learning-rate", "0.02", "--validations", "3"]
    assert corpus.command(folder, *options, "--updates", "400") == 0

    mixed, _ = measure(WordNGram.load(folder), corpus.dev_texts)
    assert mixed < 0.9 * alone
    printed = capsys.readouterr().out
    assert "500 sentences, 2500 words" in printed
    assert "100.0 % | update 400 |" in printed
    assert f"perplexity {mixed:.1f} (n-gram alone: {alone:.1f})" in printed


def test_a_warm_start_goes_on_from_the_weights_that_are_there(
    tmp_path: Path, capsys: Capture
) -> None:
    corpus = Corpus(tmp_path, num_train=500)
    folder = corpus.folder()
    assert corpus.command(folder, "--warm-start", "--updates", "9") == 1
    assert f"lm: holds no {FILE} to start from" in capsys.readouterr().err
    config = LSTMTrainingConfig(
        updates=200,
        embedding_size=8,
        hidden_size=32,
        batch_words=150,
        learning_rate=0.02,
        validations=1,
    )
    corpus.train(folder, config)
    before, _ = measure(WordNGram.load(folder), corpus.dev_texts)
    metadata = read_metadata(folder / FILE)

    short = ("--warm-start", "--updates", "60", "--batch-words", "150")
    assert corpus.command(folder, *short, "--hidden-size", "32") == 1
    assert "warm_start keeps the sizes of the LSTM" in capsys.readouterr().err
    assert corpus.command(folder, *short) == 0  # too short to learn it anew

    after, _ = measure(WordNGram.load(folder), corpus.dev_texts)
    assert after < before
    assert read_metadata(folder / FILE)["before"] == metadata


def test_a_start_from_the_lstm_of_other_words_keeps_what_it_knows(
    corpus: Corpus, tmp_path: Path, capsys: Capture
) -> None:
    teacher = corpus.folder("teacher")
    assert corpus.command(teacher, *SIZES, "--updates", "120") == 0
    texts = [text.replace("D", "ZOO") for text in sentences(60)]
    text = tmp_path / "other.txt"
    text.write_text("\n".join(texts) + "\n")
    dev = write_dev(tmp_path / "other.jsonl", texts[:20])
    folder = tmp_path / "other"
    estimate([texts], [1], NGramConfig(3, 9, (1, 1))).save(folder, {})
    places = ["--language-model", str(folder), "--dev", str(dev)]
    command = ["lm", "train", str(text), *places, "--batch-words", "100"]

    assert main([*command, "--start", str(corpus.folder("alone"))]) == 1
    assert f"alone: holds no {FILE} to start from" in capsys.readouterr().err
    start = ["--start", str(teacher), "--updates", "3"]
    assert main([*command, "--start", str(folder)]) == 1
    assert "start: is the folder itself" in capsys.readouterr().err
    assert main([*command, "--start", ""]) == 1
    assert "start must name a language model" in capsys.readouterr().err
    assert main([*command, *start, "--hidden-size", "16"]) == 1
    assert "start keeps the sizes of the LSTM" in capsys.readouterr().err
    assert main([*command, *start]) == 0

    about = read_metadata(folder / FILE)
    assert about["before"] == read_metadata(teacher / FILE)
    assert (about["embedding_size"], about["size"]) == (4, 16)
    first = next(step for step in read_metrics(folder).steps if "loss" in step)
    assert first["loss"] < math.log(5) + 0.01  # words; the start of one that knew them
    assert main([*command, "--updates", "9", *SIZES]) == 1
    assert "a training with other settings of" in capsys.readouterr().err


def test_a_share_may_be_given(corpus: Corpus, capsys: Capture) -> None:
    folder = corpus.folder()
    assert corpus.command(folder, "--share", "1") == 1
    assert "share must be between 0 and 1, not 1.0" in capsys.readouterr().err

    assert corpus.command(folder, *SIZES, "--updates", "3", "--share", "0.35") == 0

    assert read_metadata(folder / FILE)["share"] == 0.35
    assert "with a share of 0.35" in capsys.readouterr().out


def test_another_share_replaces_the_lstm_of_a_training_that_goes_on(
    corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()
    options = [*SIZES, "--updates", "3"]
    assert corpus.command(folder, *options) == 0
    assert read_metadata(folder / FILE)["share"] != 0.95

    assert corpus.command(folder, *options, "--share", "0.95") == 0

    assert read_metadata(folder / FILE)["share"] == 0.95
    assert "share is another than before" in capsys.readouterr().out


def test_texts_are_spelled_as_the_n_gram_is(tmp_path: Path) -> None:
    texts = ["a b über", "grün a über b grün", "b a b über grün"]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(texts) + "\n", encoding="utf-8")
    folder = tmp_path / "lm"
    estimate([texts], [1], NGramConfig(3, 9, (1, 1))).save(folder, {})
    dev = write_dev(tmp_path / "dev.jsonl", texts)

    places = ["--language-model", str(folder), "--dev", str(dev)]
    command = ["lm", "train", str(text), *places, "--normalize", "lower"]
    assert main([*command, *SIZES, "--updates", "150", "--learning-rate", "0.02"]) == 0

    both, alone = WordNGram.load(folder), WordNGram.load(folder, alone=True)
    assert measure(both, texts)[0] < 0.9 * measure(alone, texts)[0]


def test_weights_that_are_worse_on_dev_are_not_kept(corpus: Corpus) -> None:
    folder = corpus.folder()
    corpus.train(folder)
    content = (folder / FILE).read_bytes()

    spoiling = ("--warm-start", "--updates", "9", "--learning-rate", "10")
    assert corpus.command(folder, *spoiling) == 0

    assert (folder / FILE).read_bytes() == content
    losses = [step["loss"] for step in read_metrics(folder).steps if "loss" in step]
    assert max(losses) > 2 * losses[0]  # it did get worse


# Stopped and resumed

DYING = """
import os, signal, sys
from asr.cli import main
from asr.training.metrics import MetricsLog

write, last = MetricsLog.write, int(sys.argv.pop(1))

def write_and_die(log, step, metrics):
    write(log, step, metrics)
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)

MetricsLog.write = write_and_die
main(sys.argv[1:])
"""


def killed_at(update: int, arguments: Sequence[str]) -> None:
    """Train in a process that is killed after an update, before its checkpoint."""
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(update), "lm", "train", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("minutes", ["0", "99"])
def test_a_training_that_was_killed_goes_on_bit_for_bit(
    minutes: str, corpus: Corpus, capsys: Capture
) -> None:
    whole, killed = corpus.folder("whole"), corpus.folder("killed")
    options = [*SIZES, "--updates", "60", "--validations", "2", "--dropout", "0.1"]
    assert corpus.command(whole, *options) == 0
    options += ["--checkpoint-minutes", minutes]

    places = ["--language-model", str(killed), "--dev", str(corpus.dev)]
    killed_at(41, [str(corpus.text), *places, *options, "--threads", "1"])
    assert corpus.command(killed, *options) == 0

    saved_at = {"0": 40, "99": 30}[minutes]  # the last update, or the last validation
    assert f"goes on after update {saved_at}\n" in capsys.readouterr().out
    assert_same(whole, killed)


@pytest.mark.slow
def test_a_warm_start_that_was_killed_goes_on_bit_for_bit(corpus: Corpus) -> None:
    whole, killed = corpus.folder("whole"), corpus.folder("killed")
    options = ["--warm-start", "--updates", "40", "--batch-words", "100"]
    options += ["--validations", "4"]
    for folder in (whole, killed):
        corpus.train(folder)
    assert corpus.command(whole, *options) == 0

    places = ["--language-model", str(killed), "--dev", str(corpus.dev)]
    for update in (3, 17):  # before the first validation, and after it
        killed_at(update, [str(corpus.text), *places, *options, "--threads", "1"])
    assert corpus.command(killed, *options) == 0

    assert_same(whole, killed)
    assert "before" not in read_metadata(killed / FILE)["before"]


def assert_same(whole: Path, killed: Path) -> None:
    """Compare the LSTM, all that the checkpoint holds but the time, and the metrics."""
    assert (whole / FILE).read_bytes() == (killed / FILE).read_bytes()
    (tensors, kept), (others, other) = (
        read_tensors(folder / CHECKPOINT) for folder in (whole, killed)
    )
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    for metadata in (kept, other):
        assert metadata["place"].pop("seconds") > 0
    assert kept == other
    for one, two in zip(
        *(read_metrics(folder).steps for folder in (whole, killed)), strict=True
    ):
        assert one.keys() == two.keys()
        for name in one.keys() - {"seconds", "words_per_second"}:
            assert one[name] == two[name], name


def test_a_training_that_is_finished_stays_as_it_is(
    corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()
    corpus.train(folder)
    content = {n: (folder / n).read_bytes() for n in (FILE, CHECKPOINT)}

    corpus.train(folder)

    assert content == {n: (folder / n).read_bytes() for n in content}
    assert "goes on after update 60" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_costs_nothing(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: Capture, number: int
) -> None:
    whole, folder = corpus.folder("whole"), corpus.folder()
    options = (*SIZES, "--updates", "60", "--validations", "2")
    assert corpus.command(whole, *options) == 0
    update, calls = LSTMTrainer._update, itertools.count(1)

    def update_and_signal(self: LSTMTrainer, sentences: Sequence[Ints]) -> None:
        update(self, sentences)
        if next(calls) == 7:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(LSTMTrainer, "_update", update_and_signal)
        capsys.readouterr()
        assert corpus.command(folder, *options) == 128 + number
    errors = capsys.readouterr().err
    assert f"asr: {folder}: stopped after update 7, with a checkpoint" in errors

    assert corpus.command(folder, *options) == 0
    assert (folder / FILE).read_bytes() == (whole / FILE).read_bytes()


def test_what_is_left_for_a_longer_training_is_named(
    corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()

    assert corpus.command(folder, *SIZES, "--updates", "2") == 0

    assert f"{folder / CHECKPOINT}: 0." in capsys.readouterr().out


def test_a_folder_is_for_one_training_at_a_time(
    corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()

    with locked(folder, "another"):
        assert corpus.command(folder, *SIZES, "--updates", "2") == 1
        assert main(["lm", "build", str(corpus.text), str(folder)]) == 1

    assert capsys.readouterr().err.count(f"asr: {folder}: is in use by") == 2


def test_another_dev_set_is_measured_anew(corpus: Corpus, capsys: Capture) -> None:
    folder = corpus.folder()
    corpus.train(folder)
    tensors, metadata = read_tensors(folder / CHECKPOINT)
    metadata["place"]["best_loss"] = -1.0  # of other texts: none is as good
    write_tensors(folder / CHECKPOINT, tensors, metadata)
    write_dev(corpus.dev, corpus.dev_texts[1:])
    content = (folder / FILE).read_bytes()

    corpus.train(folder, replace(SMALL, updates=90, validations=3))

    assert f"{folder}: dev is another than before" in capsys.readouterr().out
    assert (folder / FILE).read_bytes() != content


def test_an_ngram_that_an_lstm_does_not_fit_is_not_put_beside_it(
    corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()
    corpus.train(folder)
    content = (folder / NGRAM).read_bytes()
    corpus.text.write_text("OTHER WORDS\n" * 9)

    assert main(["lm", "build", str(corpus.text), str(folder)]) == 1
    assert "holds an LSTM that does not fit the new n-gram (" in capsys.readouterr().err
    assert (folder / NGRAM).read_bytes() == content

    assert main(["lm", "build", str(corpus.text), str(corpus.root / "new")]) == 0


def test_a_training_can_be_made_longer(corpus: Corpus) -> None:
    folder = corpus.folder()
    corpus.train(folder)

    assert corpus.command(folder, *SIZES, "--updates", "80", "--validations", "4") == 0

    steps = [step["step"] for step in read_metrics(folder).steps if "loss" in step]
    assert steps == list(range(1, 81))
    assert read_metadata(folder / FILE)["updates"] == 80


def test_a_training_of_no_time_ends_after_an_update(corpus: Corpus) -> None:
    folder = corpus.folder()

    assert corpus.command(folder, *SIZES, "--minutes", "1e-9") == 0

    (update, validation) = read_metrics(folder).steps
    assert update["step"] == validation["step"] == 1
    assert read_metadata(folder / FILE)["minutes"] == 1e-9


def test_other_settings_are_refused(corpus: Corpus, capsys: Capture) -> None:
    folder = corpus.folder()
    corpus.train(folder)

    more = [*SIZES[:-1], "99", "--updates", "60"]
    assert corpus.command(folder, *more) == 1
    assert "other settings of batch_words (repeat its" in capsys.readouterr().err
    corpus.text.write_text("A B\n")
    assert corpus.command(folder, *SIZES, "--updates", "60") == 1
    assert "other settings of text (repeat its" in capsys.readouterr().err

    (folder / CHECKPOINT).unlink()
    assert corpus.command(folder, *SIZES, "--updates", "2") == 0


def test_an_unfinished_training_is_finished_before_a_warm_start(
    corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()
    corpus.train(folder)
    tensors, metadata = read_tensors(folder / CHECKPOINT)
    metadata["config"]["finished"] = False
    write_tensors(folder / CHECKPOINT, tensors, metadata)

    options = ("--warm-start", "--updates", "9", "--batch-words", "100")
    assert corpus.command(folder, *options) == 1

    assert "other settings of warm_start" in capsys.readouterr().err


def test_another_checkpoint_is_refused(corpus: Corpus, capsys: Capture) -> None:
    folder = corpus.folder()
    write_tensors(folder / CHECKPOINT, {}, {"config": {"data": "speech"}})
    assert corpus.command(folder, *SIZES, "--updates", "9") == 1
    assert "is no checkpoint of `asr lm train`" in capsys.readouterr().err
    (folder / CHECKPOINT).write_bytes(b"?")
    assert corpus.command(folder, *SIZES, "--updates", "9") == 1
    assert f"{CHECKPOINT}: is damaged" in capsys.readouterr().err


def test_updates_that_are_not_finite_are_left_out_and_end_it(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    forward = WordLSTM.forward
    calls = iter([1.0, float("nan"), 1.0, *[float("nan")] * 9])
    monkeypatch.setattr(WordLSTM, "forward", lambda *a: next(calls) * forward(*a))

    message = r"lm: 5 updates in a row were not finite \(a lower learning_rate may"
    with pytest.raises(TrainingError, match=message):
        corpus.train(corpus.folder())

    assert "update 2 is not finite and left out\nupdate 4" in capsys.readouterr().out


def test_an_update_that_is_not_finite_changes_nothing(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = WordLSTM.forward
    monkeypatch.setattr(WordLSTM, "forward", lambda *a: float("nan") * forward(*a))
    folder = corpus.folder()
    assert corpus.command(folder, *SIZES, "--updates", "3") == 0

    torch.manual_seed(1)
    texts = [corpus.text.read_text().splitlines()]
    expected, _ = prepare(corpus.ngram, texts, [1], (4, 16))
    tensors, metadata = read_tensors(folder / CHECKPOINT)
    for name, weight in expected.state_dict().items():
        assert torch.equal(tensors[f"model.{name}"], weight), name
    for name, tensor in tensors.items():
        assert name.startswith("model.") or not tensor.any(), name
    assert metadata["place"]["step"] == 3
    assert metadata["place"]["updates"] == 0


# On a GPU, where the figures of several updates are read together


def test_reading_the_figures_later_changes_no_weight(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    forward = WordLSTM.forward
    at_once, later = corpus.folder("at_once"), corpus.folder("later")
    for folder, wait in ((at_once, 1), (later, 7)):
        calls = iter([1.0, 1.0, float("nan"), *57 * [1.0]])
        monkeypatch.setattr(
            WordLSTM, "forward", lambda *a, of=calls: next(of) * forward(*a)
        )
        monkeypatch.setattr("asr.lm.trainer._READ_EVERY", {"cpu": wait})
        corpus.train(folder, replace(SMALL, validations=1))

    assert capsys.readouterr().out.count("update 3 is not finite and left out\n") == 2
    (tensors, kept), (others, other) = (
        read_tensors(folder / CHECKPOINT) for folder in (at_once, later)
    )
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    for metadata in (kept, other):
        assert metadata["place"].pop("seconds") > 0
    assert kept == other


def test_metrics_that_are_read_later_are_means(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, later = corpus.folder("at_once"), corpus.folder("later")
    for folder, wait in ((at_once, 1), (later, 7)):
        monkeypatch.setattr("asr.lm.trainer._READ_EVERY", {"cpu": wait})
        corpus.train(folder, replace(SMALL, validations=1))

    each, found = (
        [step for step in read_metrics(folder).steps if "loss" in step]
        for folder in (at_once, later)
    )
    assert [step["step"] for step in found] == [*range(7, 60, 7), 60]
    for name in ("loss", "gradient_norm"):
        expected = np.mean([step[name] for step in each[7:14]])
        assert found[1][name] == pytest.approx(expected)
    assert found[1]["learning_rate"] == each[13]["learning_rate"]


def test_the_figures_of_a_training_of_no_time_are_read(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.lm.trainer._READ_EVERY", {"cpu": 7})
    folder = corpus.folder()

    assert corpus.command(folder, *SIZES, "--minutes", "1e-9") == 0

    steps = [step["step"] for step in read_metrics(folder).steps if "loss" in step]
    assert steps == [7]


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_does_and_a_cpu_goes_on(corpus: Corpus) -> None:
    folders = [corpus.folder(name) for name in ("cpu", "cuda")]
    for folder in folders:
        corpus.train(folder, replace(SMALL, device=folder.name))

    found = [measure(WordNGram.load(f), corpus.dev_texts)[0] for f in folders]
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert len([s for s in read_metrics(folders[1]).steps if "loss" in s]) == 3
    longer = replace(SMALL, updates=80, validations=4)
    for device in ("cpu", "cuda"):
        corpus.train(folders[1], replace(longer, device=device))
    assert read_metadata(folders[1] / CHECKPOINT)["place"]["updates"] == 80


# The text


def test_batches_hold_each_sentence_once() -> None:
    ngram = estimate([TEXT], [1], NGramConfig(2, 9, (1,)))
    model, ranked = prepare(ngram, [TEXT], [2], (4, 16))
    assert len(ranked) == 2 * len(TEXT)
    assert {tuple(s.tolist()) for s in ranked} == {
        (6, *model.ranks[ngram.numbers(text.split())].tolist()) for text in TEXT
    }

    found = list[tuple[int, ...]]()
    for indices in batches(np.array(list(map(len, ranked))), batch_words=8, seed=0):
        batch, padding = pad([ranked[i] for i in indices])
        assert batch.numel() <= 8 or len(batch) == 1
        for row, gap in zip(batch, padding, strict=True):
            found.append(tuple(row[: 1 + int((~gap).sum())].tolist()))
    assert sorted(found) == sorted(tuple(s.tolist()) for s in ranked)


def test_each_epoch_has_an_order_of_its_own() -> None:
    lengths = np.array([3, 5, 3, 4, 3, 5, 4, 3])
    orders = [
        [batch.tolist() for batch in batches(lengths, 8, seed)] for seed in (0, 1, 0)
    ]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


def test_frequent_words_come_first() -> None:
    ngram = estimate([TEXT], [1], NGramConfig(2, 9, (1,)))
    model, _ = prepare(ngram, [TEXT, ["AND"]], [1, 9], (4, 16))
    counts = {"AND": 11, "A": 5, "BE": 5, "AN": 3, "I'M": 2}
    assert [ngram.words[i] for i in model.ranks.argsort()[:5]] == list(counts)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "1", "2"], "weights: 1 whole numbers above 0 were expected"),
        (["--minutes", "0"], "minutes must be above 0, not 0.0"),
        (["--minutes", "nan"], "minutes must be above 0, not nan"),
        (["--updates", "0"], "updates must be above 0, not 0"),
        (["--batch-words", "-1"], "batch_words must be above 0, not -1"),
        (["--learning-rate", "inf"], "learning_rate must be above 0, not inf"),
        (["--dropout", "1"], "dropout must be from 0 to below 1, not 1.0"),
        (["--device", "tpu"], "device tpu: is not known (use cpu, cuda or auto)"),
        (["--hidden-size", "0"], "hidden_size must be above 0, not 0"),
        (["--hidden-size", "3"], "hidden_size: 1 clusters need 4 units"),
        (["--validations", "0"], "validations must be above 0, not 0"),
        (["--checkpoint-minutes", "-1"], "checkpoint_minutes must be at least 0"),
        (["--threads", "0"], "threads must be at least 1, not 0"),
        (["--dev", "no.jsonl"], "no.jsonl: cannot be read"),
        (["--language-model", "nowhere"], "nowhere: holds no n-gram (asr lm build"),
    ],
)
def test_errors_are_one_line(
    options: list[str], message: str, corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()

    assert corpus.command(folder, *options) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("asr: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "text.txt: is empty"),
        (None, "text.txt: cannot be read"),
    ],
)
def test_a_text_is_checked(
    content: str | None, message: str, corpus: Corpus, capsys: Capture
) -> None:
    folder = corpus.folder()
    corpus.text.unlink()
    if content is not None:
        corpus.text.write_text(content)

    assert corpus.command(folder) == 1

    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_an_error(
    corpus: Corpus, capsys: Capture
) -> None:
    for name in (FILE, CHECKPOINT, "metrics.jsonl"):
        folder = corpus.folder(name.split(".")[0])
        (folder / f".{name}.partial").mkdir()
        (folder / name).mkdir()
        assert corpus.command(folder, *SIZES, "--updates", "3") == 1
        error = capsys.readouterr().err
        assert f"{name}: cannot be" in error
        assert error.count("\n") == 1
