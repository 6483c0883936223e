import gzip
import random
from contextlib import suppress
from pathlib import Path

import pytest

from asr.data.corpora.text_files import read_text
from asr.data.prepare import detect
from asr.errors import CorpusError


def damaged(place: int) -> bytes:
    """A packed text of 100 numbers, with one bit flipped."""
    chance = random.Random(0)
    words = (str(chance.random()) for _ in range(100))
    content = bytearray(gzip.compress(" ".join(words).encode(), mtime=0))
    content[place] ^= 16
    return bytes(content)


def test_a_packed_file_with_a_flipped_bit_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    refused = 0

    for place in range(-600, 0, 7):
        path.write_bytes(damaged(place))
        with suppress(CorpusError):
            read_text(path)
            continue
        refused += 1

    assert refused == len(range(-600, 0, 7))


def test_a_packed_file_that_cannot_be_unpacked_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 20)

    with pytest.raises(CorpusError, match=r"gz: is damaged \(Error -3 while decomp"):
        read_text(path)


def test_a_damaged_checksum_is_the_reason_why_a_file_is_no_corpus(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(damaged(-6))

    with pytest.raises(CorpusError, match=r"CRC check failed .*; a corpus is a table"):
        detect(path)
