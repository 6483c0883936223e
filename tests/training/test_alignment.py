import torch
from torch import Tensor

from asr.data.batching import Batch
from asr.training.alignment import character_steps

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
