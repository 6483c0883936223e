import math
import random

import pytest
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.features import (
    HOP,
    NUM_MELS,
    AugmentConfig,
    FeatureNorm,
    batch_log_mel,
    blank_stripes,
    change_speed,
    draw_stripes,
    log_mel,
    mel_filters,
    mel_spectrogram,
    spec_augment,
)
from asr.padding import pad_rows

CONFIG = AugmentConfig(speeds=[1.0])


def tone(frequency: float, num_samples: int = SAMPLE_RATE) -> Tensor:
    time = torch.arange(num_samples, dtype=torch.float64) / SAMPLE_RATE
    return (2 * math.pi * frequency * time).sin().float()


# The mel spectrogram: golden


def test_a_tone_sounds_in_the_band_of_its_pitch() -> None:
    power = mel_spectrogram(tone(1000.0))

    # Slaney's scale: 1000 Hz is 15 mel, 8000 Hz is 15 + 27 ln 8 / ln 6.4 = 45.246 mel.
    # The middle of band f is (f + 1) / 81 of that, so 1000 Hz is at f + 1 = 26.85.
    assert (power[3:-3].argmax(dim=1) == 26).all()


@pytest.mark.parametrize("frame", [0, 1, 50, 100])
def test_a_click_sounds_in_the_frame_around_it(frame: int) -> None:
    waveform = torch.zeros(SAMPLE_RATE + 1)
    waveform[160 * frame] = 1.0

    power = mel_spectrogram(waveform).sum(dim=1)

    # A frame sees 200 samples to each side, and hops by 160: the next ones reach it
    assert int(power.argmax()) == frame
    assert set(power.nonzero()[:, 0].tolist()) == {frame - 1, frame, frame + 1} & set(
        range(101)
    )


# The mel spectrogram: parity


@pytest.mark.parametrize("num_samples", [600, 7999, 8000, 8001])
def test_log_power_agrees_with_librosa(num_samples: int) -> None:
    from librosa.feature import melspectrogram

    waveform = 0.1 * torch.randn(num_samples) + tone(440.0, num_samples)

    power = mel_spectrogram(waveform)

    expected = melspectrogram(
        y=waveform.numpy(),
        sr=SAMPLE_RATE,
        n_fft=512,
        win_length=400,
        hop_length=160,
        n_mels=80,
        center=True,
        pad_mode="constant",
        power=2.0,
    )
    expected_log = torch.from_numpy(expected).t().log()  # (F, T) -> (T, F)
    torch.testing.assert_close(power.log(), expected_log, atol=1e-3, rtol=0)


def test_log_mel_is_the_formula() -> None:
    waveform = torch.cat([torch.randn(3000), torch.zeros(3000), tone(300.0, 3000)])

    features = log_mel(waveform)

    power = mel_spectrogram(waveform).double()
    log_power = power.clamp_min(power.max() * 1e-8).log()  # -80 dB is 10 ** -8
    expected = log_power - log_power.mean(dim=0)
    torch.testing.assert_close(features.double(), expected, atol=1e-4, rtol=0)


# The mel spectrogram: shape and errors


