import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from asr.config import (
    Config,
    DataConfig,
    load_config,
    load_stages,
    overridden,
    parse_settings,
    to_yaml,
)
from asr.errors import LONGEST, ConfigError
from asr.model.attention import AttentionConfig
from asr.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]
TOY = ROOT / "recipes" / "toy" / "las.yaml"
PLANS = {"ablation", "disturbances"}
RECIPES = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if path.stem not in PLANS
)


@pytest.fixture
def corpus() -> str:
    """The only settings that have no default."""
    return "data: {train: [train.jsonl], dev: dev.jsonl}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "las.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# What is read


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_valid_config(path: Path) -> None:
    for config in load_stages(path) or [load_config(path)]:
        assert isinstance(config, Config)
        assert config.data.train


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "data: {train: [a, b], dev: c}\n"
        "attention: {size: 32, reach: 5}\n"
        "training: {epochs: 5}\n",
    )

    config = load_config(path, ["training.epochs=3", "attention.reach=7"])

    assert config.data == DataConfig(train=["a", "b"], dev="c")
    assert config.training == TrainingConfig(epochs=3)
    assert config.attention == AttentionConfig(size=32, reach=7)
    assert config.speller == Config(config.data).speller


def test_settings_in_memory_are_overridden_alike() -> None:
    config = load_config(TOY)

    changed = overridden(config, ["training.epochs=3", "attention.kind=dot"])

    assert changed == load_config(TOY, ["training.epochs=3", "attention.kind=dot"])
    with pytest.raises(ConfigError, match=r"^settings: training\.epochs must be"):
        overridden(config, ["training.epochs=0"])


def test_of_two_overrides_the_later_wins() -> None:
    config = load_config(TOY, ["training.epochs=3", "training.epochs=4"])
    assert config.training.epochs == 4


def test_overrides_are_read_as_yaml() -> None:
    config = load_config(
        TOY,
        ["data.train=[x, y]", "training.minutes=1.5", "schedule.learning_rate=1e-3"],
    )
    assert config.data.train == ["x", "y"]
    assert config.training.minutes == 1.5
    assert config.schedule.learning_rate == 0.001


def test_settings_are_plain_and_cannot_change() -> None:
    config = load_config(TOY)
    assert type(config.data.train) is list
    assert type(config.listener.reductions) is list
    for part in fields(config):
        assert is_dataclass(getattr(config, part.name))
    with pytest.raises(AttributeError):
        config.training.epochs = 9  # type: ignore[misc]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_is_written_is_read(path: Path, tmp_path: Path) -> None:
    for config in load_stages(path) or [load_config(path)]:
        assert load_config(write(tmp_path, to_yaml(config))) == config


def test_all_settings_are_written_in_their_order(tmp_path: Path, corpus: str) -> None:
    config = load_config(write(tmp_path, corpus))
    written = to_yaml(replace(config, training=TrainingConfig(epochs=7)))
    keys = [line.split(":")[0] for line in written.splitlines() if line[0].isalpha()]
    assert keys == [part.name for part in fields(Config)]
    assert "  epochs: 7\n" in written
    assert "  minutes: null\n" in written


# Trainings in stages

STAGED = """
data: {train: [a, b], dev: c}
listener: {size: 8, dropout: 0.3}
training: {epochs: 5}
stages:
- {}
- listener: {size: 16}
  training: {epochs: 6, seed: 2}
- data: {train: [d]}
  training: {minutes: 3}
"""


def test_a_stage_has_the_common_settings_and_its_own_in_their_place(
    tmp_path: Path,
) -> None:
    stages = load_stages(write(tmp_path, STAGED))

    assert [stage.listener.size for stage in stages] == [8, 16, 8]
    assert [stage.listener.dropout for stage in stages] == [0.3, 0.3, 0.3]
    assert [stage.training.epochs for stage in stages] == [5, 6, 5]
    assert [stage.training.seed for stage in stages] == [1, 2, 1]
    assert [stage.training.minutes for stage in stages] == [None, None, 3]
    assert [stage.data.train for stage in stages] == [["a", "b"], ["a", "b"], ["d"]]


