"""Parts of a network that learn nothing, or more slowly."""

import pytest

from asr.errors import ConfigError
from asr.model.storage import Model
from asr.training.parts import SHARE, freeze, parameter_groups


@pytest.mark.parametrize(
    "part", ["listener", "listener.layers.0", "speller.attention", "ctc"]
)
def test_a_part_that_is_frozen_has_no_gradient(model: Model, part: str) -> None:
    freeze(model.las, [part])

    for name, parameter in model.las.named_parameters():
        assert parameter.requires_grad != name.startswith(f"{part}."), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("listner", r"is no part of the network \(did you mean listener\? there are "),
        ("spelling", r"there are listener, .*speller, .*speller\.attention, .*ctc\)"),
        ("norm", "is no part"),
        ("", "is no part"),
        ("listener.layers.9", r"did you mean listener\.layers\.[01]\?"),
    ],
)
def test_a_part_that_is_none_is_refused(model: Model, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"training.freeze: {name}: .*{message}"):
        freeze(model.las, ["ctc", name])


def test_something_has_to_learn(model: Model) -> None:
    with pytest.raises(ConfigError, match="nothing is left that learns"):
        freeze(model.las, ["listener", "speller", "ctc"])


def test_groups_have_all_that_learns_once(model: Model) -> None:
    freeze(model.las, ["speller.attention"])

    groups = parameter_groups(
        model.las, ["ctc.weight", "speller.attention.query.weight"], 0.1
    )

    full, slow = groups
    assert (full[SHARE], slow[SHARE]) == (1.0, 0.1)
    assert slow["params"] == [model.las.ctc.weight]
    learning = {id(p) for p in model.las.parameters() if p.requires_grad}
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(learning)
    assert set(found) == learning


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_group_is_left_out_where_it_would_be_empty(
    model: Model, share: float
) -> None:
    names = [name for name, _ in model.las.named_parameters()]

    (group,) = parameter_groups(model.las, names, share)
    assert group[SHARE] == share
    (group,) = parameter_groups(model.las, [], share)
    assert group[SHARE] == 1.0
