"""What `asr decode` keeps when it is stopped, and what it does with long utterances."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
import torch
from torch import Tensor

from asr.audio import read_waveform
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import InUseError, ManifestError
from asr.inference import parallel
from asr.inference.hypotheses import Decoded
from asr.inference.long_audio import Recording
from asr.inference.parallel import decode, transcribe_files
from asr.inference.processes import batches
from asr.inference.recognizer import Recognizer
from asr.inference.segmentation import WHOLE
from asr.inference.shards import Shard
from asr.locks import locked
from asr.model.storage import Model, save_model
from asr.transcript import Transcript

QUICK = DecodingConfig(beam_size=2, lm_weight=0.0)


class Corpus(NamedTuple):
    """A manifest, and what decodes it."""

    manifest: Path
    model: Path

    def decode(self, folder: Path, decoding: DecodingConfig = QUICK) -> Decoded:
        """Decode it in this process."""
        return decode(self.model, self.manifest, folder, decoding, processes=1)


@pytest.fixture
def corpus(model_folder: Path, tmp_path: Path) -> Corpus:
    """Five batches for a CPU."""
    seconds = [0.2 + 0.01 * number for number in range(37)]
    return Corpus(made(tmp_path / "corpus", seconds), model_folder)


def made(folder: Path, seconds: list[float]) -> Path:
    """Make a corpus of noise; return its manifest."""
    folder.mkdir()
    utterances = []
    for number, duration in enumerate(seconds):
        path = folder / f"{number}.wav"
        samples = 0.1 * torch.randn(round(duration * 16_000))
        soundfile.write(path, samples.numpy(), 16_000)
        utterances.append(Utterance(f"u{number}", str(path), duration, "GO", "s1"))
    write_manifest(folder / "set.jsonl", utterances)
    return folder / "set.jsonl"


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder and below."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[list[str]]]:
    """Have decoding stopped after some batches; the list gets their ids."""
    decode_batch = parallel._decode_waveforms

    def stop_after(number: int) -> list[list[str]]:
        done = list[list[str]]()

        def counted(*given: object) -> object:
            if len(done) == number:
                raise KeyboardInterrupt
            found = decode_batch(*given)  # type: ignore[arg-type]
            done.append(found.ids)
            return found

        monkeypatch.setattr(parallel, "_decode_waveforms", counted)
        return done

    return stop_after


Stop = Callable[[int], list[list[str]]]


def test_what_was_stopped_goes_on_with_what_is_missing(
    corpus: Corpus, tmp_path: Path, stop_after: Stop
) -> None:
    whole, stopped = tmp_path / "a" / "whole", tmp_path / "a" / "stopped"
    corpus.decode(whole)

    first = stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        corpus.decode(stopped)
    then = stop_after(99)
    decoded = corpus.decode(stopped)

    assert (len(first), len(then)) == (2, 3)
    assert not {id for ids in first for id in ids} & {id for ids in then for id in ids}
    assert contents(stopped) == contents(whole)
    assert decoded.seconds == 0  # not known: it was not all of it
    assert sorted(contents(whole)) == [
        *("decode.json", "hyp.trn", "hypotheses.jsonl", "ref.trn")
    ]


def test_what_is_done_is_decoded_again_when_it_is_asked_for(
    corpus: Corpus, tmp_path: Path, stop_after: Stop
) -> None:
    corpus.decode(tmp_path / "out")

    done = stop_after(99)
    corpus.decode(tmp_path / "out", DecodingConfig(beam_size=1, lm_weight=0.0))

    assert len(done) == 5
    assert '"beam_size": 1' in (tmp_path / "out" / "decode.json").read_text()


def test_what_was_begun_with_something_else_is_refused(
    corpus: Corpus, model: Model, tmp_path: Path, stop_after: Stop
) -> None:
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        corpus.decode(tmp_path / "out")
    before, place = contents(tmp_path / "out"), r"out/shards/0-of-1\.jsonl: is "

    with pytest.raises(ManifestError, match=rf"{place}of other settings \(beam_size"):
        corpus.decode(tmp_path / "out", DecodingConfig(beam_size=3, lm_weight=0.0))
    with pytest.raises(ManifestError, match=rf"{place}of a run that was stopped \(end"):
        decode(*corpus[::-1], tmp_path / "out", QUICK, processes=1, shard=Shard(0, 2))
    said = read_manifest(corpus.manifest)
    write_manifest(corpus.manifest, said[1:])
    with pytest.raises(ManifestError, match=rf"{place}of another manifest \(sha256"):
        corpus.decode(tmp_path / "out")
    write_manifest(corpus.manifest, said)
    with torch.no_grad():
        model.las.ctc.weight.add_(1.0)
    save_model(corpus.model, *model)
    with pytest.raises(ManifestError, match=rf"{place}of another model \(model"):
        corpus.decode(tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_shards_are_not_taken_for_a_run_that_was_stopped(
    corpus: Corpus, tmp_path: Path
) -> None:
    decode(*corpus[::-1], tmp_path / "out", QUICK, processes=1, shard=Shard(0, 2))

    with pytest.raises(ManifestError, match=r"is one of 2 shards \(merge them first"):
        corpus.decode(tmp_path / "out")


def test_what_was_moved_is_still_the_same(
    corpus: Corpus, tmp_path: Path, stop_after: Stop
) -> None:
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        corpus.decode(tmp_path / "out")
    moved = corpus.manifest.parent.rename(tmp_path / "moved") / "set.jsonl"
    model = corpus.model.rename(tmp_path / "model-2")

    done = stop_after(99)
    Corpus(moved, model).decode(tmp_path / "out")

    assert len(done) == 3


def test_a_copy_with_its_own_audio_is_not_the_same(
    corpus: Corpus, tmp_path: Path, stop_after: Stop
) -> None:
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        corpus.decode(tmp_path / "out")
    noisy = Path(shutil.copytree(corpus.manifest.parent, tmp_path / "noisy"))

    with pytest.raises(ManifestError, match=r"another manifest \(path ….*/corpus/set"):
        Corpus(noisy / "set.jsonl", corpus.model).decode(tmp_path / "out")


def test_one_process_at_a_time_decodes_into_a_folder(
    corpus: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()

    with (
        locked(tmp_path / "out", "asr decode"),
        pytest.raises(InUseError, match=r"out: is in use by process .* .asr decode; "),
    ):
        corpus.decode(tmp_path / "out")


def test_a_line_that_cannot_be_written_costs_that_batch_alone(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, dumps = list[object](), json.dumps

    def full(tree: dict[str, object], **given: object) -> str:
        written.extend(["batch"] if "ids" in tree else [])
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return dumps(tree, **given)  # type: ignore[arg-type]

    monkeypatch.setattr("asr.inference.shards.json.dumps", full)
    with pytest.raises(ManifestError, match=r"0-of-1.jsonl: cannot be written \(No sp"):
        corpus.decode(tmp_path / "out")

    lines = Shard(0, 1).path(tmp_path / "out").read_text().splitlines()
    assert len(lines) == 3  # what is decoded, and two batches


# Long utterances


def spoken(model: Path, path: Path) -> str:
    """What `asr transcribe` finds in a recording."""
    (found,) = transcribe_files(model, [Recording.of_file(path)], QUICK, processes=1)
    assert isinstance(found, Transcript)
    return found.text


@pytest.fixture
def pieces_only(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of all waveforms that a recognizer is given."""
    given, recognize = list[float](), Recognizer.recognize

    def noted(self: Recognizer, waveforms: list[Tensor], **further: Any) -> object:
        given.extend(len(waveform) / 16_000 for waveform in waveforms)
        return recognize(self, waveforms, **further)

    monkeypatch.setattr(Recognizer, "recognize", noted)
    return given


