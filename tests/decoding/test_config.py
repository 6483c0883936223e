import pytest

from asr.decoding.config import DecodingConfig, replaced
from asr.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("beam_size", 10_001, "beam_size must be at most 10000, not 10001"),
        ("lm_weight", 1e300, "lm_weight must be at most 10000, not 1e.300"),
        ("word_bonus", -1e5, "word_bonus must be at most 10000, not -100000"),
        ("ilm_weight", 1e5, "ilm_weight must be at most 10000"),
        ("coverage", 1e5, "coverage must be at most 10000"),
        ("length_norm", 1e5, "length_norm must be at most 10000"),
        ("eos_threshold", 1e5, "eos_threshold must be at most 10000"),
        ("coverage", float("nan"), "coverage must be at least 0, not nan"),
        ("coverage", float("inf"), "coverage must be at least 0, not inf"),
        ("attention_window", 0, "attention_window must be above 0, not 0"),
        ("attention_window", float("inf"), "attention_window must be above 0, not inf"),
    ],
)
def test_settings_have_bounds(setting: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=f"decoding.{message}"):
        replaced(DecodingConfig(), {setting: value})
