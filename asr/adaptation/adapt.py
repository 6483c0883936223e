"""From a model and recordings of one's own to a model that knows them better.

A folder of an adaptation:

adapt.json         what is adapted to what; another adaptation may not go on in it
data/              what is learned from and what is held out, and the new alphabet
settings.yaml      of the training, as they were chosen
training/          the run of the training (see `asr.training.trainer`)
before/, after/    what the start and the new model write for what is held out
model/             the new model: the folder itself can be given as a model anywhere
result.json        what was gained

The weights between those of the start and those at the end are often better than
either (see `growth.interpolate`), for what was learned and for all else. How far to go
is decided by the loss on some of what is held out, among the shares of `SHARES`. A
share of 0 is among them: where no other is better, the start is kept. The word error
rates are of the same recordings. They choose nothing but this one share, and the best
of a few validations; what is gained on a manifest that decided nothing (test.jsonl) is
what to report.
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from asr.adaptation.material import Material, read_material
from asr.adaptation.settings import choose_settings, describe
from asr.alphabet import fitted, shown, strangers
from asr.config import Config, load_config, overridden, parse_settings, to_yaml
from asr.data.dataset import Dataset
from asr.data.digest import digest
from asr.data.manifest import (
    Utterance,
    read_manifest,
    speaker_groups,
    spread,
    write_manifest,
)
from asr.decoding.config import DecodingConfig, replaced
from asr.errors import CheckpointError, ConfigError
from asr.folders import write_bytes
from asr.inference.hypotheses import HYPOTHESES
from asr.inference.parallel import decode
from asr.model.export import RUN_SETTINGS, export
from asr.model.storage import (
    DECODING,
    DEFAULT,
    DESCRIPTION,
    Model,
    StoredModel,
    find_model,
    load_model,
    read_further,
    read_model,
    save_model,
)
from asr.runs.claim import CONFIG, changed_settings, is_finished
from asr.runtime import pick_device
from asr.scoring import difference_interval, word_error_rate
from asr.text import CharTokenizer, Tokenizer
from asr.tokenizers import alphabet_written
from asr.train import check_network, train
from asr.training.best_model import MODEL
from asr.training.checkpoint import CHECKPOINT
from asr.training.growth import interpolate
from asr.training.token_rows import TokenRows, match_tokens
from asr.training.validation import Validation, validate

SHARES = (0.0, 0.5, 0.8, 1.0)
"""How far from the start to the end: what is tried."""
ABOUT, RESULT, SETTINGS = "adapt.json", "result.json", "settings.yaml"
_PLACES = ("data.", "tokenizer.", "training.start")
"""Beginnings of the settings that name files: `_claim` compares what these hold."""
_REACHED = {
    *("training.epochs", "training.minutes"),
    *("training.validations", "training.dev_utterances"),
}
"""Settings that a training that is over has come up to."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Adapted:
    """What came of an adaptation."""

    share: float
    """How far the weights went from the start; 0 where it was kept."""
    losses: dict[str, float]
    """On some of what was held out, by share."""
    before: float
    """Word error rate of the start on what was held out."""
    after: float
    interval: tuple[float, float]
    """Of the difference, after less before, 95 %."""
    by_speaker: bool
    """Whether the interval is for other speakers; else for other utterances."""
    folded: tuple[float, float] | None
    """Both rates with all written in the letters of the start, where the new alphabet
    is another one."""

    def describe(self) -> list[str]:
        """Write what was gained, a line each."""
        low, high = (100 * end for end in self.interval)
        change = 100 * (self.after - self.before)
        of = "speakers" if self.by_speaker else "utterances"
        lines = [
            f"held out: WER {_percent(self.before)} before, {_percent(self.after)} "
            f"after: {change:+.1f} points (95 % for other {of}: {low:+.1f} to "
            f"{high:+.1f})"
        ]
        if self.folded:
            before, after = self.folded
            lines.append(
                "with all in the letters of the start (neither case nor accents that "
                f"it has not): {_percent(before)} before, {_percent(after)} after"
            )
        if self.share == 0:
            lines.append(f"nothing was gained, the start is kept; {_ADVICE}")
        elif low == high == 0:
            lines.append(f"not one word more or less is wrong; {_ADVICE}")
        elif change > 0:
            lines.append(
                f"the loss fell, but more words are wrong than before; {_ADVICE}"
            )
        elif high >= 0:
            lines.append(
                "zero lies in the interval: this may be chance (it is narrower where "
                "more is held out)"
            )
        return lines


