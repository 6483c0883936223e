import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from asr.alphabet import fitted
from asr.decoding import Fusion, SearchConfig, beam_search
from asr.decoding.hotwords import HotWords, read_hotwords, spell_hotwords
from asr.errors import ConfigError
from asr.text import CharTokenizer, Tokenizer
from asr.tokenizers import Subwords

TOKENIZER = CharTokenizer()


def scores(
    phrases: Sequence[str], text: str, tokenizer: Tokenizer = TOKENIZER
) -> list[float]:
    """Return what each token of a text scores, and its end."""
    model = HotWords(phrases, tokenizer).steps(1)
    tokens = [tokenizer.sos, *tokenizer.encode(text), tokenizer.eos]
    state, found = model.start(), list[float]()
    for token, after in pairwise(tokens):
        given, state = model.step(torch.tensor([token]), state)
        found.append(given[0, after].item())
    return found


def letters_in_hot_words(phrases: Sequence[str], text: str) -> int:
    """Mark them, one phrase after the other."""
    text, marked = f" {text} ", set[int]()
    for phrase in (f" {phrase} " for phrase in phrases):
        for start in range(len(text)):
            if text.startswith(phrase, start):
                marked |= set(range(start, start + len(phrase)))
    return sum(text[place] != " " for place in marked)


# Golden: worked by hand


def test_each_letter_of_a_hot_word_scores_one() -> None:
    assert scores(["ANNA"], "ANNA") == [1, 1, 1, 1, 0]


def test_what_was_advanced_is_taken_back_where_the_match_breaks() -> None:
    #                                A  N  D    E
    assert scores(["ANNA"], "AND") == [1, 1, -2, 0]
    assert scores(["ANNA"], "ANN") == [1, 1, 1, -3]  # the end breaks it, too


def test_only_whole_words_score() -> None:
    assert scores(["AN"], "BAN AN") == [0, 0, 0, 0, 1, 1, 0]
    assert scores(["AN"], "ANY AN") == [1, 1, -2, 0, 1, 1, 0]


def test_a_phrase_scores_as_a_whole() -> None:
    new_york = ["NEW YORK"]

    assert scores(new_york, "NEW YORK") == [1, 1, 1, 0, 1, 1, 1, 1, 0]
    assert scores(new_york, "NEW YAK") == [1, 1, 1, 0, 1, -4, 0, 0]


def test_a_match_that_breaks_leaves_what_is_a_match_in_it() -> None:
    # B of "A B C" is the start of "B D", too: of A B, two letters, one stays advanced.
    assert scores(["A B C", "B D"], "A B D") == [1, 0, 1, 0, 0, 0]


def test_a_letter_in_two_hot_phrases_scores_once() -> None:
    within = ["YORK", "NEW YORK", "NEW YORK CITY"]
    overlapping = ["JO ANN", "ANN LEE"]

    assert scores(within, "NEW YORK") == [1, 1, 1, 0, 1, 1, 1, 1, 0]
    assert sum(scores(overlapping, "JO ANN LEE")) == 8


