"""An attention of the user's own, with nothing but energies, that asr/ does not know.

It trains and decodes by the plain formula; a model or run keeps the name of its class.
"""

import itertools
import json
import math
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor, nn

from asr.audio import SAMPLE_RATE
from asr.cli import main
from asr.config import Config, DataConfig
from asr.data.manifest import Utterance, write_manifest
from asr.decoding.config import DecodingConfig
from asr.decoding.hypothesis import Hypothesis, SearchConfig
from asr.decoding.search import StepModel, beam_search
from asr.errors import CheckpointError, ConfigError, ManifestError
from asr.evaluation.calibration import calibrate
from asr.evaluation.tuning import plan_trials, trials
from asr.features import AugmentConfig
from asr.inference.parallel import decode
from asr.inference.recognizer import Recognizer
from asr.model.attention import (
    AdditiveAttention,
    Attention,
    AttentionConfig,
    AttentionMemory,
    DotAttention,
    LocationAwareAttention,
)
from asr.model.export import export
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.plain_steps import PlainSteps
from asr.model.speller import Speller, SpellerConfig
from asr.model.speller_search import LASSteps, StepWeights
from asr.model.storage import Model, load_model, save_model
from asr.tensor_files import read_tensors
from asr.train import train
from asr.training.config import TrainingConfig
from asr.training.loss import LossConfig, losses
from asr.training.schedule import ScheduleConfig
from recipes.toy.make import sing


class SharpenedDot(Attention):
    """e_ij = k (W s_i) . (U h_j + b) / sqrt(A), with a sharpness k that is learned."""

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)  # W, U and b
        self.log_sharpness = nn.Parameter(torch.zeros(()))  # log k

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        queries: Tensor = self.query(s)  # (B, K, S) -> (B, K, A)
        products = queries @ memory.keys.transpose(1, 2)  # (B, K, J)
        found = self.log_sharpness.exp() * products / math.sqrt(queries.size(-1))
        return found[:, None]  # (B, N, K, J), here with one head


class Contrary(AdditiveAttention):
    """Looks where its parent would not: the same parameters, other energies."""

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        return -super().energies(s, memory, previous)


class NotLooking(LocationAwareAttention):
    """Looks at all steps alike."""

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        return torch.zeros_like(previous)[:, None]