def test_each_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path, STAGED)

    starts = [stage.training.start for stage in load_stages(path)]
    assert starts == [None, "stage-1", "stage-2"]

    started = load_stages(path, ["training.start=my-model"])
    assert [s.training.start for s in started] == ["my-model", "stage-1", "stage-2"]


def test_weights_of_the_stage_before_may_learn_more_slowly(tmp_path: Path) -> None:
    path = write(tmp_path, STAGED)
    rates = load_stages(path, ["stages.2.training.kept_rate=0.1"])
    assert [stage.training.kept_rate for stage in rates] == [1.0, 0.1, 1.0]


def test_overrides_are_for_all_stages_or_for_one_and_the_later_wins(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, STAGED)

    def epochs(*overrides: str) -> list[int]:
        return [stage.training.epochs for stage in load_stages(path, overrides)]

    one, all_of_them = "stages.2.training.epochs=9", "training.epochs=7"
    assert epochs(all_of_them) == [7, 7, 7]
    assert epochs(one) == [5, 9, 5]
    assert epochs(all_of_them, one) == [7, 9, 7]
    assert epochs(one, all_of_them) == [7, 7, 7]


def test_a_file_without_stages_has_none(tmp_path: Path) -> None:
    assert load_stages(TOY, ["training.epochs=3"]) == []

    message = f"{TOY}: has no stages (stages.2.training.epochs=3 was given)"
    assert message_of(TOY, "stages.2.training.epochs=3") == message


def test_where_one_experiment_is_expected_stages_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, STAGED)
    message = "stages: is for asr train only (one experiment was expected)"
    assert message_of(path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stages.3.attention.sise=9"],
            "stage 3: attention.sise: Key 'sise' not in 'AttentionConfig'. Did you",
        ),
        (["attention.sise=9"], "attention.sise: Key 'sise' not in 'AttentionConfig'."),
        (["stages.2.training.epochs=0"], "stage 2: training.epochs must be above 0"),
        (
            ["stages.2.training.start=x"],
            "stage 2: training.start: is only for the first stage (each other one",
        ),
        (["stages.3.training=7"], "stage 3: Merge error: int is not a subclass"),
        (["stages.1.stages.1.training.epochs=3"], "stage 1: stages: Key 'stages' not"),
        (["stages.0.training.epochs=3"], "stages.0.training.epochs=3: is no setting o"),
        (
            ["stages.4.training.epochs=3"],
            "stages.4.training.epochs=3: is no setting of a stage "
            "(stages.1.key=value was expected, with a stage from 1 to 3)",
        ),
        (["stages=[]"], "stages=[]: is no setting of a stage"),
        (["stages.two.training.epochs=3"], "stages.two.training.epochs=3: is no setti"),
        (["training.kept_rate=0.1"], "stage 1: training.kept_rate: is for a training"),
    ],
)
def test_a_wrong_setting_of_a_stage_is_refused_by_name(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    path = write(tmp_path, STAGED)
    with pytest.raises(ConfigError) as caught:
        load_stages(path, overrides)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: []", "stages: is no list of stages"),
        ("stages:", "stages: is no list of stages"),
        ("stages: {training: {epochs: 3}}", "stages: is no list of stages"),
        ("stages: [{}, 3]", "stages: stage 2 holds no settings ({} has none of its"),
        ("stages: [{}, null]", "stages: stage 2 holds no settings"),
        ("stages: [{}, {training: {start: x}}]", "stage 2: training.start: is only"),
        ("stages: [{}, {training: {start: null}}]", "stage 2: training.start: is only"),
        ("trainig: {}\nstages: [{}]", "trainig: Key 'trainig' not in 'Config'."),
    ],
)
def test_what_is_no_list_of_stages_is_refused(
    tmp_path: Path, corpus: str, text: str, message: str
) -> None:
    path = write(tmp_path, f"{corpus}{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_stages(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_settings_of_version_0_1_are_read_in_stages_too(
    tmp_path: Path, corpus: str
) -> None:
    path = write(tmp_path, f"{corpus}stages: [{{}}, {{attention: {{segment: 50}}}}]\n")

    with pytest.warns(FutureWarning, match=r"attention\.segment is called"):
        stages = load_stages(path)

    assert [stage.attention.block_size for stage in stages] == [0, 50]