@pytest.mark.parametrize(
    "num_samples", [1, 2, 159, 160, 161, 319, 320, 400, 512, 15_999, 16_000, 16_001]
)
def test_there_is_a_frame_every_ten_milliseconds(num_samples: int) -> None:
    shape = (1 + num_samples // 160, 80)

    assert mel_spectrogram(torch.randn(num_samples)).shape == shape
    assert log_mel(torch.randn(num_samples)).shape == shape


@pytest.mark.parametrize("shape", [(0,), (2, 400), ()])
def test_what_is_no_waveform_is_refused(shape: tuple[int, ...]) -> None:
    message = r"\(N,\) samples were needed, got \("
    with pytest.raises(ValueError, match=message):
        mel_spectrogram(torch.zeros(shape))


# Log-mel: properties


@pytest.mark.parametrize("gain", [1e-3, 0.25, -1.0, 30.0])
def test_a_change_of_gain_changes_nothing(gain: float) -> None:
    fading = torch.randn(SAMPLE_RATE) * torch.linspace(0, -6, SAMPLE_RATE).exp()

    torch.testing.assert_close(
        log_mel(gain * fading), log_mel(fading), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("num_samples", [1, 160, 16_000])
def test_digital_silence_gives_zeros(num_samples: int) -> None:
    features = log_mel(torch.zeros(num_samples))

    torch.testing.assert_close(features, torch.zeros_like(features), atol=1e-4, rtol=0)


def test_each_band_has_mean_zero() -> None:
    means = log_mel(torch.randn(SAMPLE_RATE) + tone(700.0)).mean(dim=0)

    torch.testing.assert_close(means, torch.zeros(NUM_MELS), atol=1e-5, rtol=0)


def test_the_floor_lies_80_db_below_the_peak() -> None:
    waveform = torch.cat([torch.randn(SAMPLE_RATE // 2), torch.zeros(SAMPLE_RATE // 2)])

    features = log_mel(waveform)

    # In the band of the peak: 80 dB are ln 10 ** 8 = 18.4207.
    ranges = features.amax(dim=0) - features.amin(dim=0)
    assert float(ranges.max()) == pytest.approx(18.4207, abs=1e-3)


def test_what_is_above_the_floor_is_not_touched() -> None:
    loud, soft = torch.randn(SAMPLE_RATE // 2), 1e-3 * torch.randn(SAMPLE_RATE // 2)

    features = log_mel(torch.cat([loud, soft]))

    steps = features[:45].mean(dim=0) - features[-45:].mean(dim=0)
    assert float(steps.mean()) == pytest.approx(6 * math.log(10), abs=0.2)  # 60 dB


# FeatureNorm


def test_measured_features_have_mean_zero_and_deviation_one() -> None:
    scales = torch.linspace(0.1, 5.0, NUM_MELS)
    features = [scales * torch.randn(length, NUM_MELS) + 3 for length in (20, 70)]
    norm = FeatureNorm()

    norm.measure(features)

    normed = norm(torch.cat(features))
    torch.testing.assert_close(
        normed.mean(dim=0), torch.zeros(NUM_MELS), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        normed.std(dim=0), torch.ones(NUM_MELS), atol=1e-4, rtol=0
    )


def test_an_unmeasured_norm_changes_nothing() -> None:
    features = torch.randn(2, 5, NUM_MELS)

    assert torch.equal(FeatureNorm()(features), features)


def test_a_band_that_never_changes_stays_finite() -> None:
    features = torch.randn(9, NUM_MELS)
    features[:, 4] = 2.0
    norm = FeatureNorm()

    norm.measure([features])

    assert norm(features).isfinite().all()
    assert not norm(features)[:, 4].any()


def test_a_measured_norm_is_saved_with_the_weights() -> None:
    norm, copy = FeatureNorm(), FeatureNorm()
    norm.measure([torch.randn(9, NUM_MELS)])

    copy.load_state_dict(norm.state_dict())

    features = torch.randn(3, NUM_MELS)
    assert torch.equal(copy(features), norm(features))
    assert not list(norm.parameters())  # an optimiser has nothing to change


# SpecAugment


def blanked(features: Tensor) -> tuple[list[int], list[int]]:
    """Return the frames and the bands that are wholly blank."""
    blank = features == 0
    frames = blank.all(dim=1).nonzero()[:, 0].tolist()
    bands = blank.all(dim=0).nonzero()[:, 0].tolist()
    return frames, bands


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_configured_is_blanked(seed: int) -> None:
    features = torch.ones(100 + seed, NUM_MELS)

    augmented = spec_augment(features, CONFIG, 1.0, random.Random(seed))

    frames, bands = blanked(augmented)
    assert len(bands) <= 2 * 15
    assert len(frames) <= 2 * ((100 + seed) // 5)
    expected = features.clone()  # whole stripes, and nothing else
    expected[frames] = 0.0
    expected[:, bands] = 0.0
    assert torch.equal(augmented, expected)


@pytest.mark.parametrize(
    ("num_frames", "strength", "widest_bands", "widest_frames"),
    [
        (300, 1.0, 15, 40),
        (300, 0.4, 6, 16),
        (50, 1.0, 15, 10),  # a fifth of the utterance
        (50, 0.5, 8, 5),
        (4, 1.0, 15, 0),
        (1, 1.0, 15, 0),
    ],
)
def test_a_stripe_is_of_any_width_up_to_the_widest(
    num_frames: int, strength: float, widest_bands: int, widest_frames: int
) -> None:
    config = AugmentConfig(speeds=[1.0], frequency_masks=1, time_masks=1)
    rng = random.Random(0)
    features = torch.ones(num_frames, NUM_MELS)

    found = [blanked(spec_augment(features, config, strength, rng)) for _ in range(400)]

    assert {len(bands) for _, bands in found} == set(range(widest_bands + 1))
    assert {len(frames) for frames, _ in found} == set(range(widest_frames + 1))


@pytest.mark.parametrize(
    ("frequency_masks", "time_masks"), [(0, 0), (0, 3), (1, 0), (3, 1)]
)
def test_there_are_as_many_stripes_as_configured(
    frequency_masks: int, time_masks: int
) -> None:
    config = AugmentConfig([1.0], frequency_masks, 1, time_masks, 1)
    rng = random.Random(0)
    features = torch.ones(60, NUM_MELS)

    found = [blanked(spec_augment(features, config, 1.0, rng)) for _ in range(100)]

    assert max(len(bands) for _, bands in found) == frequency_masks
    assert max(len(frames) for frames, _ in found) == time_masks


def test_stripes_lie_anywhere() -> None:
    config = AugmentConfig([1.0], frequency_masks=1, time_masks=1, time_width=8)
    rng = random.Random(0)
    features = torch.ones(60, NUM_MELS)

    found = [blanked(spec_augment(features, config, 1.0, rng)) for _ in range(600)]

    assert {frame for frames, _ in found for frame in frames} == set(range(60))
    assert {band for _, bands in found for band in bands} == set(range(NUM_MELS))


def test_a_stripe_is_never_wider_than_what_it_blanks() -> None:
    config = AugmentConfig([1.0], frequency_width=500, time_masks=0)

    augmented = spec_augment(torch.ones(3, NUM_MELS), config, 1.0, random.Random(1))

    assert augmented.shape == (3, NUM_MELS)


@pytest.mark.parametrize(
    ("config", "strength"),
    [
        (CONFIG, 0.0),
        (AugmentConfig([1.0], frequency_masks=0, time_masks=0), 1.0),
        (AugmentConfig([1.0], frequency_width=0, time_width=0), 1.0),
    ],
)
def test_masks_without_strength_number_or_width_change_nothing(
    config: AugmentConfig, strength: float
) -> None:
    features = torch.randn(300, NUM_MELS)

    augmented = spec_augment(features, config, strength, random.Random(0))

    assert torch.equal(augmented, features)


def test_the_same_chance_gives_the_same_masks() -> None:
    features = torch.randn(300, NUM_MELS)

    one, same, other = (
        spec_augment(features, CONFIG, 1.0, random.Random(seed)) for seed in (7, 7, 8)
    )

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_features_themselves_are_not_modified() -> None:
    features = torch.randn(300, NUM_MELS)
    before = features.clone()

    augmented = spec_augment(features, CONFIG, 1.0, random.Random(0))

    assert torch.equal(features, before)
    assert not torch.equal(augmented, before)


# Speed


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_a_faster_recording_is_shorter(speed: float) -> None:
    waveform = change_speed(torch.randn(SAMPLE_RATE), speed)

    assert waveform.dtype == torch.float32
    assert len(waveform) == pytest.approx(SAMPLE_RATE / speed, abs=1)


@pytest.mark.parametrize(("speed", "pitch"), [(1.1, 1100.0), (0.9, 900.0)])
def test_a_faster_recording_is_higher(speed: float, pitch: float) -> None:
    waveform = change_speed(tone(1000.0), speed)

    spectrum = torch.fft.rfft(waveform).abs()
    bin_width = SAMPLE_RATE / len(waveform)
    assert int(spectrum.argmax()) * bin_width == pytest.approx(pitch, abs=bin_width)


def test_a_recording_at_its_own_speed_is_left_alone() -> None:
    waveform = torch.randn(1000)

    assert torch.equal(change_speed(waveform, 1.0), waveform)


# Settings


@pytest.mark.parametrize(
    "speeds", [[], [0.49], [2.01], [1.0, 0.0], [-1.0], [float("nan")]]
)
def test_speeds_that_no_speech_has_are_refused(speeds: list[float]) -> None:
    with pytest.raises(ValueError, match=r"augment\.speeds must be some of 0\.5 to 2"):
        AugmentConfig(speeds=speeds)


def test_speeds_from_half_to_double_are_fine() -> None:
    assert AugmentConfig(speeds=[0.5, 2.0]).speeds == [0.5, 2.0]


@pytest.mark.parametrize(
    "name", ["frequency_masks", "frequency_width", "time_masks", "time_width"]
)
def test_masks_below_zero_are_refused(name: str) -> None:
    message = rf"augment\.{name} must be at least 0, not -1"
    with pytest.raises(ValueError, match=message):
        AugmentConfig([1.0], **{name: -1})


# Several utterances at a time


@pytest.mark.parametrize("own_filters", [False, True])
def test_a_batch_has_the_features_of_each_utterance_alone(own_filters: bool) -> None:
    torch.manual_seed(0)
    lengths = [1, 159, 160, 161, 7999, 8000, 16123]
    rows = [0.1 * torch.randn(count) for count in lengths]
    rows.append(torch.zeros(4000))  # digital silence
    waveforms, num_samples = pad_rows(rows)
    filters = mel_filters()
    if own_filters:
        filters = filters.expand(len(rows), *filters.shape)

    found = batch_log_mel(waveforms, num_samples, filters)

    assert found.shape == (8, 1 + 16123 // HOP, NUM_MELS)
    for features, row in zip(found, rows, strict=True):
        alone = log_mel(row)
        close = features[: len(alone)]
        torch.testing.assert_close(close, alone, atol=1e-5, rtol=1e-5)
        assert not features[len(alone) :].any()


def test_filters_that_are_not_stretched_are_those_of_the_mel_spectrogram() -> None:
    spectrum = torch.rand(257)

    assert mel_filters(1.0).shape == (257, NUM_MELS)
    assert mel_filters(1.0) is not mel_filters(1.1)
    assert torch.equal(mel_filters(1.0), mel_filters())
    # nearly no stretch is nearly none
    torch.testing.assert_close(
        spectrum @ mel_filters(1 + 1e-6), spectrum @ mel_filters(), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_batch_has_the_stripes_of_each_utterance_alone(strength: float) -> None:
    torch.manual_seed(0)
    rows = [torch.randn(count, NUM_MELS) for count in (3, 40, 300)]
    features, lengths = pad_rows(rows)
    drawn = [
        draw_stripes(int(count), CONFIG, strength, random.Random(seed))
        for seed, count in enumerate(lengths)
    ]

    found = blank_stripes(
        features,
        torch.tensor([stripes.bands for stripes in drawn]),
        torch.tensor([stripes.frames for stripes in drawn]),
    )

    for seed, row in enumerate(rows):
        alone = spec_augment(row, CONFIG, strength, random.Random(seed))
        assert torch.equal(found[seed, : len(row)], alone)
        assert not found[seed, len(row) :].any()


def test_without_stripes_a_batch_stays_as_it_is() -> None:
    features, nothing = torch.randn(2, 5, NUM_MELS), torch.zeros(2, 0, 2).long()

    assert torch.equal(blank_stripes(features, nothing, nothing), features)


def test_noise_and_babble_share_the_utterances() -> None:
    assert AugmentConfig([1.0], noise=0.5, babble=0.5).babble == 0.5

    message = r"augment\.noise and augment\.babble are .* not 0\.6 and 0\.5"
    with pytest.raises(ValueError, match=message):
        AugmentConfig([1.0], noise=0.6, babble=0.5)