TEXTS = ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA", "SO", "NO"]
EAGER = DecodingConfig(beam_size=4, lm_weight=0.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten utterances to learn from and three to validate on: sung, not spoken."""
    folder = tmp_path_factory.mktemp("corpus")
    for subset, texts in (("train", TEXTS), ("dev", ["GO AT", "SEE", "IT"])):
        utterances = []
        for number, text in enumerate(texts):
            path = folder / f"{subset}-{number}.wav"
            samples = sing(text, random.Random(f"{subset} {number}"))
            soundfile.write(path, samples, SAMPLE_RATE)
            seconds = len(samples) / SAMPLE_RATE
            utterances.append(Utterance(path.stem, str(path), seconds, text))
        write_manifest(folder / f"{subset}.jsonl", utterances)
    return folder


def settings(corpus: Path, **training: Any) -> Config:
    """A tiny network; an epoch is ten updates."""
    defaults: dict[str, Any] = {
        **{"epochs": 1, "batch_size": 1, "validations": 1},
        **{"device": "cpu", "precision": "float32"},
    }
    return Config(
        data=DataConfig([str(corpus / "train.jsonl")], str(corpus / "dev.jsonl")),
        listener=ListenerConfig(size=16, reductions=[2, 2], dropout=0.0),
        attention=AttentionConfig(size=8),
        speller=SpellerConfig(size=16, embedding_size=8, dropout=0.0),
        augment=AugmentConfig(speeds=[1.0], frequency_masks=0, time_masks=0),
        loss=LossConfig(guide_weight=1.0, guide_from=0.0),
        schedule=ScheduleConfig(
            learning_rate=0.01, warmup_steps=0, sampling=0.5, sampling_from=0.5
        ),
        training=TrainingConfig(**(defaults | training)),
    )


def draw_nothing(path: Path, weights: Tensor, text: str, waveform: Tensor) -> None:
    """Pictures cost more than the rest of such a training."""
    path.write_text(f"{tuple(weights.shape)} {text}")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten updates with an attention that nothing in asr/ knows."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
        train(settings(corpus), str(folder), attention=SharpenedDot)
    return folder


def losses_of(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [found["loss"] for found in map(json.loads, lines) if "loss" in found]


# It trains


def test_ten_updates_with_an_own_attention_lower_the_loss(run: Path) -> None:
    losses = losses_of(run)

    assert len(losses) == 10
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_its_own_parameters_are_learned(run: Path) -> None:
    tensors, _ = read_tensors(run / "checkpoint.safetensors")

    assert float(tensors["model.speller.attention.log_sharpness"]) != 0


class PowerCut(BaseException):
    """Nothing catches this."""


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    corpus: Path, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)

    def cut(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 6:
            raise PowerCut
        return losses(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("asr.training.plain_updates.losses", cut)
        often = settings(corpus, checkpoint_minutes=0.0)
        with pytest.raises(PowerCut):
            train(often, tmp_path, attention=SharpenedDot)
    train(settings(corpus), tmp_path, attention=SharpenedDot)

    expected, _ = read_tensors(run / "checkpoint.safetensors")
    found, _ = read_tensors(tmp_path / "checkpoint.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_two_processes_train_it_together(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(settings(corpus, processes=2), tmp_path, attention=SharpenedDot)

    assert capfd.readouterr().err.count("has no fast path") == 1
    assert len(losses_of(tmp_path)) == 5  # an update is one batch of each
    las = load_model(tmp_path / "model", SharpenedDot).las
    assert isinstance(las.speller.attention, SharpenedDot)


def test_a_class_that_other_processes_cannot_import_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    class Inside(SharpenedDot):
        """Nobody finds it by its name."""

    message = r"training\.processes: other processes cannot import Inside \(define"
    with pytest.raises(ConfigError, match=message):
        train(settings(corpus, processes=2), tmp_path, attention=Inside)


def test_a_run_may_start_from_a_model_with_it(
    corpus: Path, tmp_path: Path, run: Path
) -> None:
    config = settings(corpus, start=str(run))

    train(config, tmp_path, attention=SharpenedDot)

    assert losses_of(tmp_path)[0] < losses_of(run)[0]


def test_a_start_from_a_model_with_another_attention_is_refused(
    corpus: Path, tmp_path: Path, model_folder: Path
) -> None:
    config = settings(corpus, start=str(model_folder))

    with pytest.raises(CheckpointError, match="has a built-in attention, location, no"):
        train(config, tmp_path / "run", attention=SharpenedDot)


@pytest.mark.parametrize(
    ("attention", "given"),
    [(None, "a built-in attention"), (Contrary, "the attention Contrary")],
)
def test_a_run_goes_on_with_its_own_attention_only(
    corpus: Path, run: Path, attention: type[Attention] | None, given: str
) -> None:
    message = (
        f"holds a run with the attention SharpenedDot, not with {given} (in Python, "
        "train(config, folder, attention=SharpenedDot) goes on with it)"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(settings(corpus, epochs=2), run, attention=attention)


# A model keeps the name of the class, and nothing that could be imported


def test_a_model_keeps_the_name_of_the_class_that_it_needs(
    run: Path, model_folder: Path
) -> None:
    own = json.loads((run / "model" / "model.json").read_text())
    built_in = json.loads((model_folder / "model.json").read_text())

    assert own["attention_class"] == "SharpenedDot"
    assert "attention_class" not in built_in
    assert __name__ not in json.dumps(own)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (None, "the class SharpenedDot (hand the class over in Python: attention="),
        (Contrary, "of the class SharpenedDot, not Contrary (hand the class over"),
        (DotAttention, "of the class SharpenedDot (hand the class over in Python"),
    ],
)
def test_a_model_loads_with_its_own_class_only(
    run: Path, attention: type[Attention] | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_model(run / "model", attention)


def test_a_built_in_attention_takes_no_class(model_folder: Path) -> None:
    message = "model.json: has a built-in attention, location, not SharpenedDot (load"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_model(model_folder, SharpenedDot)


def test_a_model_is_not_loaded_with_another_built_in_class(model_folder: Path) -> None:
    message = "model.json: has a built-in attention, location, not DotAttention (load"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_model(model_folder, DotAttention)

    load_model(model_folder, LocationAwareAttention)


def test_what_is_no_name_of_a_class_is_refused(model_folder: Path) -> None:
    path = model_folder / "model.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"attention_class": "os.system"}))

    with pytest.raises(CheckpointError, match="attention_class is not the name of a"):
        load_model(model_folder)


def test_a_class_with_other_parameters_of_the_same_name_does_not_fit(run: Path) -> None:
    other = type("SharpenedDot", (DotAttention,), {})

    with pytest.raises(CheckpointError, match=r"does not fit model\.json"):
        load_model(run / "model", other)


def test_settings_that_it_does_not_read_may_be_anything(
    model: Model, tmp_path: Path
) -> None:
    config = replace(model.las.config, attention=AttentionConfig(size=8, reach=10**3))
    las = LAS(config, model.tokenizer.size, SharpenedDot)

    save_model(tmp_path, las, model.tokenizer, {})

    loaded = load_model(tmp_path, SharpenedDot).las.state_dict()
    assert all(torch.equal(loaded[name], w) for name, w in las.state_dict().items())


class Near(DotAttention):
    """Prefers near steps, by a slope that is in no file."""

    slope: Tensor

    def __init__(
        self, config: AttentionConfig, listener_size: int, speller_size: int
    ) -> None:
        super().__init__(config, listener_size, speller_size)
        self.register_buffer("slope", torch.tensor(-0.1), persistent=False)

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        steps = torch.arange(previous.size(-1))
        return super().energies(s, memory, previous) + self.slope * steps


def test_loading_keeps_what_is_in_no_file_and_draws_nothing(
    model: Model, tmp_path: Path
) -> None:
    config = replace(model.las.config, attention=AttentionConfig("dot", size=8))
    las = LAS(config, model.tokenizer.size, Near)
    save_model(tmp_path, las, model.tokenizer, {})
    before = torch.get_rng_state()

    loaded = load_model(tmp_path, Near).las

    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.speller.attention.slope == las.speller.attention.slope
    assert not any(tensor.is_meta for tensor in loaded.buffers())


def test_an_exported_model_still_knows_its_class(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), str(tmp_path / "model")]) in (0, None)

    loaded = load_model(tmp_path / "model", SharpenedDot).las.state_dict()
    for name, weight in (
        load_model(run / "model", SharpenedDot).las.state_dict().items()
    ):
        torch.testing.assert_close(loaded[name], weight, rtol=1e-3, atol=1e-6)
    assert (
        "SharpenedDot attention" in (tmp_path / "model" / "MODEL_CARD.md").read_text()
    )
    with pytest.raises(CheckpointError, match="the class SharpenedDot"):
        load_model(tmp_path / "model")


def test_a_model_in_bytes_is_packed_without_its_class_and_loaded_with_it(
    run: Path, tmp_path: Path
) -> None:
    for source, name in ((run, "bytes"), (tmp_path / "bytes", "again")):
        export(source, tmp_path / name, "int8")
    weights, again = (
        load_model(tmp_path / name, SharpenedDot).las.state_dict()
        for name in ("bytes", "again")
    )

    stored, _ = read_tensors(tmp_path / "bytes" / "model.safetensors")
    assert torch.int8 in {weight.dtype for weight in stored.values()}
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    for name, weight in load_model(run / "model", SharpenedDot).las.named_parameters():
        atol = weight.abs().max().item() / 250
        torch.testing.assert_close(weights[name], weight.detach(), rtol=0, atol=atol)
    with pytest.raises(CheckpointError, match="the class SharpenedDot"):
        load_model(tmp_path / "bytes")


def test_a_built_in_attention_is_named_by_the_settings_alone() -> None:
    message = r"DotAttention is built in, and attention\.kind is location \(set"
    with pytest.raises(ValueError, match=message):
        LAS(LASConfig(), 9, attention=DotAttention)

    las = LAS(LASConfig(), 9, attention=LocationAwareAttention)

    assert type(las.speller.attention) is LocationAwareAttention


# It decodes


def song() -> Tensor:
    return torch.tensor(sing("GO ON", random.Random(7)), dtype=torch.float32)


def test_a_trained_model_transcribes_with_times_and_confidence(run: Path) -> None:
    recognizer = Recognizer.load(run, decoding=EAGER, attention=SharpenedDot)

    found = recognizer.transcribe(song(), SAMPLE_RATE, return_alignment=True)

    (segment,) = found.segments
    assert segment.text
    assert segment.alignment is not None
    weights = torch.as_tensor(segment.alignment.weights)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))
    for word in segment.words:
        assert 0 <= word.start <= word.end <= found.duration
        assert 0 <= word.confidence <= 1


def test_a_language_model_joins_in(run: Path) -> None:
    decoding = DecodingConfig(beam_size=4, ilm_weight=0.4)
    recognizer = Recognizer.load(run, decoding=decoding, attention=SharpenedDot)

    assert recognizer.language_model is not None
    assert recognizer.transcribe(song(), SAMPLE_RATE).segments


@pytest.mark.slow
def test_a_manifest_is_decoded_with_it_in_one_process_or_two(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    decoded = [
        decode(
            run,
            corpus / "dev.jsonl",
            tmp_path / str(processes),
            DecodingConfig(beam_size=2, lm_weight=0.0),
            processes=processes,
            attention=SharpenedDot,
        )
        for processes in (1, 2)
    ]

    assert [u.text for u in decoded[0].hypotheses] == [
        u.text for u in decoded[1].hypotheses
    ]


def test_settings_are_tuned_with_it(corpus: Path, run: Path) -> None:
    choices: dict[str, list[float]] = {"lm_weight": [0.0], "beam_size": [1, 2]}

    plan = plan_trials(
        corpus / "dev.jsonl", run, choices, attention=SharpenedDot, num_utterances=1
    )
    tried = list(trials(plan, processes=1))

    assert [trial.decoding.beam_size for trial in tried] == [1, 2]


def test_confidence_is_calibrated_with_it(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)

    with pytest.raises(ManifestError, match="words were found in its recordings"):
        calibrate(corpus / "dev.jsonl", folder, processes=1, attention=SharpenedDot)


def test_a_manifest_is_not_decoded_without_it(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="attention of the class SharpenedDot"):
        decode(run, corpus / "dev.jsonl", tmp_path / "out", processes=2)


def test_int8_is_for_the_built_in_attentions(run: Path) -> None:
    message = r"precision int8: .* \(the attention SharpenedDot needs float32\)"
    with pytest.raises(ConfigError, match=message):
        Recognizer.load(run, attention=SharpenedDot, precision="int8")


V, SOS, EOS, H = 9, 1, 2, 6


def speller_with(attention: type[Attention]) -> Speller:
    """A speller whose hypotheses differ; the same weights for all of a family."""
    torch.manual_seed(0)
    kind = "dot" if attention is SharpenedDot else "additive"
    config = AttentionConfig(kind, size=5)
    speller = Speller(SpellerConfig(4, 2, 3, dropout=0.0), config, H, V, attention)
    with torch.no_grad():
        for parameter in speller.parameters():
            parameter.mul_(2.0)
    return speller.eval()


def memory_of(speller: Speller, *num_steps: int) -> AttentionMemory:
    torch.manual_seed(1)
    h = torch.randn(len(num_steps), max(num_steps), H)
    return speller.attention.precompute(h, torch.tensor(num_steps))


def search(model: StepModel[Any], count: int) -> list[list[Hypothesis]]:
    config, limits = SearchConfig(4, length_norm=0.0), 3 + 4 * torch.arange(count)
    return beam_search(model, config, sos=SOS, eos=EOS, max_lengths=limits)


@pytest.mark.parametrize("coverage", [0.0, 0.3])
@torch.no_grad()
def test_hypotheses_carry_the_probability_of_their_spelling(coverage: float) -> None:
    speller = speller_with(SharpenedDot)
    memory = memory_of(speller, 7, 3, 5)

    found = search(PlainSteps(speller, memory, coverage), 3)

    for utterance, hypotheses in enumerate(found):
        assert hypotheses
        for hypothesis in hypotheses:
            tokens = [*hypothesis.tokens, EOS]
            one = memory.select(torch.tensor([utterance]))
            inputs = torch.tensor([[SOS, *hypothesis.tokens]])
            spelling = speller.spell(one, inputs)
            log_probs = spelling.logits[0].log_softmax(dim=-1)
            each = [float(log_probs[i, token]) for i, token in enumerate(tokens)]
            length = len(each) if hypothesis.finished else len(each) - 1
            covered = int((spelling.weights[0, :length].sum(dim=0) > 0.5).sum())
            expected = sum(each[:length]) + coverage * covered
            assert hypothesis.log_prob == pytest.approx(expected, abs=1e-4)


# Only the built-in classes themselves take the fast path


def test_the_fast_path_is_taken_by_the_very_class() -> None:
    built_in = (LocationAwareAttention, AdditiveAttention, DotAttention)

    assert all(attention.has_fast_path() for attention in built_in)
    assert not Contrary.has_fast_path()
    assert not SharpenedDot.has_fast_path()


def test_a_subclass_spells_by_its_own_energies() -> None:
    speller, parent = speller_with(Contrary), speller_with(AdditiveAttention)
    memory, inputs = memory_of(speller, 7, 3, 5), torch.randint(V, (3, 6))
    assert_same_weights(speller, parent)

    spelled = speller.spell(memory, inputs)

    plain = speller.spell_by_steps(memory, inputs)
    torch.testing.assert_close(spelled.weights, plain.weights)
    torch.testing.assert_close(spelled.logits, plain.logits)
    assert not torch.allclose(spelled.weights, parent.spell(memory, inputs).weights)


@torch.no_grad()
def test_a_subclass_is_searched_by_its_own_energies(model: Model) -> None:
    las = LAS(model.las.config, model.tokenizer.size, NotLooking).eval()
    listened = las.listen(torch.randn(2, 24, 80), torch.tensor([24, 16]))

    steps = las.steps(listened)

    assert isinstance(steps, PlainSteps)
    assert isinstance(las.internal_lm(2), PlainSteps)
    with pytest.raises(ConfigError, match=r"attention_window: is for the built-in"):
        las.steps(listened, window=3)
    assert isinstance(model.las.steps(listened), LASSteps)
    _, state = steps.step(torch.tensor([SOS, SOS]), steps.start())
    valid = state.memory.valid
    torch.testing.assert_close(state.speller.weights, valid / valid.sum(1, True))


def test_a_fast_step_of_a_subclass_is_refused() -> None:
    with pytest.raises(TypeError, match="no fast step is written for Contrary"):
        StepWeights(speller_with(Contrary))


def assert_same_weights(one: Speller, other: Speller) -> None:
    names = one.state_dict()
    assert all(torch.equal(names[name], w) for name, w in other.state_dict().items())


# That it is slower is printed once


def test_training_prints_once_that_it_is_slower(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(corpus), tmp_path, attention=SharpenedDot)

    assert capsys.readouterr().err.count("attention SharpenedDot has no fast path") == 1


def test_a_recognizer_prints_once_that_it_is_slower(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recognizer = Recognizer.load(run, decoding=EAGER, attention=SharpenedDot)
    recognizer.transcribe([song(), song()], SAMPLE_RATE)

    assert capsys.readouterr().err.splitlines() == [
        "asr: the attention SharpenedDot has no fast path: training and decoding take "
        "the plain formula, which is slower"
    ]


def test_a_built_in_attention_needs_no_such_line(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Recognizer.load(model_folder, decoding=EAGER)

    assert capsys.readouterr().err == ""


# Commands cannot take a class, and report what can


@pytest.mark.parametrize("command", [["transcribe"], ["explain"]])
def test_commands_report_that_python_takes_the_class(
    command: list[str], run: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = str(corpus / "dev-0.wav")

    assert main([*command, recording, "--model", str(run)]) == 1

    error = capsys.readouterr().err
    assert "model.json: has an attention of the class SharpenedDot (hand the" in error
    assert "in Python: attention=SharpenedDot)" in error


def test_asr_train_reports_that_python_goes_on_with_the_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(run / "config.yaml"), str(run), "training.epochs=2"]) == 1

    error = capsys.readouterr().err
    assert "holds a run with the attention SharpenedDot, not with a built-in" in error
    assert "in Python, train(config, folder, attention=SharpenedDot)" in error
