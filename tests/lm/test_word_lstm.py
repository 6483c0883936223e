"""The LSTM that is mixed into the word n-gram."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.decoding import SearchConfig, beam_search
from asr.errors import CheckpointError
from asr.file_sets import checksums
from asr.lm.context_cache import ContextCache
from asr.lm.estimate import NGramConfig, estimate, measure, scores
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram
from asr.lm.word_lstm import DESCRIPTION, FILE, Contexts, WordLSTM
from asr.lm.word_tables import UNKNOWN
from asr.tensor_files import dequantize_rows, read_tensors, write_tensors
from asr.text import CharTokenizer

TOKENIZER = CharTokenizer()
TEXT = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "AN AND I'M A BE", "A"]


def network(seed: int = 0) -> WordLSTM:
    torch.manual_seed(seed)
    ranks = torch.tensor([2, 0, 4, 1, 3, 5, 6])  # of 5 words, <unk>, the boundary
    model = WordLSTM(ranks, embedding_size=3, size=16, cutoffs=[2, 4], share=0.3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    return model.eval()


def mixture(seed: int = 0) -> WordNGram:
    ngram = estimate([TEXT], [1], NGramConfig(3, 9, (1, 1)))
    assert ngram.words == ["A", "AN", "AND", "BE", "I'M"]
    return WordNGram(ngram.words, ngram.levels, lstm=network(seed))


@pytest.mark.parametrize("seed", range(3))
def test_contexts_foretell_what_the_network_foretells(seed: int) -> None:
    model = network(seed)
    contexts = Contexts(model)
    words = torch.from_numpy(np.random.default_rng(seed).integers(0, 6, (4, 7)))
    start = torch.full((4, 1), 6)
    with torch.no_grad():
        expected = model(model.ranks[torch.cat((start, words), dim=1)])

    state = contexts.start(4)
    for column, wanted in zip(words.T, expected.T, strict=True):
        found = contexts.log_prob(column, state)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        state = contexts.read(column, state)


def test_the_network_is_an_adaptive_softmax_over_an_lstm() -> None:
    model = network()
    words = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (4, 7)))
    states, _ = model.lstm(model.embedding(words[:, :-1]))
    expected = model.softmax(states.flatten(0, 1), words[:, 1:].flatten()).output

    for found in (model(words), model(words, model.members(words))):
        assert found.shape == (4, 6)
        torch.testing.assert_close(found.flatten(), expected)


def test_a_batch_may_hold_words_of_the_head_alone() -> None:
    model = network()
    words = torch.tensor([[6, 0, 1, 1]])
    states, _ = model.lstm(model.embedding(words[:, :-1]))
    expected = model.softmax.log_prob(states[0]).gather(1, words[:, 1:].T)

    torch.testing.assert_close(model(words), expected.T)


@pytest.mark.gpu
def test_a_gpu_foretells_what_a_cpu_does() -> None:
    model = network()
    words = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (4, 7)))
    expected, members = model(words), [m.cuda() for m in model.members(words)]

    found = model.cuda()(words.cuda(), members)

    torch.testing.assert_close(found.cpu(), expected, atol=1e-2, rtol=1e-2)


def test_dropout_is_for_training_only() -> None:
    model = network()
    words = torch.tensor([[6, 0, 3, 1]])
    expected = model(words)
    model.dropout = 0.5

    assert torch.equal(model(words), expected)
    assert not torch.equal(model.train()(words), expected)


def test_the_mixture_sums_to_one() -> None:
    model = mixture()
    assert model.contexts
    everything = np.arange(7)
    for said in ([], [0], [3, 3], [5, 1, 2]):
        contexts = model.contexts.start(1)
        for word in said:
            contexts = model.contexts.read(torch.tensor([word]), contexts)
        histories = np.array([([6, 6, *said])[-2:]] * 7)
        words = model.log_prob(
            histories[:6], everything[:6], contexts.expand(6, -1).contiguous()
        )
        end = model.log_prob(histories[6:], everything[6:])
        assert np.exp(np.concatenate([words, end])).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("said", [[], [0], [3, 3], [5, 1, 2]])
def test_what_a_word_may_become_is_the_sum_of_its_head_and_its_clusters(
    said: list[int],
) -> None:
    model = mixture()
    assert model.lstm
    assert model.contexts
    contexts = model.contexts.start(1)
    for word in said:
        contexts = model.contexts.read(torch.tensor([word]), contexts)
    probs = model.contexts.log_prob(torch.arange(6), contexts.expand(6, -1)).exp()
    cache, at = read(model, said)
    ranks, unigrams = model.lstm.ranks[:5], np.exp(model.levels[0].log_probs[:5])
    cluster = [0 if rank < 2 else 1 if rank < 4 else 2 for rank in ranks.tolist()]
    of_all = [*cluster, 2]  # <unk>, of rank 5, is in the last one

    def mass(beginning: str) -> float:
        below = [i for i, w in enumerate(model.words) if w.startswith(beginning)]
        found = sum(probs[i].item() for i in below if cluster[i] == 0)
        for c in (1, 2):
            whole = sum(probs[i].item() for i in range(6) if of_all[i] == c)
            own = sum(unigrams[i] for i in below if cluster[i] == c)
            if own:
                found += whole * own / sum(unigrams[np.array(cluster) == c])
        return 0.7 * float(sum(unigrams[i] for i in below)) + 0.3 * found

    node = 0
    for i, letter in enumerate("AND"):
        node = int(model.children[node, TOKENIZER.characters.index(letter) - 1])
        ahead = model.ahead(np.array([[node]]), at, cache)
        assert ahead.item() == pytest.approx(np.log(mass("AND"[: i + 1])), abs=1e-5)
    outside = np.array([[0, model.outside]])
    unknown = model.levels[0].log_probs[model.unknown]
    assert model.ahead(outside, at, cache).tolist() == [[0.0, pytest.approx(unknown)]]


def read(model: WordNGram, said: list[int]) -> tuple[ContextCache, Ints]:
    """Return contexts as a search has them, and which is that of the words."""
    assert model.context_weights
    cache, at = model.context_weights.start(np.zeros(1)), np.zeros(1, dtype=np.int64)
    for word in said:
        at = cache.read(np.array([word]), at, np.zeros(1))
    return cache, at


def spell(model: WordNGram, text: str) -> float:
    steps, total = model.steps(1), 0.0
    tokens = [TOKENIZER.sos, *TOKENIZER.encode(text), TOKENIZER.eos]
    state = steps.start()
    for token, after in pairwise(tokens):
        found, state = steps.step(torch.tensor([token]), state)
        total += found[0, after].item()
    return total


@pytest.mark.parametrize("text", ["A BE AN", "I'M I'M I'M I'M", "AND"])
def test_the_search_pays_what_measure_counts(text: str) -> None:
    model = mixture()
    assert model.lstm
    (ngram, lstm), ends, _ = scores(model, [model.numbers(text.split())])
    share = model.lstm.share
    words = np.log((1 - share) * np.exp(ngram) + share * np.exp(lstm))

    assert spell(model, text) == pytest.approx(words.sum() + ends.sum(), abs=1e-4)
    perplexity, _ = measure(model, [text])
    assert perplexity == pytest.approx(
        np.exp(-(words.sum() + ends.sum()) / (len(words) + 1)), rel=1e-5
    )


def test_a_beam_follows_each_hypothesis_with_its_own_context() -> None:
    model = mixture()
    found = beam_search(
        model.steps(2),
        SearchConfig(beam_size=6, length_norm=0.0),
        sos=TOKENIZER.sos,
        eos=TOKENIZER.eos,
        max_lengths=torch.tensor([9, 14]),
    )
    several = 0
    for hypothesis in (one for utterance in found for one in utterance):
        if hypothesis.finished:
            text = TOKENIZER.decode(hypothesis.tokens)
            several += " " in text
            assert hypothesis.log_prob == pytest.approx(spell(model, text), abs=1e-3)
    assert several >= 3


def test_a_saved_network_is_the_same_but_for_bytes(tmp_path: Path) -> None:
    model = mixture()
    assert model.lstm
    model.save(tmp_path, {})
    model.lstm.save(tmp_path, model.words, {"texts": ["a"]})

    loaded = WordNGram.load(tmp_path)

    assert loaded.lstm
    assert loaded.lstm.share == 0.3
    for name, weight in model.lstm.state_dict().items():
        theirs = loaded.lstm.state_dict()[name].float()
        size = weight.float().abs().max().item()
        torch.testing.assert_close(theirs, weight.float(), atol=size / 200, rtol=0)
    assert spell(loaded, "A BE AN") == pytest.approx(spell(model, "A BE AN"), abs=0.2)


def test_the_words_of_a_loaded_network_stay_bytes_until_they_are_asked_for(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path)
    loaded = WordNGram.load(folder).lstm
    assert loaded
    stored = read_tensors(folder / FILE)[0]
    expected = dequantize_rows("embedding.weight", stored)
    words = torch.tensor([[3, 0], [6, 3]])

    rows = loaded.embedding(words)
    parameters = {name for name, _ in loaded.named_parameters()}
    state = loaded.state_dict()["embedding.weight"]
    trained = loaded.trainable()

    assert torch.equal(rows, expected[words])
    assert torch.equal(state, expected)
    assert "embedding.weight" not in parameters
    assert torch.equal(trained.get_parameter("embedding.weight"), expected)
    assert trained.get_parameter("embedding.weight").requires_grad
    assert trained.trainable().embedding is trained.embedding


def test_words_without_a_row_each_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    tensors, metadata = read_tensors(folder / FILE)
    for name in ("embedding.weight", "embedding.weight.scale"):
        tensors[name] = tensors[name][:-1].clone()
    write_tensors(folder / FILE, tensors, metadata)
    vouch(folder)
    with pytest.raises(CheckpointError, match="7 rows of words were expected"):
        WordNGram.load(folder)


def test_without_its_file_the_n_gram_is_alone(tmp_path: Path) -> None:
    mixture().save(tmp_path, {})
    assert WordNGram.load(tmp_path).lstm is None


def saved(folder: Path) -> Path:
    model = mixture()
    assert model.lstm
    model.save(folder, {})
    model.lstm.save(folder, model.words, {})
    return folder


def test_what_is_no_such_network_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / DESCRIPTION).unlink()
    with pytest.raises(CheckpointError, match=rf"{DESCRIPTION}: cannot be read"):
        WordNGram.load(folder)
    (folder / DESCRIPTION).write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe a word LSTM"):
        WordNGram.load(folder)
    (folder / DESCRIPTION).write_text('{"files": {}}')
    with pytest.raises(CheckpointError, match=f"has no checksum of {FILE}"):
        WordNGram.load(folder)
    saved(tmp_path)
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"{FILE}: cannot be read"):
        WordNGram.load(folder)
    saved(tmp_path)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{FILE}: is damaged, or not the file"):
        WordNGram.load(folder)


def test_a_network_of_another_n_gram_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    estimate([["B C"]], [1], NGramConfig(2, 9, (1,))).save(folder, {})
    with pytest.raises(CheckpointError, match=r"belongs to another n-gram \(train"):
        WordNGram.load(folder)
    assert WordNGram.load(folder, alone=True).words == ["B", "C"]


def vouch(folder: Path) -> None:
    """Write the checksum of what is there now."""
    table = checksums({FILE: (folder / FILE).read_bytes()})
    (folder / DESCRIPTION).write_text(json.dumps({"files": table}))


@pytest.mark.parametrize(
    "fact", [{"kind": "x"}, {"share": 1.0}, {"size": 9}, {"cutoffs": 3}, {"share": "a"}]
)
def test_facts_that_do_not_fit_are_refused(
    fact: dict[str, object], tmp_path: Path
) -> None:
    folder = saved(tmp_path)
    tensors, metadata = read_tensors(folder / FILE)
    write_tensors(folder / FILE, tensors, {**metadata, **fact})
    vouch(folder)
    with pytest.raises(CheckpointError, match=rf"{FILE}: is "):
        WordNGram.load(folder)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_altered_a_model_comes_or_a_checkpoint_error(
    seed: int, tmp_path: Path
) -> None:
    folder, rng = saved(tmp_path), random.Random(seed)
    content = bytearray((folder / FILE).read_bytes())
    for _ in range(3):
        end = 8 + int.from_bytes(content[:8], "little")
        place = rng.randrange(8, rng.choice([min(end, len(content)), len(content)]))
        content[place] = rng.choice(b'0123456789FIU"\xff')
    (folder / FILE).write_bytes(content)
    vouch(folder)
    refusal = FILE
    try:
        assert WordNGram.load(folder).lstm
    except CheckpointError as error:
        refusal = str(error)
    assert FILE in refusal


@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.int32, torch.bool]
)
def test_ranks_of_another_type_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    folder = saved(tmp_path)
    tensors, metadata = read_tensors(folder / FILE)
    tensors["ranks"] = tensors["ranks"].to(kind)
    write_tensors(folder / FILE, tensors, metadata)
    vouch(folder)
    with pytest.raises(CheckpointError, match=r"\d ranks were expected"):
        WordNGram.load(folder)


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"size": 10**9}, "no weight has a size of 1000000000"),
        ({"embedding_size": 10**9}, "no weight has a size of"),
        ({"size": 16.0}, "size: int was expected, not 16.0"),
        ({"size": -16}, "sizes must be at least 1"),
        ({"cutoffs": [2, 0]}, "sizes must be at least 1"),
        ({"cutoffs": ["2"]}, "cutoffs: list.* was expected"),
        ({"share": True}, "share: float was expected, not True"),
    ],
)
def test_sizes_that_no_weight_has_are_refused(
    fact: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path)
    tensors, metadata = read_tensors(folder / FILE)
    write_tensors(folder / FILE, tensors, {**metadata, **fact})
    vouch(folder)
    with pytest.raises(CheckpointError, match=message):
        WordNGram.load(folder)


@pytest.mark.parametrize("text", ["ANNA", "A ANNA BE", "I'M ANDY"])
def test_a_word_of_a_user_is_a_share_of_the_unknown(text: str) -> None:
    model = mixture()
    unigrams = model.levels[0].log_probs
    share = min(unigrams[:5].min() - unigrams[5], -np.log(4))
    with_words = model.with_words(["ANNA", "ANDY"])

    expected = spell(model, text) - UNKNOWN * 4 + share

    assert spell(with_words, text) == pytest.approx(expected, abs=1e-4)