_ADVICE = (
    "what may help: more recordings, --minutes, texts that are what was said (asr "
    "report shows where they differ)"
)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def adapt(
    model: str | Path | None,
    data: Path,
    folder: Path,
    *,
    dev: Path | None = None,
    minutes: float = 10.0,
    device: str = "auto",
    processes: int | None = None,
    overrides: Sequence[str] = (),
    report: Report = print,
) -> Adapted:
    """Adapt a model to recordings; an adaptation that was stopped goes on.

    Where the texts have characters that the model cannot write, it gets the alphabet of
    the texts, and the language model is left out of the comparison, before and after.

    Args:
        model: name or folder of a model, or of a run; None or "bundled" for the bundled
            one, whose 8-bit weights are learned on from as floats.
        data: folder with train.jsonl, or a manifest.
        folder: for all that comes of it; made where it is missing.
        dev: manifest of what is held out; see `read_material`.
        minutes: how long training may take; decoding before and after comes on top.
        device: auto, cpu or cuda.
        processes: that train and decode; None for one a core, at most four, or one
            where there is a GPU.
        overrides: settings of the training in place of those that are chosen, such as
            "schedule.learning_rate=0.0001"; and of the search, before and after, in
            place of the model's ("decoding.beam_size=8").
        report: gets the lines that describe what is done.

    Raises:
        AsrError: model or data cannot be used, a setting is impossible, or the folder
            holds another adaptation.
    """
    source = find_model(None if model == DEFAULT else model)
    stored, material = read_model(source), read_material(data, dev)
    tokenizer = _tokenizer(stored.tokenizer, material)
    kind = pick_device(device).type
    searched = sorted(one for one in overrides if one.startswith("decoding."))
    decoding = parse_settings("decoding", searched)
    replaced(DecodingConfig(), decoding)  # before hours of training
    task = _Task(
        *(folder, source, stored, tokenizer, material, kind, processes),
        decoding,
        report,
    )
    chosen = task.settings(minutes)
    config = overridden(chosen, [one for one in overrides if one not in searched])
    check_network(config, tokenizer, load_model(source))
    _claim(folder, source, material, searched)
    finished = is_finished(config, task.training)
    if finished:
        _check_over(folder, load_config(task.training / CONFIG), config)
    task.write(chosen)
    report(f"start: {source}")
    for line in material.describe():
        report(line)
    report(f"chosen: {describe(config)}")
    if not finished:
        with task.result_replaced():
            train(config, task.training, tokenizer)
    if not (folder / RESULT).exists():
        task.finish(config)
    adapted = _read_result(folder)
    for line in adapted.describe():
        report(line)
    report(f"wrote {folder / MODEL}; next:")
    for line in task.next_commands():
        report(f"  {line}")
    return adapted