@pytest.mark.slow
@pytest.mark.parametrize("shard", [None, Shard(0, 1)])
def test_a_long_utterance_is_cut_as_transcribing_cuts_it(
    shard: Shard | None,
    model_folder: Path,
    tmp_path: Path,
    pieces_only: list[float],
) -> None:
    manifest = made(tmp_path / "corpus", [0.5, 50.0, 37.0])
    said = [spoken(model_folder, tmp_path / "corpus" / f"{n}.wav") for n in range(3)]
    pieces_only.clear()

    decoded = decode(
        model_folder, manifest, tmp_path / "out", QUICK, processes=1, shard=shard
    )

    assert [one.text for one in decoded.hypotheses] == said
    assert max(pieces_only) <= 15.0


def test_what_is_cut_is_decided_by_the_audio_where_the_manifest_is_wrong(
    model_folder: Path, tmp_path: Path, pieces_only: list[float]
) -> None:
    manifest = made(tmp_path / "corpus", [40.0])
    manifest.write_text(manifest.read_text().replace("40.0", "4.0"))

    decode(model_folder, manifest, tmp_path / "out", QUICK, processes=1)

    assert max(pieces_only) <= 15.0


@pytest.mark.slow
def test_utterances_of_corpora_are_recognised_as_a_whole_and_beside_the_same_others(
    model_folder: Path, tmp_path: Path, pieces_only: list[float]
) -> None:
    lengths = [35.2, 24.5, 16.0, 15.1, 2.0, 1.0]
    manifest = made(tmp_path / "corpus", lengths)
    recognizer = Recognizer.load(model_folder, decoding=QUICK)
    waveforms = [read_waveform(u.audio) for u in read_manifest(manifest)]
    as_ever = [segment.text for segment in recognizer.recognize(waveforms)]
    long = made(tmp_path / "long", [60.0])
    both = [*read_manifest(manifest), replaced_id(read_manifest(long)[0], "long")]
    write_manifest(tmp_path / "both.jsonl", both)
    pieces_only.clear()

    alone = decode(model_folder, manifest, tmp_path / "alone", QUICK, processes=1)
    assert pieces_only == lengths
    beside = decode(
        model_folder, tmp_path / "both.jsonl", tmp_path / "beside", QUICK, processes=1
    )

    assert [one.text for one in alone.hypotheses] == as_ever
    assert [one.text for one in beside.hypotheses][:-1] == as_ever


