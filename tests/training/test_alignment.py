from typing import Any

import pytest
import torch
from torch import Tensor

from asr.data.batching import Batch
from asr.data.dataset import Augmentation, Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import ClassBatch, LengthClass, cut_classes
from asr.data.manifest import Utterance
from asr.decoding.ctc_alignment import align
from asr.features import AugmentConfig
from asr.training.alignment import align_corpus, character_steps
from asr.training.distributed import Team
from tests.data.test_device_corpus import recordings
from tests.training.test_graphs import TOKENIZER, network

BLANK, A, B = 0, 3, 4


def batch(*texts: list[int]) -> Batch:
    longest = max(len(text) for text in texts)
    rows = [text + [0] * (longest - len(text)) for text in texts]
    tokens = torch.tensor(rows, dtype=torch.int64)
    lengths = torch.tensor([len(text) for text in texts])
    frames = torch.ones(len(texts), dtype=torch.int64)
    ids = [str(i) for i in range(len(texts))]
    return Batch(ids, torch.zeros(len(texts), 1, 80), frames, tokens, lengths, 1.0)


def sure_of(*labels: int) -> Tensor:
    """(1, J', V) log P of a head that is nearly sure of a label at each step."""
    logits = torch.zeros(1, len(labels), 6)
    logits[0, torch.arange(len(labels)), torch.tensor(labels)] = 5.0
    return logits.log_softmax(dim=-1)


def test_a_character_stands_where_the_head_first_finds_it() -> None:
    log_probs = sure_of(BLANK, A, A, BLANK, A, B, BLANK, BLANK)

    steps = character_steps(log_probs, torch.tensor([8]), batch([A, A, B]), BLANK)

    assert steps.tolist() == [[1.0, 4.0, 5.0, 7.0]]  # <eos> at the last step


def test_what_stands_in_the_padding_does_not_matter() -> None:
    short, long = sure_of(A, BLANK, B), sure_of(A, BLANK, B, B, A)
    both = torch.cat((torch.cat((short, sure_of(A, B)), dim=1), long))

    steps = character_steps(both, torch.tensor([3, 5]), batch([A, B], [A, B, A]), BLANK)

    assert steps[0, :3].tolist() == [0.0, 2.0, 2.0]
    assert steps[1].tolist() == [0.0, 2.0, 4.0, 4.0]


def test_too_dense_an_utterance_is_spread_evenly() -> None:
    steps = character_steps(
        sure_of(A, A, A), torch.tensor([3]), batch([A, A, A]), BLANK
    )  # two repeats need two blanks: five steps

    assert steps.tolist() == [[0.0, 1.0, 2.0, 2.0]]


def test_silence_has_only_its_end() -> None:
    silent = sure_of(BLANK, BLANK)

    steps = character_steps(silent, torch.tensor([2]), batch([]), BLANK)

    assert steps.tolist() == [[1.0]]


# A whole corpus

SECONDS, TEXTS = (0.6, 1.1, 0.9, 0.3, 0.8), ("GO", "GO ON", "", "TOO MANY LETTERS", "I")


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Recordings of noise; nobody speaks in one, and one is too short for its text."""
    return recordings(tmp_path_factory.mktemp("corpus"), SECONDS, TEXTS)


def on_device(utterances: list[Utterance], hours: float = 1.0) -> DeviceCorpus:
    config = AugmentConfig([0.9, 1.0, 1.1], noise=0.5)
    dataset = Dataset(utterances, TOKENIZER, Augmentation(config, 1))
    return DeviceCorpus(dataset, torch.device("cpu"), hours, 1)


def found(corpus: DeviceCorpus, team: Team | None = None) -> list[Tensor]:
    classes = cut_classes(corpus.lengths(), 300, 2)
    return align_corpus(
        network().eval(), corpus, classes, TOKENIZER.pad, team or Team()
    )


@pytest.mark.parametrize("hours", [0.0, 1.0])
def test_a_corpus_is_aligned_as_each_utterance_alone(
    utterances: list[Utterance], hours: float
) -> None:
    las, plain = network().eval(), Dataset(utterances, TOKENIZER)
    seconds_per_step = las.listener.ctc_reduction / 100

    times = found(on_device(utterances, hours))

    assert len(times) == len(utterances)
    for index, seconds in enumerate(times):
        features, tokens, _ = plain.example(index)
        listened = las.listen(features[None], torch.tensor([len(features)]))
        log_probs = las.ctc_log_probs(listened)[0].detach()
        begins = align(log_probs, tokens, TOKENIZER.pad).begins
        last = torch.tensor([len(log_probs) - 1.0])
        expected = torch.cat((begins, last)) * seconds_per_step
        # recordings on the device have 16 bits: a path may go otherwise by a step
        torch.testing.assert_close(seconds, expected, atol=seconds_per_step, rtol=1e-3)


class Part(Team):
    """One of two processes, whose gathering is done by hand."""

    def __init__(self, rank: int, other: Any = None) -> None:
        super().__init__(rank, 2)
        self.other = other
        self.own: Any = None

    def gather(self, item: Any) -> list[Any]:
        """Keep what this process has, and add what the other one had."""
        self.own = item
        both = [item, self.other or ([], torch.zeros(0))]
        return both if self.leads else both[::-1]


def test_two_processes_share_the_alignment_of_a_corpus(
    utterances: list[Utterance],
) -> None:
    corpus = on_device(utterances)
    second = Part(1)
    found(corpus, second)
    first = Part(0, second.own)

    shared = found(corpus, first)

    assert sorted(first.own[0] + second.own[0]) == list(range(len(utterances)))
    assert 1 <= len(second.own[0]) < len(utterances)
    for ours, alone in zip(shared, found(corpus), strict=True):
        assert torch.equal(ours, alone)


def test_a_guide_follows_the_speed(utterances: list[Utterance]) -> None:
    corpus = on_device(utterances)
    corpus.expected = found(corpus)
    speeds = {corpus.augmentation.speed(epoch, 1): epoch for epoch in range(30)}
    assert sorted(speeds) == [0.9, 1.0, 1.1]

    for speed, epoch in speeds.items():
        shape = LengthClass(144, 16, 2)
        (made,) = corpus.load([(ClassBatch(shape, [1, 0]), 1.0)], epoch)

        assert made.expected is not None
        steps = corpus.expected[1] * 25 / speed
        torch.testing.assert_close(made.expected[0, :6], steps)
        assert float(made.expected[0, 5]) <= int(made.num_frames[0]) / 4 + 1