@dataclass(frozen=True)
class _Task:
    """One adaptation."""

    folder: Path
    source: Path
    stored: StoredModel
    tokenizer: Tokenizer
    material: Material
    device: str
    processes: int | None
    decoding: dict[str, Any]
    """Settings of the search in place of the model's."""
    report: Report

    @property
    def training(self) -> Path:
        """Folder of the run."""
        return self.folder / "training"

    @property
    def rows(self) -> TokenRows | None:
        """Where the characters of another alphabet start."""
        if self.tokenizer.to_dict() == self.stored.tokenizer.to_dict():
            return None
        return match_tokens(self.stored.tokenizer, self.tokenizer)

    def _data(self, name: str) -> Path:
        return self.folder / "data" / name

    def settings(self, minutes: float) -> Config:
        """Choose the settings of the training."""
        return choose_settings(
            self.source,
            self.stored,
            self.tokenizer,
            self.material.train,
            (self._data("train.jsonl"), self._data("dev.jsonl")),
            alphabet=self._data("alphabet.txt") if self.rows else None,
            minutes=minutes,
            device=self.device,
            processes=self.processes,
        )

    def write(self, chosen: Config) -> None:
        """Write what is learned from, and the settings that were chosen."""
        write_manifest(self._data("train.jsonl"), self.material.train)
        write_manifest(self._data("dev.jsonl"), self.material.dev)
        write_manifest(self._data("decoded.jsonl"), self.material.decoded())
        if self.rows:
            letters = alphabet_written(self.tokenizer).encode()
            write_bytes(self._data("alphabet.txt"), letters)
        write_bytes(self.folder / SETTINGS, to_yaml(chosen).encode())

    @contextmanager
    def result_replaced(self) -> Iterator[None]:
        """Delete the result before, which a training makes untrue.

        Where the settings are refused, nothing was trained, and it stays.
        """
        path = self.folder / RESULT
        before = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True)
        try:
            yield
        except ConfigError:
            if before is not None:
                write_bytes(path, before)
            raise

    def decode(self, name: str, model: Path) -> None:
        """Decode what is held out, if that was not done."""
        if (self.folder / name / "decode.json").exists():
            return
        self.report(f"decoding what is held out, {name}")
        decoded = decode(
            model,
            self._data("decoded.jsonl"),
            self.folder / name,
            {**self.decoding, **({"lm_weight": 0} if self.rows else {})},
            processes=self.processes,
            device=self.device,
        )
        for error in decoded.errors:
            self.report(error)

    def finish(self, config: Config) -> None:
        """Choose how far to go, write the model, and compare it with the start."""
        shutil.rmtree(self.folder / "after", ignore_errors=True)
        start, trained = load_model(self.source), load_model(self.training / MODEL)
        dev = spread(self.material.dev, config.training.dev_utterances)
        dataset = Dataset(dev, self.tokenizer, cache_hours=1.0)
        found = {
            share: self._validate(
                self._between(start, trained, share, config), dataset, config
            )
            for share in SHARES
        }
        losses = {share: validation.loss for share, validation in found.items()}
        share = min(losses, key=lambda one: (losses[one], one))
        tried = ", ".join(f"{one:g}: {loss:.3f}" for one, loss in losses.items())
        self.report(
            f"loss by the share of the way from start to end: {tried}; {share:g} is "
            "taken"
        )
        model = self._between(start, trained, share, config)
        measured = {n: round(value, 4) for n, value in found[share].metrics().items()}
        model = model._replace(metadata={**model.metadata, **measured})
        self._write(model, share)
        self.decode("before", self.source)
        self.decode("after", self.folder / MODEL)
        result = self._compare(share, losses)
        content = json.dumps(asdict(result), indent=2) + "\n"
        write_bytes(self.folder / RESULT, content.encode())

    def _between(
        self, start: Model, trained: Model, share: float, config: Config
    ) -> Model:
        rows = self.rows.rows if self.rows else None
        seed = config.training.seed
        las = interpolate(start.las, trained.las, share, seed, rows)
        # Without the place, which is this machine's: the model may be published.
        folder = self.source.parent if self.source.name == MODEL else self.source
        about = {"adapted from": folder.name, "share of the training": share}
        return Model(las, trained.tokenizer, {**trained.metadata, **about})

    def _validate(self, model: Model, dev: Dataset, config: Config) -> Validation:
        device = torch.device(self.device)
        return validate(
            model.las.to(device),
            dev,
            model.tokenizer,
            config.loss,
            batch_seconds=config.training.batch_seconds,
            device=device,
        )

    def _write(self, model: Model, share: float) -> None:
        """Write the model's folder, with the start's settings of the search."""
        partial = self.folder / ".adapted"
        if share == 0 and not self.rows:
            model = model._replace(metadata=self.stored.metadata)
        settings = read_further(self.source, DECODING)
        further = {DECODING: settings} if settings else {}
        try:
            save_model(partial / MODEL, *model, further=further)
            content = (self.training / RUN_SETTINGS).read_bytes()
            write_bytes(partial / RUN_SETTINGS, content)
            export(partial, self.folder / MODEL)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written ({error.strerror})"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _compare(self, share: float, losses: Mapping[float, float]) -> Adapted:
        references = self.material.decoded()
        said = [utterance.text for utterance in references]
        before, after = (
            _texts(self.folder / name / HYPOTHESES, references)
            for name in ("before", "after")
        )
        groups = speaker_groups(references)
        interval = difference_interval(said, before, after, groups=groups)
        return Adapted(
            share,
            {f"{one:g}": round(loss, 4) for one, loss in losses.items()},
            word_error_rate(said, before).rate,
            word_error_rate(said, after).rate,
            interval,
            groups is not None,
            self._folded(said, before, after) if self.rows else None,
        )

    def _folded(
        self, said: Sequence[str], before: Sequence[str], after: Sequence[str]
    ) -> tuple[float, float]:
        letters = alphabet_written(self.stored.tokenizer)
        said, before, after = (
            [fitted(text, letters) for text in texts] for texts in (said, before, after)
        )
        return word_error_rate(said, before).rate, word_error_rate(said, after).rate

    def next_commands(self) -> list[str]:
        """Name what to do with the new model."""
        test, dev = self.material.test, self._data("dev.jsonl")
        judge = ["evaluate", "robustness", test or dev, "--model", self.folder]
        commands = [judge, ["calibrate", dev, self.folder / MODEL]]
        if test:
            into = self.folder / "test"
            commands[:0] = [
                ["decode", test, into, "--model", self.folder],
                ["score", test, into / HYPOTHESES],
            ]
        return [shlex.join(["asr", *map(str, command)]) for command in commands]


