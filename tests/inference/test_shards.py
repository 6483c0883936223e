import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from asr.cli import main
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AsrError, ConfigError, InUseError, ManifestError
from asr.inference import parallel
from asr.inference.parallel import decode
from asr.inference.shards import Shard, merge
from asr.locks import locked
from asr.model.storage import Model, save_model

ROOT = Path(__file__).parents[2]
QUICK = DecodingConfig(beam_size=2, lm_weight=0.0)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five batches for a CPU; the recording of u3 cannot be read."""
    utterances = []
    for number in range(37):
        path = tmp_path / "audio" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        seconds = 0.2 + 0.01 * number
        samples = 0.1 * torch.randn(round(seconds * 16_000))
        soundfile.write(path, samples.numpy(), 16_000)
        utterances.append(Utterance(f"u{number}", str(path), seconds, "GO", "s1"))
    (tmp_path / "audio" / "3.wav").write_bytes(b"")
    write_manifest(tmp_path / "set.jsonl", utterances)
    return tmp_path / "set.jsonl"


def decode_shards(model_folder: Path, manifest: Path, folder: Path, count: int) -> None:
    for index in range(count):
        shard = Shard(index, count)
        decode(model_folder, manifest, folder, QUICK, processes=1, shard=shard)


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder and below."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("count", [1, 3, 9])
def test_merged_shards_are_what_one_run_writes_byte_for_byte(
    count: int, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "a" / "whole", tmp_path / "a" / "parts"
    one = decode(model_folder, manifest, whole, QUICK, processes=1)

    decode_shards(model_folder, manifest, parts, count)
    merged = merge(parts)

    assert contents(parts) == contents(whole)
    assert merged.hypotheses == one.hypotheses
    assert merged.errors == one.errors
    assert len(one.errors) == 1


def test_every_id_belongs_to_one_shard_in_every_process() -> None:
    ids = [f"u{number}" for number in range(200)]
    program = (
        "from asr.inference.shards import Shard\n"
        f"print([Shard(1, 4).has(id) for id in {ids}])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}

    owners = [[k for k in range(4) if Shard(k, 4).has(id)] for id in ids]
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert {len(found) for found in owners} == {1}
    assert all(30 < owners.count([k]) < 70 for k in range(4))
    assert elsewhere.strip() == str([found == [1] for found in owners])


@pytest.mark.parametrize("text", ["64/64", "1", "a/b", "-1/4", "1/4/2", "", "0/0"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"shard {text}: is not INDEX/COUNT"):
        Shard.parse(text)


def test_a_shard_that_was_stopped_goes_on_and_nothing_is_lost(
    model_folder: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts, shard = tmp_path / "whole", tmp_path / "parts", Shard(0, 1)
    decode(model_folder, manifest, whole, QUICK, processes=1)
    decode_batch, decoded = parallel._decode_waveforms, list[list[str]]()

    def stopped(*given: object) -> object:
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append([])
        return decode_batch(*given)  # type: ignore[arg-type]

    def counted(*given: object) -> object:
        found = decode_batch(*given)  # type: ignore[arg-type]
        decoded.append(found.ids)
        return found

    monkeypatch.setattr(parallel, "_decode_waveforms", stopped)
    with pytest.raises(KeyboardInterrupt):
        decode(model_folder, manifest, parts, QUICK, processes=1, shard=shard)
    with shard.path(parts).open("ab") as file:
        file.write(b'{"ids": ["u1"')  # as the machine went down
    with pytest.raises(ManifestError, match=r"not all of 1 shards are done \(incomp"):
        merge(parts)
    decoded.clear()
    monkeypatch.setattr(parallel, "_decode_waveforms", counted)
    decode(model_folder, manifest, parts, QUICK, processes=1, shard=shard)

    assert len(decoded) == 3  # of five batches two were done
    merge(parts)
    assert contents(parts) == contents(whole)


def test_a_shard_that_is_complete_is_not_decoded_again(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    shard = Shard(0, 2)
    first = decode(
        model_folder, manifest, tmp_path / "out", QUICK, processes=1, shard=shard
    )
    before = contents(tmp_path / "out")

    again = decode(
        model_folder, manifest, tmp_path / "out", QUICK, processes=1, shard=shard
    )

    assert contents(tmp_path / "out") == before
    assert again.hypotheses == first.hypotheses
    assert again.errors == first.errors


def test_missing_and_incomplete_shards_are_named(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    decode_shards(model_folder, manifest, out, 8)
    for index in (1, 5, 6, 7):
        Shard(index, 8).path(out).unlink()
    torn = Shard(2, 8).path(out)
    torn.write_bytes(torn.read_bytes().removesuffix(b'{"complete": true}\n'))
    Shard(3, 8).path(out).write_bytes(b"")

    with pytest.raises(
        ManifestError,
        match=r"out: not all of 8 shards are done "
        r"\(missing: 1, 5-7; incomplete: 2-3\)$",
    ):
        merge(out)
    with pytest.raises(ManifestError, match="holds no shards"):
        merge(tmp_path)
    assert not (out / "hypotheses.jsonl").exists()


def test_shards_of_something_else_are_refused(
    model: Model, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out, shard = tmp_path / "out", Shard(1, 2)
    decode(model_folder, manifest, out, QUICK, processes=1, shard=Shard(0, 2))
    before = contents(out)

    def refused(reason: str, **changed: object) -> None:
        given = {"decoding": QUICK, "shard": shard, "processes": 1, **changed}
        with pytest.raises(ManifestError, match=f"0-of-2.jsonl: is {reason}"):
            decode(model_folder, manifest, out, **given)  # type: ignore[arg-type]
        assert contents(out) == before

    refused("one of 2 shards, not of 3", shard=Shard(1, 3))
    refused(
        r"of other settings \(beam_size 2, not 3; name another folder, or delete it",
        decoding=DecodingConfig(beam_size=3, lm_weight=0.0),
    )
    refused("of other settings .precision float32, not int8", precision="int8")
    with torch.no_grad():
        model.las.ctc.weight.add_(1.0)
    save_model(model_folder, *model)
    refused(r"of another model \(model.json [0-9a-f]+, not")


def test_a_manifest_that_was_changed_is_refused(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    decode_shards(model_folder, manifest, out, 2)
    first, *others = read_manifest(manifest)
    write_manifest(manifest, others)

    with pytest.raises(ManifestError, match=r"set\.jsonl: is not what was decoded"):
        merge(out)
    with pytest.raises(ManifestError, match=r"is of another manifest \(sha256"):
        decode(model_folder, manifest, out, QUICK, processes=1, shard=Shard(0, 2))
    manifest.unlink()
    with pytest.raises(ManifestError, match=r"set\.jsonl: cannot be read"):
        merge(out)
    assert first.id == "u0"


def test_audio_is_found_from_where_a_link_to_the_manifest_is(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = manifest.rename(tmp_path / "elsewhere" / "real.jsonl")
    manifest.symlink_to(elsewhere)
    whole, parts = tmp_path / "a" / "whole", tmp_path / "a" / "parts"
    decode(model_folder, manifest, whole, QUICK, processes=1)

    decode_shards(model_folder, manifest, parts, 2)
    merge(parts)

    assert contents(parts) == contents(whole)


@pytest.mark.parametrize("name", ["x.jsonl", "2-of-2.jsonl", "a-of-b.jsonl"])
def test_a_file_that_is_no_shard_is_refused(
    name: str, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    decode_shards(model_folder, manifest, out, 2)
    Shard(0, 2).path(out).rename(out / "shards" / name)

    with pytest.raises(ManifestError, match=f"{name}: is not named as a shard's file"):
        merge(out)
    with pytest.raises(ManifestError, match="is not named as a shard's file"):
        decode(model_folder, manifest, out, QUICK, processes=1, shard=Shard(0, 2))


def test_shards_of_two_runs_are_not_merged(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    other = DecodingConfig(beam_size=3, lm_weight=0.0)
    one, two = tmp_path / "one", tmp_path / "two"
    decode(model_folder, manifest, one, QUICK, processes=1, shard=Shard(0, 2))
    decode(model_folder, manifest, two, other, processes=1, shard=Shard(1, 2))
    Shard(1, 2).path(two).rename(Shard(1, 2).path(one))

    with pytest.raises(ManifestError, match=r"1-of-2.jsonl: is of other settings"):
        merge(one)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no JSON\n", "is damaged"),
        (b"[]\n{}\n", "is damaged"),
        (b'{"manifest": 3}\n', r"is of another manifest \(it has none"),
    ],
)
def test_a_damaged_shard_is_refused(
    content: bytes, reason: str, model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out, shard = tmp_path / "out", Shard(0, 1)
    decode_shards(model_folder, manifest, out, 1)
    shard.path(out).write_bytes(content)

    with pytest.raises(ManifestError, match=f"0-of-1.jsonl: {reason}"):
        decode(model_folder, manifest, out, QUICK, processes=1, shard=shard)


def test_a_shard_that_lacks_an_utterance_is_not_merged(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "out", Shard(0, 1).path(tmp_path / "out")
    decode_shards(model_folder, manifest, out, 1)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], *lines[2:]]))

    with pytest.raises(ManifestError, match=r"shards: is damaged: no shard has 'u\d+'"):
        merge(out)


def test_a_shard_is_decoded_by_one_process_at_a_time(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out, shard = tmp_path / "out", Shard(0, 1)
    decode_shards(model_folder, manifest, out, 1)

    with (
        locked(shard.path(out), "asr decode"),
        pytest.raises(InUseError, match=r"0-of-1\.jsonl: is in use by process \d+ on"),
    ):
        decode(model_folder, manifest, out, QUICK, processes=1, shard=shard)


def test_a_folder_that_cannot_be_written_is_reported(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "shards").write_text("a file")

    with pytest.raises(ManifestError, match=r"0-of-1.jsonl: cannot be written \("):
        decode(model_folder, manifest, out, QUICK, processes=1, shard=Shard(0, 1))


def test_the_commands_do_the_same(
    model_folder: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--model", str(model_folder), "--beam-size", "2", "--processes", "1"]
    options += ["--lm-weight", "0"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ["decode", str(manifest)]

    assert main([*command, str(whole), *options]) == 1  # for u3
    for k in ("0/2", "1/2"):
        main([*command, str(parts), *options, "--shard", k])
    capsys.readouterr()
    status = main(["merge", str(parts)])

    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == "37 utterances, 0.00 h of audio\n"
    assert printed.err.startswith("asr: ")
    assert "3.wav" in printed.err
    assert contents(parts) == contents(whole)
    assert main(["merge", str(parts)]) == 1
    assert capsys.readouterr().err.startswith(f"asr: {parts}: holds no shards (asr")


def test_shards_of_recordings_make_up_all_of_them(
    model_folder: Path,
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "audio" / "3.wav").unlink()
    command = ["transcribe", str(tmp_path / "audio"), "--model", str(model_folder)]
    command += ["--beam-size", "2", "--lm-weight", "0", "--processes", "1"]
    command += ["--output-dir"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    assert main([*command, str(whole)]) == 0
    seen = []
    for k in ("0/2", "1/2"):
        assert main([*command, str(parts), "--shard", k]) == 0
        seen.append(len(list(parts.iterdir())))

    assert contents(parts) == contents(whole)
    assert 0 < seen[0] < seen[1] == 36


def test_options_that_do_not_go_together_are_refused(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(reason: str, *arguments: str) -> None:
        assert main(list(arguments)) == 1
        assert capsys.readouterr().err == f"asr: {reason}\n"

    decode = ["decode", str(manifest), str(tmp_path / "out")]
    refused("--address needs --engine ray", *decode, "--address", "auto")
    refused(
        "device auto: the machines of a cluster may differ (use cpu or cuda)",
        *(*decode, "--engine", "ray", "--device", "auto"),
    )
    refused(
        "standard input is of this process alone (give it a name)",
        *("transcribe", "-", "--shard", "0/2"),
    )
    refused(
        "shard 2/2: is not INDEX/COUNT with an index from 0 on (of four shards the "
        "first is 0/4 and the last 3/4)",
        *(*decode, "--shard", "2/2"),
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["decode", "explain", "transcribe"])
def test_a_gpu_that_is_not_there_is_an_error_of_one_line(
    command: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "decode": [str(manifest), str(tmp_path / "out")],
        "explain": [str(tmp_path / "audio" / "1.wav"), "-o", str(tmp_path / "p.html")],
        "transcribe": [str(tmp_path / "audio")],
    }[command]

    assert main([command, *arguments, "--device", "cuda"]) == 1

    error = "asr: device cuda: torch finds no GPU here (use cpu or auto)\n"
    assert capsys.readouterr().err == error
    assert issubclass(ConfigError, AsrError)


def test_the_first_line_of_a_shard_names_what_was_decoded(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    decode_shards(model_folder, manifest, tmp_path / "out", 1)

    first, *_, last = Shard(0, 1).path(tmp_path / "out").read_text().splitlines()

    assert json.loads(first)["manifest"]["path"] == str(manifest)
    assert json.loads(last) == {"complete": True}


def test_a_shard_with_hot_words_goes_on_and_other_ones_are_refused(
    model_folder: Path, manifest: Path, tmp_path: Path
) -> None:
    def go_on(*hotwords: str) -> None:
        given = replace(QUICK, hotwords=hotwords)
        decode(
            *(model_folder, manifest, tmp_path / "out", given),
            processes=1,
            shard=Shard(0, 1),
        )

    go_on("Anna", "New York")
    go_on("ANNA", "NEW YORK")
    with pytest.raises(ManifestError, match="other settings"):
        go_on("ANNA")
    merge(tmp_path / "out")

    used = json.loads((tmp_path / "out" / "decode.json").read_text())["decoding"]
    assert used["hotwords"] == ["ANNA", "NEW YORK"]
