"""Pieces of many requests take turns."""

from asr.server.turns import Turns, Waiting


def taken(turns: Turns[str, str], most: int = 8, seconds: float = 1e9) -> str:
    return "".join(piece.work for _, piece in turns.take(most, seconds))


def filled(**lines: str) -> Turns[str, str]:
    turns = Turns[str, str]()
    for owner, works in lines.items():
        for work in works:
            turns.put(owner, Waiting(work, 15.0))
    return turns


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    turns = filled(long="abcdefgh", short="x")
    assert taken(turns, 2) == "ax"
    assert taken(turns, 2) == "bc"


def test_requests_take_turns_over_batches() -> None:
    turns = filled(a="aaaa", b="bbbb", c="cccc")
    assert turns.num_owners == 3
    assert [taken(turns, 2) for _ in range(6)] == ["ab", "ca", "bc", "ab", "ca", "bc"]
    assert (len(turns), turns.seconds, taken(turns)) == (0, 0.0, "")


def test_a_batch_has_no_more_seconds_than_it_may_padding_counted() -> None:
    turns = Turns[str, str]()
    for work, seconds in (("a", 2.0), ("b", 15.0), ("c", 2.0), ("d", 2.0)):
        turns.put(work, Waiting(work, seconds))
    assert taken(turns, seconds=16.0) == "acd"
    assert taken(turns, seconds=1.0) == "b"


def test_other_hot_words_wait_for_another_batch() -> None:
    turns = Turns[str, str]()
    for work, kind in (("a", "A"), ("b", "B"), ("c", "A")):
        turns.put(work, Waiting(work, 1.0, kind))
    assert taken(turns) == "ac"
    assert taken(turns) == "b"


def test_what_a_worker_ended_over_is_taken_alone_and_first() -> None:
    turns = filled(a="a", b="b")
    for work in "yx":
        turns.put(work, Waiting(work, 1.0, alone=True), in_front=True)
    assert [taken(turns) for _ in range(3)] == ["x", "y", "ab"]


def test_a_piece_can_be_taken_back_once() -> None:
    turns, piece = filled(a="a"), Waiting("b", 15.0)
    turns.put("a", piece)
    turns.drop("a", piece)
    turns.drop("a", piece)
    assert (len(turns), turns.seconds, taken(turns)) == (1, 15.0, "a")