# What is refused: by name, in one line


def test_a_typo_is_answered_with_the_nearest_key(tmp_path: Path, corpus: str) -> None:
    assert message_of(TOY, "attention.sise=9") == (
        f"{TOY}: attention.sise: Key 'sise' not in 'AttentionConfig'. "
        "Did you mean: 'size'?"
    )
    path = write(tmp_path, f"{corpus}trainig: {{epochs: 1}}\n")
    assert message_of(path) == (
        f"{path}: trainig: Key 'trainig' not in 'Config'. Did you mean: 'training'?"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attention.size=big", "attention.size: Value 'big' .* to Integer"),
        ("training.epochs=1.5", "training.epochs: Value '1.5' .* to Integer"),
        ("training.minutes=long", "training.minutes: Value 'long' .* to Float"),
        ("training.short_first=maybe", "training.short_first: Value 'maybe' .* bool"),
        ("training.epochs", "training.epochs: .*'None' for field of type 'int'"),
        (
            "data.train=train.jsonl",
            r"data.train: is a list \(data.train=\[…\] was expected\)",
        ),
        ("augment.speeds=1.0", "augment.speeds: is a list"),
        ("data.dev=null", "data.dev: .*'None' for field of type 'str'"),
        ("training=null", "training: field 'training' is not Optional"),
        ("listener=3", "Merge error: int is not a subclass of ListenerConfig"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(
    override: str, message: str
) -> None:
    with pytest.raises(
        ConfigError, match=rf"las\.yaml: (data\.train\[0\]: )?{message}"
    ):
        load_config(TOY, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("listener.size=0", "listener.size must be at least 1, not 0"),
        ("listener.reductions=[]", "listener.reductions must be numbers from 1, not"),
        ("listener.reductions=[2,0]", "listener.reductions must be numbers from 1"),
        ("listener.reductions=[8]", "listener.reductions may begin with at most 4"),
        ("listener.dropout=1", "listener.dropout is a share from 0 to below 1, not 1"),
        ("attention.kind=sharp", "attention.kind must be one of location, additive, d"),
        ("attention.activation=gelu", "attention.activation must be one of tanh, relu"),
        ("attention.size=0", "attention.size must be at least 1, not 0"),
        ("attention.filters=0", "attention.filters must be at least 1, not 0"),
        ("attention.reach=-1", "attention.reach must be at least 0, not -1"),
        ("attention.heads=0", "attention.heads must be at least 1, not 0"),
        ("attention.block_size=-2", "attention.block_size must be at least 0, not -2"),
        ("attention.heads=2", "attention.heads must be 1 where kind is location"),
        (
            "attention={kind: dot, size: 7, heads: 7}",
            "attention.heads must divide what the listener puts out",
        ),
        ("speller.size=0", "speller.size must be at least 1, not 0"),
        ("speller.layers=0", "speller.layers must be at least 1, not 0"),
        ("speller.embedding_size=0", "speller.embedding_size must be at least 1"),
        ("speller.dropout=-0.1", "speller.dropout is a share from 0 to below 1"),
        ("augment.speeds=[]", "augment.speeds must be some of 0.5 to 2, not"),
        ("augment.speeds=[1,3]", "augment.speeds must be some of 0.5 to 2, not"),
        ("augment.time_masks=-1", "augment.time_masks must be at least 0, not -1"),
        ("augment.time_width=-1", "augment.time_width must be at least 0, not -1"),
        ("augment.frequency_masks=-1", "augment.frequency_masks must be at least 0"),
        ("augment.frequency_width=-1", "augment.frequency_width must be at least 0"),
        ("augment.noise=1.5", "augment.noise is a share from 0 to 1, not 1.5"),
        ("augment.babble=-1", "augment.babble is a share from 0 to 1, not -1"),
        ("augment.room=2", "augment.room is a share from 0 to 1, not 2"),
        ("augment.band=2", "augment.band is a share from 0 to 1, not 2"),
        ("augment.clipping=2", "augment.clipping is a share from 0 to 1, not 2"),
        ("augment.characters=2", "augment.characters is a share from 0 to 1, not 2"),
        ("augment.stretch=0.4", "augment.stretch must be from 0 to 0.3, not 0.4"),
        (
            "training.fixed_shapes=sometimes",
            "training.fixed_shapes is auto, always or never, not 'sometimes'",
        ),
        ("loss.ctc_weight=2", "loss.ctc_weight is a share from 0 to 1, not 2"),
        ("loss.mwer_weight=-1", "loss.mwer_weight must be at least 0, not -1"),
        ("loss.mwer_beam=1", "loss.mwer_beam must be at least 2, not 1"),
        ("schedule.final_rate=2", "schedule.final_rate is a share from 0 to 1, not 2"),
        ("schedule.decay=wave", "schedule.decay is linear or cosine, not 'wave'"),
        ("training.epochs=0", "training.epochs must be above 0, not 0"),
        ("training.minutes=0", "training.minutes must be above 0, not 0"),
        ("training.batch_seconds=0", "training.batch_seconds must be above 0, not 0"),
        ("training.batch_size=-3", "training.batch_size must be above 0, not -3"),
        ("training.accumulate=0", "training.accumulate must be above 0, not 0"),
        ("training.clip_norm=0", "training.clip_norm must be above 0, not 0"),
        ("training.validations=0", "training.validations must be above 0, not 0"),
        ("training.dev_utterances=0", "training.dev_utterances must be above 0"),
        ("training.bad_steps=0", "training.bad_steps must be above 0, not 0"),
        ("training.processes=0", "training.processes must be above 0, not 0"),
        ("training.weight_decay=-1", "training.weight_decay must be at least 0, not"),
        ("training.average_decay=1", "training.average_decay is a share from 0 to bel"),
    ],
)
def test_an_impossible_value_is_refused_by_name(override: str, message: str) -> None:
    assert message_of(TOY, override).startswith(f"{TOY}: {message}")


def test_a_training_that_searches_has_no_fixed_shapes() -> None:
    message = message_of(TOY, "loss.mwer_weight=1", "training.fixed_shapes=always")
    assert "loss.mwer_weight is for batches as they come" in message


def test_a_training_that_joins_utterances_has_no_fixed_shapes() -> None:
    message = message_of(TOY, "augment.join=0.3", "training.fixed_shapes=always")
    assert "augment.join is for batches of any shape" in message


def test_a_recipe_must_name_its_manifests(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {epochs: 1}\n")
    assert "missing mandatory value: data" in message_of(path)

    path = write(tmp_path, "data: {dev: dev.jsonl}\n")
    assert "missing mandatory value: train" in message_of(path)


def test_a_missing_file_is_reported_by_name(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    message = f"{path}: cannot be read (No such file or directory)"
    assert message_of(path) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {}\na: [", "line "),
        ("data: a: b", "line 1: mapping values are not allowed"),
        ("data:\n\t- a", "line 2: found character"),
        ("data: 1\ndata: 2", "line 2: found duplicate key data"),
        ("7", "cannot be read (settings were expected: Invalid loaded object type"),
        ("[1, 2]", "Cannot merge incompatible container types"),
        ("words", "words: Key 'words' not in 'Config'"),
        ("", "data: Structured config of type `Config` has missing mandatory"),
    ],
)
def test_what_is_no_settings_is_reported_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path, text)
    assert message_of(path).startswith(f"{path}: {message}")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "las.yaml"
    path.write_bytes(b"data: \xff\n")
    assert "is not UTF-8 text" in message_of(path)


def test_an_override_that_is_no_yaml_is_reported_itself() -> None:
    message = message_of(TOY, "training.epochs=3", "data.train=[a")
    assert message == "data.train=[a: is not key=value with a value in YAML"


@pytest.mark.parametrize(
    "overrides",
    [["a.b=1"], ["training.epochs=many"], ["listener=3"], ["data.train=[a"], ["=3"]],
)
def test_an_error_is_reported_in_one_line(overrides: list[str]) -> None:
    assert "\n" not in message_of(TOY, *overrides)


def test_a_setting_of_version_0_1_is_read_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {train: [a], dev: b}\nattention: {segment: 50}\n")

    with pytest.warns(FutureWarning, match=r"attention\.segment is called"):
        from_file = load_config(path)
    with pytest.warns(FutureWarning, match=r"attention\.block_size now"):
        from_override = load_config(path, ["attention.segment=25"])

    assert from_file.attention.block_size == 50
    assert from_override.attention.block_size == 25


# The settings of a search, which are the model's


@pytest.mark.parametrize("section", ["decoding: {beam_size: 8}", "decoding:"])
def test_the_section_of_an_older_file_is_ignored_with_a_warning(
    section: str, tmp_path: Path, corpus: str
) -> None:
    path = write(tmp_path, f"{corpus}{section}\ntraining: {{epochs: 3}}\n")

    with pytest.warns(FutureWarning, match=r"decoding: is ignored .*`asr tune`"):
        config = load_config(path)

    assert config == load_config(write(tmp_path, corpus), ["training.epochs=3"])
    assert "decoding" not in to_yaml(config)


def test_so_is_an_override_of_it() -> None:
    with pytest.warns(FutureWarning, match="decoding: is ignored"):
        assert load_config(TOY, ["decoding.beam_size=4"]) == load_config(TOY)


def test_settings_of_a_search_are_read_as_yaml_and_the_later_wins() -> None:
    given = ["beam_size=4", "length_norm=1e-1", "eos_threshold=null", "beam_size=5"]

    found = parse_settings("decoding", [f"decoding.{one}" for one in given])

    assert found == {"beam_size": 5, "length_norm": 0.1, "eos_threshold": None}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("beam_size=4", r"beam_size=4: is not a setting \(decoding.key=value was exp"),
        ("decoding.beam_size", r"decoding.beam_size: is not a setting"),
        ("decoding.beam_size=[", "is not key=value with a value in YAML"),
    ],
)
def test_an_argument_that_is_no_setting_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings("decoding", [argument])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {device: '${oc.env:HOME}'}", r"line 2: ${…} is no value"),
        ("training:\n  device: a ${listener.size}", "line 3: ${…} is no value"),
        ("${training}: {seed: 3}", "line 2: ${…} is no value"),
        ("training: &one {seed: 3}\nspeller: *one", "line 3: *one is no value"),
        ("x: " + "[" * 200_000, "line 2: is nested deeper than 32 times"),
        ("x: " + "{a: " * 40 + "}" * 40, "line 2: is nested deeper than 32 times"),
        ('training: {device: "a\\0b"}', "line 2: a zero byte is no text"),
        ('training: {device: "\\ud800"}', "line 2: found invalid Unicode"),
        ("listener: {size: " + "9" * 5000 + "}", "Exceeds the limit (4300 digits)"),
        ("listener: {size: 0x" + "f" * 400 + "}", "listener.size must be at most 8192"),
        ("listener: {size: .inf}", "listener.size: Value 'inf' of type 'float'"),
        ("attention: {reach: 1000000}", "attention.reach must be at most 1000, not"),
        ("listener: {reductions: [2, 1000]}", "listener.reductions must be at most 32"),
        ("# " + "a" * 2**18, "cannot be read (it has"),
    ],
)
def test_yaml_that_is_more_than_data_is_refused_at_once(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "las.yaml"
    path.write_text(f"data: {{train: [a.jsonl], dev: b.jsonl}}\n{text}\n")

    found = message_of(path)

    assert f"{path}: {message}" in found
    assert len(found) <= LONGEST


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train=['${home}']", r"line 1: ${…} is no value (write it out)"),
        ("training.device=${oc.env:HOME}", "line 1: ${…} is no value"),
        ("training.seed=" + "[" * 100, "line 1: is nested deeper than 32 times"),
        ("a." * 3000 + "b=3", "is not the name of a setting and its value"),
        ("[[[=3", "is not the name of a setting and its value"),
        ("=3", "is not the name of a setting and its value"),
        ("training.device=\udc80", "the text holds a lone surrogate"),
    ],
)
def test_an_override_is_data_too(override: str, message: str) -> None:
    assert message in message_of(TOY, override)


def test_a_secret_of_the_environment_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")

    with pytest.raises(ConfigError) as caught:
        parse_settings("decoding", ["decoding.beam_size=${oc.env:SECRET}"])

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "a\0b", "folder"])
def test_a_config_that_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert "cannot be read (it" in message_of(tmp_path / name)
