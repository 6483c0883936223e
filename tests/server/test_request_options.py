"""What a request may ask for, without a server."""

import pytest

from asr.server.errors import ApiError
from asr.server.request_options import read_options


def hotwords(*words: str) -> tuple[str, ...]:
    return read_options([("hotwords", ",".join(words))], ["tiny"], "en").hotwords


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"W{n}" for n in range(501)], "hotwords: at most 500 are possible"),
        (["A" * 101], "hotwords: may have 100 letters each, no more"),
        (
            [f"{n:03}".ljust(21, "A") for n in range(477)],
            "hotwords: may have 10000 letters in all, no more",
        ),
    ],
)
def test_hot_words_are_limited_in_number_and_letters(
    words: list[str], message: str
) -> None:
    with pytest.raises(ApiError, match=f"^{message}$") as caught:
        hotwords(*words)
    assert caught.value.param == "hotwords"
    assert len(hotwords(*(word[:20] for word in words[:500]))) == min(500, len(words))
