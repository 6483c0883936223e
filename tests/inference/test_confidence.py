import math

import numpy as np
import pytest
import torch

from asr.inference.confidence import (
    FEATURES,
    Bin,
    Calibration,
    area_under_curve,
    calibration_error,
    confidence,
    fit,
    reliability,
    support,
    word_features,
)

ZEROS = (0.0,) * len(FEATURES)


def test_the_features_of_a_word_are_those_of_its_characters() -> None:
    ctc = torch.tensor([-1.0, -3.0, -9.0, -0.5])  # "GO I"
    speller = torch.tensor([-2.0, -4.0, -9.0, -1.0])

    features = word_features([slice(0, 2), slice(3, 4)], ctc, speller, [0.5, 1.0])

    expected = [
        [-2.0, -3.0, -3.0, -4.0, 0.5, 0.25, math.log(2)],
        [-0.5, -0.5, -1.0, -1.0, 1.0, 1.0, 0.0],
    ]
    assert features.tolist() == [pytest.approx(row) for row in expected]


def test_what_is_impossible_is_still_a_number() -> None:
    nothing = torch.tensor([-torch.inf])

    features = word_features([slice(0, 1)], nothing, nothing, [1.0])

    assert bool(np.isfinite(features).all())


def test_no_words_have_no_features() -> None:
    features = word_features([], torch.zeros(0), torch.zeros(0), [])

    assert features.shape == (0, len(FEATURES))
    assert confidence(features, None) == []
    assert confidence(features, Calibration(ZEROS, 0.0, 0.0)) == []


def test_confidence_is_the_sigmoid_of_the_weighted_features() -> None:
    weights = tuple(float(name == "support") for name in FEATURES)
    features = torch.zeros(1, len(FEATURES))
    features[0, FEATURES.index("support")] = 0.5

    (found,) = confidence(features, Calibration(weights, 1.0, 0.0))

    assert found == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert confidence(features, None) == [0.5]


def test_support_is_the_share_of_the_texts_with_the_word_in_its_place() -> None:
    # P of 0.5, 0.25 and 0.25. GO: all but the last; ON: the first and the last.
    found = support(
        ["GO ON", "GO IN", "SO ON"], [math.log(x) for x in (0.5, 0.25, 0.25)]
    )

    assert found == pytest.approx([0.75, 0.75])


def test_a_word_that_is_said_twice_is_supported_place_by_place() -> None:
    assert support(["A B A", "A"], [0.0, 0.0]) == pytest.approx([1.0, 0.5, 0.5])


def test_a_fit_finds_the_weights_that_made_the_words() -> None:
    torch.manual_seed(0)
    true = Calibration((0.5, 0.0, 1.0, 0.0, 2.0, 0.0, -1.0), -0.5, 0.0)
    features = torch.randn(20_000, len(FEATURES))
    right = torch.rand(20_000) < torch.from_numpy(true(features))

    found = fit(features, right)

    assert found.weights == pytest.approx(true.weights, abs=0.1)
    assert found.bias == pytest.approx(true.bias, abs=0.1)


def test_a_fit_keeps_its_promise_on_the_words_it_was_made_of() -> None:
    features = torch.randn(1_000, len(FEATURES))
    right = torch.rand(1_000) < 0.3

    promised = confidence(features, fit(features, right))

    assert sum(promised) / 1_000 == pytest.approx(float(right.float().mean()), abs=1e-3)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    features = torch.randn(100, len(FEATURES))
    features[:, 0] = 3.0

    found = fit(features, torch.rand(100) < 0.5)

    assert all(map(math.isfinite, found.weights))


def test_all_words_right_is_no_reason_to_fail() -> None:
    found = fit(torch.randn(50, len(FEATURES)), torch.ones(50, dtype=torch.bool))

    assert min(confidence(torch.zeros(1, len(FEATURES)), found)) > 0.9


def test_bins_and_their_error_by_hand() -> None:
    bins = reliability([0.05, 0.95, 0.85, 1.0], [False, True, False, True], 2)

    # 0.5 to 1: mean (0.95 + 0.85 + 1.0) / 3, two of three right.
    assert bins == [Bin(0.05, 0.0, 1), Bin(0.9333, 0.6667, 3)]
    assert calibration_error(bins) == pytest.approx((0.05 + 3 * 0.2666) / 4)


def test_the_area_counts_pairs_in_the_right_order() -> None:
    # Pairs (right, wrong): 0.9 > 0.4, 0.9 > 0.6, 0.6 > 0.4, 0.6 = 0.6: 3.5 of 4.
    area = area_under_curve([0.9, 0.6, 0.4, 0.6], [True, True, False, False])

    assert area == pytest.approx(3.5 / 4)


def test_a_calibration_comes_back_as_it_was() -> None:
    calibration = Calibration((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), -1.0, 0.3)

    assert Calibration.from_dict(calibration.to_dict()) == calibration


@pytest.mark.parametrize(
    "tree", [{}, {"weights": {}, "bias": 0}, {"weights": None, "bias": 0}]
)
def test_what_is_no_calibration_is_refused(tree: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is no calibration"):
        Calibration.from_dict(tree)


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="weights and two numbers"):
        Calibration(ZEROS, math.nan, 0.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bias", 10**400, "a number from"),
        ("bias", 1e300, "a number from -1e"),
        ("bias", "0.5", "a number was expected, not '0.5'"),
        ("bias", True, "a number was expected, not True"),
        ("speech", 2, "a number from 0 to 1 was expected, not 2"),
        ("speech", None, "a number was expected, not None"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    name: str, value: object, message: str
) -> None:
    tree = {**Calibration(ZEROS, 0.0, 0.3).to_dict(), name: value}
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(tree)
