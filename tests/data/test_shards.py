import gc
import json
import os
import random
import shutil
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE, duration, read_waveform
from asr.cli import main
from asr.data.batching import BatchSampler
from asr.data.dataset import Augmentation, Dataset
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.shard_order import ShardSampler, in_order_of_shards
from asr.data.shards import ShardedUtterances, read_corpus, write_shards
from asr.errors import AsrError, AudioError, ConfigError, ManifestError
from asr.features import AugmentConfig
from asr.text import CharTokenizer
from tests.sounds import FORMATS, contained, encoded, noise

IDS = ["84-1", "84-2", "common/voice.1", "a_b~c", "ä ö", *(f"u{i}" for i in range(7))]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Twelve utterances of 0.25 to 0.8 s, in all formats; their manifest."""
    utterances = list[Utterance]()
    for number, id in enumerate(IDS):
        kind = FORMATS[number % len(FORMATS)]
        path = tmp_path / "audio" / f"{number}.{kind}"
        path.parent.mkdir(exist_ok=True)
        seconds = 0.25 + number / 20
        path.write_bytes(encoded(kind, noise(seconds)))
        text = "GO DO YOU HEAR"[: number + 1].strip()
        utterances.append(Utterance(id, str(path), seconds, text, f"s{number % 3}"))
    write_manifest(tmp_path / "corpus.jsonl", utterances)
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def sharded(corpus: Path) -> Path:
    """The same in shards of two seconds or less; their manifest."""
    write_shards(corpus, corpus.parent / "shards", 2 / 3600)
    return corpus.parent / "shards" / "manifest.jsonl"


def by_id(path: Path) -> dict[str, Utterance]:
    return {utterance.id: utterance for utterance in read_manifest(path)}


# Writing


def test_the_same_utterances_come_back_in_another_order(
    corpus: Path, sharded: Path
) -> None:
    before, after = by_id(corpus), by_id(sharded)

    assert sorted(after) == sorted(before)
    assert list(after) != list(before)
    for id, utterance in after.items():
        assert replace(utterance, audio="") == replace(before[id], audio="")
        assert torch.equal(
            read_waveform(utterance.audio), read_waveform(before[id].audio)
        ), id
        assert duration(utterance.audio) == duration(before[id].audio)


def test_what_the_webdataset_library_reads_is_the_corpus(
    corpus: Path, sharded: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    before = by_id(corpus)
    paths = [str(path) for path in sorted(sharded.parent.glob("*.tar"))]
    assert len(paths) > 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
        samples = list(webdataset.WebDataset(paths, shardshuffle=False))
        gc.collect()

    assert len(samples) == len(IDS)
    for sample in samples:
        about = json.loads(sample["json"])
        utterance = before[about["id"]]
        kind = Path(utterance.audio).suffix.removeprefix(".")
        assert sample[kind] == Path(utterance.audio).read_bytes()
        assert about == {
            "id": utterance.id,
            "audio": f"{sample['__key__']}.{kind}",
            "duration": utterance.duration,
            "text": utterance.text,
            "speaker": utterance.speaker,
        }


def test_shards_are_of_nearly_equal_length(sharded: Path) -> None:
    utterances = ShardedUtterances([sharded])
    seconds = dict.fromkeys(utterances.shards, 0.0)
    for shard, length in zip(utterances.shards, utterances.durations, strict=True):
        seconds[shard] += length

    total = sum(utterances.durations)
    assert len(seconds) == -(-total // 2)
    assert all(abs(one - total / len(seconds)) < 0.8 for one in seconds.values())


def test_the_same_corpus_gives_the_same_bytes(corpus: Path, sharded: Path) -> None:
    write_shards(corpus, corpus.parent / "again", 2 / 3600)

    for path in sharded.parent.iterdir():
        again = corpus.parent / "again" / path.name
        assert path.read_bytes() == again.read_bytes(), path


def test_shards_and_manifest_can_move_together(sharded: Path, tmp_path: Path) -> None:
    shutil.move(sharded.parent, tmp_path / "elsewhere")

    for utterance in read_corpus([tmp_path / "elsewhere" / "manifest.jsonl"]):
        assert len(read_waveform(utterance.audio)) > 0


def test_shards_can_be_made_of_shards(sharded: Path, tmp_path: Path) -> None:
    write_shards(sharded, tmp_path / "larger", 1)

    larger = by_id(tmp_path / "larger" / "manifest.jsonl")
    for id, utterance in by_id(sharded).items():
        ours = read_waveform(larger[id].audio)
        assert torch.equal(ours, read_waveform(utterance.audio))
    with tarfile.open(tmp_path / "larger" / "shard-000000.tar") as tar:
        assert {"84-1.json", "84-1.wav"} <= set(tar.getnames())


def test_a_file_with_another_ending_keeps_its_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.json"  # as KEY.json is
    path.write_bytes(encoded("flac", noise(0.3)))
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(path), 0.3, "GO")])

    write_shards(tmp_path / "m.jsonl", tmp_path / "shards", 1)

    (utterance,) = read_manifest(tmp_path / "shards" / "manifest.jsonl")
    assert torch.equal(read_waveform(utterance.audio), read_waveform(path))
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        assert tar.getnames() == ["a.json", "a.audio"]


def test_formats_that_pyav_reads_are_read_from_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(contained("m4a", noise(1.0)))
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(path), 1.0, "GO")])

    write_shards(tmp_path / "m.jsonl", tmp_path / "shards", 1)

    (utterance,) = read_manifest(tmp_path / "shards" / "manifest.jsonl")
    assert torch.equal(read_waveform(utterance.audio), read_waveform(path))


def test_an_id_whose_audio_is_missing_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "audio" / "2.ogg").unlink()

    message = r"^common/voice\.1: .*2\.ogg: cannot be read \(No such file or directory"
    with pytest.raises(AudioError, match=message):
        write_shards(corpus, tmp_path / "shards", 1)

    assert not (tmp_path / "shards").exists()


def test_an_id_whose_audio_is_empty_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "audio" / "0.wav").write_bytes(b"")

    message = r"^84-1: .*0\.wav: is empty \(a recording was expected\)$"
    with pytest.raises(AudioError, match=message):
        write_shards(corpus, tmp_path / "shards", 1)


def test_shards_are_written_whole_or_not_at_all(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        assert list(folder.glob("*.tar"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asr.files.sync_folder", full)

    message = r"shards: cannot be written \(No space left on device\)$"
    with pytest.raises(ManifestError, match=message):
        write_shards(corpus, tmp_path / "shards", 1)

    assert {path.name for path in tmp_path.iterdir()} == {"audio", "corpus.jsonl"}


def test_a_folder_that_holds_something_is_refused(corpus: Path, tmp_path: Path) -> None:
    message = r"audio: is not empty \(a new folder was expected\)$"
    with pytest.raises(ManifestError, match=message):
        write_shards(corpus, tmp_path / "audio", 1)

    (tmp_path / "empty").mkdir()
    write_shards(corpus, tmp_path / "empty", 1)
    assert (tmp_path / "empty" / "manifest.jsonl").exists()


def test_what_a_killed_command_left_is_not_taken_for_its_own(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / ".shards.partial").mkdir()

    message = r"\.shards\.partial: is being written, or is left of a command that was"
    with pytest.raises(ManifestError, match=message):
        write_shards(corpus, tmp_path / "shards", 1)


def test_a_folder_that_cannot_be_made_is_reported(corpus: Path, tmp_path: Path) -> None:
    message = r"corpus\.jsonl/shards: cannot be made \(Not a directory\)$"
    with pytest.raises(ManifestError, match=message):
        write_shards(corpus, corpus / "shards", 1)


def test_hours_must_be_above_zero(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--hours must be above 0, not 0$"):
        write_shards(corpus, tmp_path / "shards", 0)


def test_the_command_prints_what_it_wrote(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"

    assert main(["data", "shard", str(corpus), str(folder), "--hours", "0.001"]) == 0

    path = folder / "manifest.jsonl"
    assert capsys.readouterr().out == f"{path}: 12 utterances, 0.00 h, in 2 shards\n"
    assert len(list(folder.glob("*.tar"))) == 2


# Damage


@pytest.fixture
def one(sharded: Path) -> Utterance:
    """The last utterance of the first shard."""
    first = [u for u in read_manifest(sharded) if "shard-000000.tar" in u.audio]
    return max(first, key=lambda u: int(u.audio.split(":")[-2]))


def shard_of(utterance: Utterance) -> Path:
    return Path(utterance.audio.rsplit(":", 2)[0])


def test_a_shard_that_is_cut_short_is_reported_before_training(
    sharded: Path, one: Utterance
) -> None:
    offset, size = map(int, one.audio.split(":")[-2:])
    os.truncate(shard_of(one), offset + size - 1)

    message = (
        rf"shard-000000\.tar.*: is damaged or cut short: {offset + size - 1} of "
        rf"{offset + size} bytes are there \(copy or download it again\)$"
    )
    with pytest.raises(AudioError, match=message):
        read_corpus([sharded])
    with pytest.raises(AudioError, match=message):
        read_waveform(one.audio)


def test_a_missing_shard_is_reported_before_training(
    sharded: Path, one: Utterance
) -> None:
    shard_of(one).unlink()

    message = r"shard-000000\.tar: cannot be read \(No such file or directory; .+ names"
    with pytest.raises(AudioError, match=message):
        read_corpus([sharded])
    with pytest.raises(AudioError, match=r"shard-000000\.tar:\d+:\d+: cannot be read"):
        read_waveform(one.audio)


@pytest.mark.parametrize("shift", [-512, 512, 1, -(10**6)])
def test_another_shard_is_not_taken_for_the_one_that_was_meant(
    one: Utterance, shift: int
) -> None:
    offset, size = map(int, one.audio.split(":")[-2:])
    with shard_of(one).open("ab") as shard:
        shard.write(bytes(2 * abs(shift)))
    moved = f"{shard_of(one)}:{max(0, offset + shift)}:{size}"

    with pytest.raises(
        AudioError, match=r"tar:\d+:\d+: no recording starts there \(th"
    ):
        read_waveform(moved)


def test_a_damaged_recording_in_a_shard_is_reported(one: Utterance) -> None:
    offset, size = map(int, one.audio.split(":")[-2:])
    with shard_of(one).open("r+b") as shard:
        shard.seek(offset)
        shard.write(bytes(size))

    with pytest.raises(AudioError, match=r"tar:\d+:\d+: is no audio that can be read"):
        read_waveform(one.audio)


def test_a_path_that_no_system_has_is_reported() -> None:
    with pytest.raises(AudioError, match=r"cannot be read \(embedded null byte\)$"):
        read_waveform("a\0b.tar:1024:10")


def test_damaged_shards_are_read_or_refused(sharded: Path) -> None:
    rng = random.Random(0)
    utterances = read_manifest(sharded)
    shards = {shard_of(u): shard_of(u).read_bytes() for u in utterances}
    for _ in range(40):
        utterance = rng.choice(utterances)
        path = shard_of(utterance)
        contents = bytearray(shards[path])
        place = int(utterance.audio.split(":")[-2]) + rng.randrange(-600, 600)
        if 0 <= place < len(contents):
            contents[place] ^= 1 << rng.randrange(8)
        path.write_bytes(contents)
        try:
            assert read_waveform(utterance.audio).isfinite().all()
        except AsrError as error:
            assert str(error).startswith(utterance.audio)  # noqa: PT017
        path.write_bytes(shards[path])


# Reading


def test_utterances_of_shards_are_those_of_the_manifest(sharded: Path) -> None:
    utterances = read_corpus([sharded])

    assert isinstance(utterances, ShardedUtterances)
    assert list(utterances) == read_manifest(sharded)
    assert list(utterances[1::5]) == read_manifest(sharded)[1::5]
    assert utterances[-1] == read_manifest(sharded)[-1]
    assert list(utterances[1::5].durations) == [u.duration for u in utterances[1::5]]


def _first_ids(utterances: ShardedUtterances, answers: Any) -> None:
    answers.put([utterance.id for utterance in utterances[:3]])


@pytest.mark.slow
def test_another_process_can_read_the_utterances(sharded: Path) -> None:
    utterances = read_corpus([sharded])
    assert isinstance(utterances, ShardedUtterances)
    context = get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_first_ids, args=(utterances, answers))

    process.start()
    process.join()

    assert answers.get() == [utterance.id for utterance in utterances[:3]]


def test_several_manifests_are_read_together(sharded: Path, tmp_path: Path) -> None:
    extra = [
        replace(utterance, id=f"other {utterance.id}", audio=utterance.audio)
        for utterance in read_manifest(sharded)
    ]
    write_manifest(tmp_path / "other.jsonl", extra)
    write_shards(tmp_path / "other.jsonl", tmp_path / "other", 1)
    other = tmp_path / "other" / "manifest.jsonl"

    utterances = read_corpus([sharded, other])

    assert isinstance(utterances, ShardedUtterances)
    assert list(utterances) == read_manifest(sharded) + read_manifest(other)
    assert len(set(utterances.shards[:12]) & set(utterances.shards[12:])) == 0


def test_plain_manifests_stay_lists(corpus: Path) -> None:
    assert read_corpus([corpus]) == read_manifest(corpus)
    assert read_corpus([]) == []


def test_plain_manifests_and_shards_do_not_mix(corpus: Path, sharded: Path) -> None:
    message = r"corpus\.jsonl: names no shards, as another manifest of data\.train does"
    with pytest.raises(ManifestError, match=message):
        read_corpus([sharded, corpus])


def test_an_utterance_in_no_shard_is_refused(sharded: Path) -> None:
    with sharded.open("a") as lines:
        lines.write('{"id": "x", "audio": "x.wav", "duration": 1, "text": ""}\n')

    message = r"manifest\.jsonl:13: x is in no shard, as the utterances before are$"
    with pytest.raises(ManifestError, match=message):
        read_corpus([sharded])


def test_an_id_that_occurs_twice_is_refused(sharded: Path) -> None:
    first = sharded.read_text().splitlines()[0]
    with sharded.open("a") as lines:
        lines.write(first + "\n")

    message = rf"manifest\.jsonl:13: {json.loads(first)['id']} is already on line 1$"
    with pytest.raises(ManifestError, match=message):
        read_corpus([sharded])


def test_a_line_that_is_none_is_refused(sharded: Path) -> None:
    with sharded.open("a") as lines:
        lines.write("{}\n")

    with pytest.raises(ManifestError, match=r"manifest\.jsonl:13: not an utterance: "):
        read_corpus([sharded])


def test_a_manifest_of_shards_in_another_encoding_is_refused(sharded: Path) -> None:
    sharded.write_bytes(sharded.read_bytes() + b'{"id": "\xe4"}\n')

    with pytest.raises(ManifestError, match=r"manifest\.jsonl: is not UTF-8 text$"):
        read_corpus([sharded])


def test_examples_of_shards_are_those_of_the_files(corpus: Path, sharded: Path) -> None:
    augmentation = Augmentation(AugmentConfig(speeds=[0.9, 1.1]), seed=3)
    ours = Dataset(read_corpus([sharded]), CharTokenizer(), augmentation)
    plain = by_id(corpus)
    moved = [plain[utterance.id] for utterance in ours.utterances]
    theirs = Dataset(moved, CharTokenizer(), augmentation)

    for index in range(len(ours)):
        assert ours.duration(index, 2) == theirs.duration(index, 2)
        assert torch.equal(ours.tokens[index], theirs.tokens[index])
        one, other = ours.example(index, 2), theirs.example(index, 2)
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.tokens, other.tokens)
    assert len(ours.tokens[:3]) == 3


def test_a_text_outside_the_alphabet_is_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(0.3), SAMPLE_RATE)
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(path), 0.3, "naïve")])
    write_shards(tmp_path / "m.jsonl", tmp_path / "shards", 1)
    utterances = read_corpus([tmp_path / "shards" / "manifest.jsonl"])

    with pytest.raises(ManifestError, match=r"^a: 'n' is not among .+alphabet=auto"):
        Dataset(utterances, CharTokenizer())


def test_a_shard_is_read_from_front_to_back_once(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = read_corpus([sharded])
    dataset = Dataset(utterances, CharTokenizer())
    reads = list[str]()
    path_open = Path.open

    def opening(path: Path, *args: object, **kwargs: object) -> object:
        if kwargs.get("buffering") == 0:
            reads.append(path.name)
        return path_open(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opening)
    for index in range(len(dataset)):
        dataset.example(index)

    assert sorted(reads) == sorted({shard_of(u).name for u in utterances})


def test_a_shard_that_disappears_is_reported(sharded: Path, one: Utterance) -> None:
    utterances = read_corpus([sharded])
    assert isinstance(utterances, ShardedUtterances)
    shard_of(one).unlink()

    message = r"shard-000000\.tar: cannot be read \(No such file or directory\)$"
    with pytest.raises(AudioError, match=message):
        utterances.read_ahead(0)


# The order


def sampler(num_shards: int, num_readers: int, size: int = 20) -> ShardSampler:
    """Shards of `size` utterances of 1 to 9 s, about two shards in a window."""
    rng = random.Random(0)
    durations = [rng.uniform(1, 9) for _ in range(num_shards * size)]
    shards = [index // size for index in range(len(durations))]
    inner = BatchSampler(lambda _: durations, 30.0, 8, seed=1, short_first=True)
    return ShardSampler(inner, shards, num_readers, window_seconds=5.0 * size)


def shards_in_turn(
    order: ShardSampler, batches: list[list[int]]
) -> Iterator[tuple[int, ...]]:
    """Yield the shards of each batch."""
    for batch in batches:
        yield tuple(sorted({order.shards[index] for index in batch}))


@pytest.mark.parametrize("num_readers", [1, 2, 3, 5, 16])
def test_each_utterance_is_in_one_batch(num_readers: int) -> None:
    order = sampler(10, num_readers)

    for epoch in (0, 1):
        batches = order.batches(epoch)
        assert sorted(i for batch in batches for i in batch) == list(range(200))


def test_batches_keep_to_their_budget() -> None:
    order = sampler(10, 2)
    durations = order.sampler.durations(0)
    for batch in order.batches(1):
        assert max(durations[i] for i in batch) * len(batch) <= 30


def test_the_order_is_a_function_of_the_epoch() -> None:
    assert sampler(10, 2).batches(3) == sampler(10, 2).batches(3)
    assert sampler(10, 2).batches(3) != sampler(10, 2).batches(4)
    assert sampler(10, 2).batches(3) != sampler(10, 1).batches(3)


def test_each_process_has_shards_of_its_own() -> None:
    order = sampler(12, 3)
    batches = order.batches(1)
    common = len(batches) * 3 // 4 // 3 * 3  # at the end they help each other

    own = [
        {s for shards in shards_in_turn(order, batches[r:common:3]) for s in shards}
        for r in range(3)
    ]

    assert all(len(shards) >= 3 for shards in own)
    assert not own[0] & own[1]
    assert not own[0] & own[2]
    assert not own[1] & own[2]


def test_a_process_leaves_a_window_before_it_begins_the_next() -> None:
    order = sampler(12, 1)
    seen = list(shards_in_turn(order, order.batches(1)))

    windows = list[set[int]]()
    for shards in seen:
        if not windows or not windows[-1] & set(shards):
            windows.append(set())
        windows[-1].update(shards)

    assert len(windows) >= 4
    assert sorted(s for window in windows for s in window) == list(range(12))
    assert any(len(window) > 1 for window in windows)


def test_shards_are_in_another_order_in_each_epoch() -> None:
    order = sampler(12, 1)
    firsts = {next(shards_in_turn(order, order.batches(epoch))) for epoch in range(6)}
    assert len(firsts) > 2


def test_only_the_first_window_of_the_first_epoch_goes_from_short_to_long() -> None:
    order = sampler(12, 1)
    durations = order.sampler.durations(0)

    def longest(epoch: int) -> list[float]:
        return [max(durations[i] for i in batch) for batch in order.batches(epoch)]

    first, second = longest(0)[:5], longest(0)[5:8]  # of two windows
    assert first == sorted(first)
    assert second != sorted(second)
    assert longest(1)[:5] != sorted(longest(1)[:5])


def test_only_shards_have_an_order_of_shards(sharded: Path) -> None:
    inner = BatchSampler(lambda _: [], 30.0, 8, seed=1, short_first=True)
    assert in_order_of_shards(inner, [], 3) is inner
    utterances = read_corpus([sharded])
    ours = in_order_of_shards(inner, utterances, 3)
    assert isinstance(ours, ShardSampler)
    assert ours.num_readers == 3


def test_blank_lines_and_a_byte_order_mark_are_no_utterances(sharded: Path) -> None:
    plain = [utterance.id for utterance in read_corpus([str(sharded)])]
    first, *rest = sharded.read_bytes().splitlines(keepends=True)

    sharded.write_bytes(b"".join([b"\xef\xbb\xbf" + first, b"\n", *rest, b" \n\n"]))
    found = read_corpus([str(sharded)])

    assert isinstance(found, ShardedUtterances)
    assert [utterance.id for utterance in found] == plain