def replaced_id(utterance: Utterance, id: str) -> Utterance:
    return Utterance(id, utterance.audio, utterance.duration, utterance.text)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_long_utterances_are_batches_of_their_own(device: str) -> None:
    short = [Utterance(f"s{n}", "a", 30.0, "") for n in range(20)]
    long = [Utterance(f"l{n}", "a", WHOLE + 1 + n, "") for n in range(3)]

    parts = batches([*short, *long], device)

    assert [[one.id for one in part] for part in parts[:3]] == [["l2"], ["l1"], ["l0"]]
    assert parts[3:] == batches(short, device)


def test_a_long_recording_that_cannot_be_read_is_reported_and_the_rest_goes_on(
    model_folder: Path, tmp_path: Path
) -> None:
    manifest = made(tmp_path / "corpus", [0.5, 40.0])
    (tmp_path / "corpus" / "1.wav").write_bytes(b"")

    decoded = decode(model_folder, manifest, tmp_path / "out", QUICK, processes=1)

    assert len(decoded.errors) == 1
    assert "1.wav" in decoded.errors[0]
    assert decoded.hypotheses[1].text == ""


@pytest.mark.parametrize(
    "name", ["n" * 300, "folder/" * 2000 + "a.wav"], ids=str.__len__
)
@pytest.mark.parametrize("seconds", [1.0, 40.0])
def test_a_path_that_the_system_refuses_is_that_utterances_error(
    name: str, seconds: float, corpus: Corpus, tmp_path: Path
) -> None:
    first = read_manifest(corpus.manifest)[0]
    odd = Utterance("odd", str(tmp_path / name), seconds, "")
    write_manifest(tmp_path / "odd.jsonl", [first, odd])

    decoded = decode(
        corpus.model, tmp_path / "odd.jsonl", tmp_path / "out", QUICK, processes=1
    )

    assert len(decoded.errors) == 1
    assert [one.id for one in decoded.hypotheses] == ["u0", "odd"]