def _tokenizer(old: Tokenizer, material: Material) -> Tokenizer:
    """Return what the new model writes: what the old one did, if that is enough.

    Raises:
        ConfigError: the old one writes subwords, and that is not enough.
    """
    outside = strangers(material.alphabet, alphabet_written(old))
    if not outside:
        return old
    if not isinstance(old, CharTokenizer):
        raise ConfigError(
            f"the model writes subwords, which have none of {shown(outside)} (bring "
            "the texts into its alphabet, or adapt a model that writes characters)"
        )
    return CharTokenizer(material.alphabet)


def _claim(
    folder: Path, source: Path, material: Material, searched: Sequence[str]
) -> None:
    """Write what is adapted to what into the folder, or compare with what is there.

    Raises:
        ConfigError: it holds another adaptation, or cannot be made.
    """
    about = {
        "model": hashlib.sha256((source / DESCRIPTION).read_bytes()).hexdigest(),
        "training set": digest(material.train, speakers=True),
        "held-out set": digest(material.dev, speakers=True),
        "alphabet": material.alphabet,
        "search": searched,
    }
    path = folder / ABOUT
    if path.exists():
        try:
            before = json.loads(path.read_bytes())
            changed = [name for name in about if before[name] != about[name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: is damaged (take another folder)") from error
        if changed:
            raise ConfigError(
                f"{folder}: holds an adaptation with another {changed[0]} (take "
                "another folder, or delete this one)"
            )
        return
    if (folder / CHECKPOINT).exists() or (folder / DESCRIPTION).exists():
        raise ConfigError(f"{folder}: holds a run or a model (take another folder)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror})") from error
    write_bytes(path, (json.dumps(about, indent=2) + "\n").encode())


def _check_over(folder: Path, before: Config, now: Config) -> None:
    """Refuse other settings of a training that is over: they would change nothing.

    Raises:
        ConfigError: they are others.
    """
    changed = [
        name
        for name in changed_settings(before, now)
        if name not in _REACHED and not name.startswith(_PLACES)
    ]
    if changed:
        raise ConfigError(
            f"{folder}: holds an adaptation that was trained to its end with other "
            f"settings of {', '.join(changed)} (bring them back, or take another "
            "folder)"
        )


def _texts(path: Path, references: Sequence[Utterance]) -> list[str]:
    """Read hypotheses, in the order of the references."""
    texts = {one.id: one.text for one in read_manifest(path)}
    return [texts[reference.id] for reference in references]


def _read_result(folder: Path) -> Adapted:
    """Read what came of an adaptation.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder / RESULT
    try:
        tree: dict[str, Any] = json.loads(path.read_bytes())
        for name in ("interval", "folded"):
            tree[name] = tree[name] and tuple(tree[name])
        return Adapted(**tree)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is damaged (delete it, and run this again)"
        ) from error
