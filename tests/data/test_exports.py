from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE
from asr.cli import main
from asr.data.exports import EXPORTS, export
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.prepare import PrepareConfig, prepare
from asr.data.recordings import read_utterance
from asr.data.shards import write_shards
from asr.errors import ConfigError, CorpusError, ManifestError


def record(path: Path, seconds: float, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * SAMPLE_RATE))
    soundfile.write(path, samples.astype(np.float32), SAMPLE_RATE)
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two recordings with the same name, of a speaker each."""
    utterances = [
        Utterance(f"{name}-x", str(record(tmp_path / name / "x.wav", 1.5, seed)),
                  1.5, f"grüß {name}", name)
        for seed, name in enumerate(("ann", "bob"))
    ]  # fmt: skip
    write_manifest(tmp_path / "whole.jsonl", utterances)
    return tmp_path / "whole.jsonl"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Three parts of two recordings with the same name."""
    one = str(record(tmp_path / "1" / "talk.flac", 6.0, 1))
    two = str(record(tmp_path / "2" / "talk.flac", 6.0, 2))
    utterances = [
        Utterance("a", one, 1.5, "go", "ann", start=0.0),
        Utterance("b", one, 2.0, "on", "ann", start=2.5),
        Utterance("c", two, 2.0, "so", "bob", start=2.5),
    ]
    write_manifest(tmp_path / "parts.jsonl", utterances)
    return tmp_path / "parts.jsonl"


@pytest.mark.parametrize("format", EXPORTS)
@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_what_is_exported_and_prepared_again_is_the_same(
    format: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if format == "huggingface":
        pytest.importorskip("datasets")
    manifest: Path = request.getfixturevalue(kind)

    export(manifest, tmp_path / "out", format)
    corpus = prepare(tmp_path / "out", tmp_path / "again", PrepareConfig(processes=1))

    assert corpus.format == format
    (subset,) = corpus.subsets
    before, after = read_manifest(manifest), read_manifest(subset.path)
    for one, other in zip(before, after, strict=True):
        if format == "huggingface":  # holds the audio itself
            assert one.audio != other.audio
            torch.testing.assert_close(
                read_utterance(other), read_utterance(one), rtol=0, atol=1e-4
            )
            one = replace(one, audio=other.audio, start=None)
        assert other == one
    assert not subset.problems


def test_kaldis_folder_has_what_its_scripts_ask_for(
    whole: Path, tmp_path: Path
) -> None:
    export(whole, tmp_path / "out", "kaldi")

    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert files.keys() == {"wav.scp", "text", "utt2spk", "spk2utt", "utt2dur"}
    assert files["spk2utt"] == "ann ann-x\nbob bob-x\n"
    assert files["utt2dur"] == "ann-x 1.500\nbob-x 1.500\n"


def test_lhotse_reads_what_was_exported(parts: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    export(parts, tmp_path / "out", "lhotse")
    sets = [
        lhotse.load_manifest(tmp_path / "out" / f"{name}.jsonl")
        for name in ("recordings", "supervisions")
    ]
    lhotse.validate_recordings_and_supervisions(*sets)

    cuts = lhotse.CutSet.from_manifests(*sets).trim_to_supervisions()

    assert [(cut.start, cut.duration) for cut in cuts] == [
        *((0.0, 1.5), (2.5, 2.0), (2.5, 2.0))
    ]
    assert [cut.supervisions[0].text for cut in cuts] == ["go", "on", "so"]
    assert cuts[0].load_audio().shape == (1, 24_000)


def test_the_command_names_what_it_wrote(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["data", "export", str(whole), str(out), "--format", "nemo"]) == 0
    assert capsys.readouterr().out == f"{out / 'manifest.json'}\n"


# What cannot be exported


def test_a_format_must_be_known(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--format xml: is not known"):
        export(whole, tmp_path, "xml")


def test_kaldi_has_no_spaces_in_ids(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("a b", "a.wav", 1.0, "go")])
    with pytest.raises(ConfigError, match="'a b' has a space in its id"):
        export(tmp_path / "m.jsonl", tmp_path / "out", "kaldi")


def test_shards_are_not_exported(whole: Path, tmp_path: Path) -> None:
    write_shards(whole, tmp_path / "shards", 1.0)
    with pytest.raises(ManifestError, match="names shards"):
        export(tmp_path / "shards" / "manifest.jsonl", tmp_path / "out", "nemo")


def test_a_folder_that_cannot_be_made_is_reported(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"file/out: cannot be made \(Not a dir"):
        export(whole, tmp_path / "file" / "out", "nemo")
