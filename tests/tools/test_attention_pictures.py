from pathlib import Path

import pytest
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import Model, find_model, load_model
from asr.text import CharTokenizer
from tools.attention_pictures import (
    ROWS_SHOWN,
    Reading,
    around,
    draw_blocks,
    draw_context,
    draw_heads,
    draw_kinds,
    draw_location,
    draw_one_character,
    greedy_text,
    read,
    said_backwards,
    white_noise,
)

SAMPLE = Path(__file__).parents[2] / "asr" / "assets" / "sample.opus"
TEXT = "A TONE"
MOST_BYTES = 150_000


def model_of(attention: AttentionConfig) -> Model:
    torch.manual_seed(0)
    tokenizer = CharTokenizer()
    config = LASConfig(
        ListenerConfig(size=4, reductions=[2, 2], dropout=0.0),
        attention,
        SpellerConfig(size=5, embedding_size=3),
    )
    return Model(LAS(config, tokenizer.size), tokenizer, {})


def reading_of(attention: AttentionConfig) -> Reading:
    return read(model_of(attention), white_noise(SAMPLE_RATE), TEXT)


@pytest.mark.parametrize(
    "attention",
    [
        AttentionConfig("location", size=4, filters=2, reach=2),
        AttentionConfig("dot", size=4, heads=2),
        AttentionConfig("additive", size=4, block_size=5),
    ],
    ids=lambda config: config.kind,
)
def test_weights_are_the_softmax_of_the_energies(attention: AttentionConfig) -> None:
    reading = reading_of(attention)

    expected = reading.energies.softmax(dim=2).mean(dim=1)

    assert reading.weights.shape == (len(TEXT) + 1, len(reading.h))
    torch.testing.assert_close(reading.weights, expected)


def test_a_context_is_the_weighted_sum_of_the_steps() -> None:
    reading = reading_of(AttentionConfig("additive", size=4))

    torch.testing.assert_close(reading.contexts, reading.weights @ reading.h)


def test_the_steps_with_most_weight_are_found() -> None:
    assert around(torch.tensor([0.0, 0.1, 0.6, 0.3, 0.0]), 3) == slice(1, 4)


def test_noise_is_the_same_each_time() -> None:
    torch.testing.assert_close(white_noise(100), white_noise(100))


def test_the_bundled_model_loops_where_its_picture_says_so() -> None:
    bundled, sample = load_model(find_model(None)), read_waveform(SAMPLE)

    with torch.inference_mode():
        text = greedy_text(bundled, said_backwards(sample))

    assert len(text) > ROWS_SHOWN
    assert text.count("NET ") > 2 * 14


@pytest.mark.slow
def test_each_picture_is_a_small_png(tmp_path: Path) -> None:
    location = AttentionConfig("location", size=4, filters=2, reach=2)
    reading = reading_of(location)
    heads = reading_of(AttentionConfig("dot", size=4, heads=2))
    blocks = reading_of(AttentionConfig("additive", size=4, block_size=5))

    draw_one_character(tmp_path / "one.png", reading, 2)
    draw_context(tmp_path / "context.png", reading, 2)
    draw_location(tmp_path / "location.png", model_of(location), reading, 2)
    draw_kinds(tmp_path / "kinds.png", [("a", reading), ("b", blocks)])
    draw_heads(tmp_path / "heads.png", heads)
    draw_blocks(tmp_path / "blocks.png", blocks, 5)

    pictures = [path.read_bytes() for path in tmp_path.glob("*.png")]
    assert len(pictures) == 6
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert max(map(len, pictures)) < MOST_BYTES