def test_scores_of_the_beam_and_the_rest_add_up() -> None:
    class Even:
        """Each next letter of A, B, space and the end is as likely."""

        def start(self) -> torch.Tensor:
            return torch.zeros(1)

        def step(
            self, tokens: torch.Tensor, state: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            row = torch.full((TOKENIZER.size,), -torch.inf)
            row[[TOKENIZER.eos, *TOKENIZER.encode("AB ")]] = -2.0
            return row.repeat(len(tokens), 1), state

        def select(self, state: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return state[rows.flatten()]

    hot = HotWords(["ABBA"], TOKENIZER).steps(1)

    (found,) = beam_search(
        Fusion([Even(), hot], [1.0, 3.0]),
        SearchConfig(beam_size=8, length_norm=0.0),
        sos=TOKENIZER.sos,
        eos=TOKENIZER.eos,
        max_lengths=torch.tensor([4]),
    )

    assert TOKENIZER.decode(found[0].tokens) == "ABBA"
    assert found[0].log_prob == 4 * 3.0 - 5 * 2.0  # letters; letters and the end


# Properties


@pytest.mark.parametrize("seed", range(60))
def test_a_finished_text_has_a_point_for_each_letter_in_a_hot_phrase(
    seed: int,
) -> None:
    rng = random.Random(seed)

    def some_words(most: int) -> str:
        lengths = [rng.randint(1, 2) for _ in range(rng.randint(1, most))]
        return " ".join("".join(rng.choices("AB", k=length)) for length in lengths)

    phrases = [some_words(4) for _ in range(rng.randint(1, 5))]
    texts = [some_words(9) for _ in range(20)]

    earned = [sum(scores(phrases, text)) for text in texts]

    assert earned == [letters_in_hot_words(phrases, text) for text in texts]


def test_subwords_score_as_their_letters_do() -> None:
    texts = ["THE CAT SAT ON THE MAT", "A DOG SAT ON THE CAT", "A MAT IS NOT A HAT"]
    subwords = Subwords.make(texts, 20)
    phrases = ["CAT", "ON THE", "MAT", "AT"]

    for text in texts:
        assert len(subwords.encode(text)) < len(text)
        assert sum(scores(phrases, text, subwords)) == letters_in_hot_words(
            phrases, text
        )


def test_hypotheses_keep_their_places_in_the_beam() -> None:
    model = HotWords(["AB"], TOKENIZER).steps(2)
    a, b = TOKENIZER.encode("AB")
    _, state = model.step(torch.full((2,), TOKENIZER.sos), model.start())

    state = model.select(state, torch.tensor([[0, 0], [1, 1]]))
    given, state = model.step(torch.tensor([a, b, b, a]), state)
    state = model.select(state, torch.tensor([[1, 0], [3, 2]]))
    after, _ = model.step(torch.tensor([b, b, b, b]), state)

    assert given[:, b].tolist() == [1, 0, 0, 1]
    assert after[:, TOKENIZER.eos].tolist() == [0, 0, 0, 0]
    assert after[:, a].tolist() == [0, -2, -2, 0]  # BB, AB, AB, BB


@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu_does() -> None:
    here = HotWords(["ANNA", "NEW YORK"], TOKENIZER)
    there = HotWords(["ANNA", "NEW YORK"], TOKENIZER, "cuda")

    assert there.scores.device.type == "cuda"
    assert there.scores.cpu().equal(here.scores)
    assert there.next_states.cpu().equal(here.next_states)


# What a user gives


def test_hot_words_are_spelled_as_the_model_writes() -> None:
    given = ["Zoë", "new-york", "O\u2019Brien", "route 66", "ZOE"]

    found = spell_hotwords(given, TOKENIZER)

    assert found == ("ZOE", "NEW YORK", "O'BRIEN", "ROUTE SIXTY SIX")


def test_another_alphabet_keeps_its_letters() -> None:
    german = CharTokenizer(" aäbcdefghijklmnoöprsßtuü")
    cased = CharTokenizer(" ABab")

    assert spell_hotwords(["Straße", "GRO\u0308ßer, Bä"], german) == (
        *("straße", "größer bä"),
    )
    assert spell_hotwords(["Ab ba"], cased) == ("Ab ba",)


def test_hot_words_are_spelled_as_all_that_meets_the_model() -> None:
    tokenizer = CharTokenizer(" 'abcdefghijklmnopqrstuvwxyzäöü")
    given = ["L\u2019Aquila", "Café", "İzmir", "Donau\u00addampf\u200bschiff"]

    found = spell_hotwords(given, tokenizer)

    assert found == ("l'aquila", "cafe", "izmir", "donaudampfschiff")
    assert found == tuple(fitted(word, tokenizer.characters) for word in given)


@pytest.mark.parametrize("phrase", ["北京", "?!", "'"])
def test_a_hot_word_without_a_letter_is_refused(phrase: str) -> None:
    with pytest.raises(ConfigError, match=r"hot word .+: has no letter that this mode"):
        spell_hotwords(["ANNA", phrase], TOKENIZER)


def test_hot_words_are_read_from_a_file_or_the_option_itself(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffZoë\r\n\n  New York \n".encode())

    assert read_hotwords(str(path)) == ("Zoë", "New York")
    assert read_hotwords("ANNA,New York,") == ("ANNA", "New York")
    assert read_hotwords("ANNA") == ("ANNA",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"names\.txt: cannot be read \(No such file"),
        (b"\n \n", r"names\.txt: holds no hot word"),
        (b"\xff\xfe", r"names\.txt: is no text in UTF-8"),
    ],
)
def test_a_file_that_is_no_list_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        read_hotwords(str(tmp_path / "names.txt"))


def test_a_name_of_a_file_that_is_not_there_is_no_hot_word() -> None:
    with pytest.raises(ConfigError, match=r"nmaes\.txt: cannot be read"):
        read_hotwords("nmaes.txt")


@pytest.mark.parametrize("phrases", [[], [""], ["A", " "]])
def test_no_hot_word_is_a_mistake_of_the_caller(phrases: list[str]) -> None:
    with pytest.raises(ValueError, match="no hot word, or an empty one"):
        HotWords(phrases, TOKENIZER)
