import csv
import gzip
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE, duration
from asr.cli import main
from asr.data.corpora.entries import Columns
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.prepare import Corpus, PrepareConfig, detect, prepare
from asr.errors import ConfigError, CorpusError

TEXTS = {"ann-1": "Go on!", "ann-2": "Grüß Gott", "bob-1": '5 o\'clock, "now"'}
ONE = {"processes": 1}


def record(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(list(path.name.encode()))
    samples = chance.normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    soundfile.write(path, samples, SAMPLE_RATE)
    return path


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Three recordings of one second."""
    for name in TEXTS:
        record(tmp_path / "corpus" / f"{name}.wav")
    return tmp_path / "corpus"


def made(source: Path | str, data: Path, **settings: Any) -> Corpus:
    return prepare(source, data, PrepareConfig(**{**ONE, **settings}))


# The same corpus in each of the formats


def as_folder(audio: Path) -> None:
    for name, text in TEXTS.items():
        (audio / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def as_listing(audio: Path) -> None:
    lines = [f"{name} {text}\n" for name, text in TEXTS.items()]
    (audio / "transcripts.txt").write_text("".join(lines), encoding="utf-8")


def as_lj_speech(audio: Path) -> None:
    lines = [f"{name}|as it was written|{text}\n" for name, text in TEXTS.items()]
    (audio / "metadata.txt").write_text("".join(lines), encoding="utf-8")


def as_csv(audio: Path) -> None:
    with (audio / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "Transcription"])
        table.writerows([f"{name}.wav", text] for name, text in TEXTS.items())


def as_tsv_of_windows(audio: Path) -> None:
    lines = ["id\tpath\tsentence\n"]
    lines += [f"{name}\t{name}\t{text}\n" for name, text in TEXTS.items()]
    content = "".join(lines).replace("\n", "\r\n").encode("cp1252")
    (audio / "all.tsv").write_bytes(content)


def as_kaldi(audio: Path) -> None:
    (audio / "wav.scp").write_text(
        "".join(f"{name} {audio / name}.wav\n" for name in TEXTS)
    )
    (audio / "text").write_text(
        "".join(f"{name} {text}\n" for name, text in TEXTS.items()), encoding="utf-8"
    )


def as_nemo(audio: Path) -> None:
    lines = [
        json.dumps(
            {"audio_filepath": f"{name}.wav", "text": text, "duration": 1.0},
            ensure_ascii=number > 0,
        )
        for number, (name, text) in enumerate(TEXTS.items())
    ]
    (audio / "manifest.json").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def as_common_voice(audio: Path) -> None:
    lines = ["client_id\tpath\tsentence\tup_votes\n"]
    for name, text in TEXTS.items():
        (audio / "clips").mkdir(exist_ok=True)
        (audio / f"{name}.wav").rename(audio / "clips" / f"{name}.wav")
        lines.append(f"\t{name}.wav\t{text}\t2\n")
    (audio / "train.tsv").write_text("".join(lines), encoding="utf-8")


def as_lhotse_by_hand(audio: Path) -> None:
    lines = [
        json.dumps(
            {
                **{"id": f"cut-{name}", "start": 0.0, "duration": 1.0, "channel": 0},
                "supervisions": [
                    {
                        **{"id": name, "recording_id": name, "text": text},
                        **{"start": 0.0, "duration": 1.0},
                    }
                ],
                "recording": {
                    **{"id": name, "sampling_rate": 16000, "num_samples": 16000},
                    **{"duration": 1.0, "channel_ids": [0]},
                    "sources": [
                        {"type": "file", "channels": [0], "source": f"{name}.wav"}
                    ],
                },
                "type": "MonoCut",
            }
        )
        for name, text in TEXTS.items()
    ]
    content = gzip.compress("\n".join(lines).encode())
    (audio / "cuts.jsonl.gz").write_bytes(content)


def as_lhotse(audio: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    recordings = [lhotse.Recording.from_file(audio / f"{name}.wav") for name in TEXTS]
    supervisions = [
        lhotse.SupervisionSegment(name, name, 0.0, 1.0, text=text)
        for name, text in TEXTS.items()
    ]
    sets = (
        lhotse.RecordingSet.from_recordings(recordings),
        lhotse.SupervisionSet.from_segments(supervisions),
    )
    lhotse.CutSet.from_manifests(*sets).to_file(audio / "cuts.jsonl.gz")


def as_lhotse_pairs(audio: Path) -> None:
    as_lhotse(audio)
    lhotse = pytest.importorskip("lhotse")
    cuts = lhotse.load_manifest(audio / "cuts.jsonl.gz")
    recordings, supervisions, _ = cuts.decompose()
    recordings.to_file(audio / "x_recordings_train.jsonl")
    supervisions.to_file(audio / "x_supervisions_train.jsonl")
    (audio / "cuts.jsonl.gz").unlink()


def dataset(rows: dict[str, list[Any]]) -> Any:
    """A dataset as the library makes it; its column `audio` is one of audio."""
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(rows)
    return made.cast_column("audio", datasets.Audio(decode=False))


def as_hugging_face(audio: Path) -> None:
    files = [{"bytes": None, "path": str(audio / f"{name}.wav")} for name in TEXTS]
    made = dataset({"audio": files, "sentence": list(TEXTS.values())})
    made.save_to_disk(audio)


def as_manifest(audio: Path) -> None:
    utterances = [
        Utterance(name, str(audio / f"{name}.wav"), 1.0, text)
        for name, text in TEXTS.items()
    ]
    write_manifest(audio / "m.jsonl", utterances)


FORMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "folder": (as_folder, "folder"),
    "listing": (as_listing, "folder"),
    "lj_speech": (as_lj_speech, "folder"),
    "csv": (as_csv, "table"),
    "tsv_of_windows": (as_tsv_of_windows, "table"),
    "kaldi": (as_kaldi, "kaldi"),
    "nemo": (as_nemo, "nemo"),
    "common_voice": (as_common_voice, "commonvoice"),
    "lhotse_by_hand": (as_lhotse_by_hand, "lhotse"),
    "lhotse": (as_lhotse, "lhotse"),
    "lhotse_pairs": (as_lhotse_pairs, "lhotse"),
    "hugging_face": (as_hugging_face, "huggingface"),
    "manifest": (as_manifest, "manifest"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_corpus_in_each_format_gives_the_same_manifest(
    form: str, audio: Path, tmp_path: Path
) -> None:
    write, format = FORMS[form]
    write(audio)
    source = audio / "m.jsonl" if form == "manifest" else audio

    corpus = made(source, tmp_path / "data")

    assert corpus.format == format
    (subset,) = corpus.subsets
    assert not subset.problems
    utterances = read_manifest(subset.path)
    assert [(u.id, u.text, u.duration, u.start) for u in utterances] == [
        (name, text, 1.0, None) for name, text in TEXTS.items()
    ]
    assert [Path(u.audio).name for u in utterances] == [f"{n}.wav" for n in TEXTS]
    for utterance in utterances:
        assert Path(utterance.audio).is_file()
    alphabet = (tmp_path / "data" / "alphabet.txt").read_text(encoding="utf-8")
    assert set(alphabet) == set("".join(TEXTS.values())) - {" "} | {"\n"}


def test_bytes_of_a_dataset_become_files(audio: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows: dict[str, list[Any]] = {
        "audio": [
            {"bytes": (audio / f"{name}.wav").read_bytes(), "path": path}
            for name, path in zip(TEXTS, ("../../a.wav", "a.wav", None), strict=True)
        ],
        "text": list(TEXTS.values()),
        "speaker_id": [1, 2, 3],
    }
    both = datasets.DatasetDict(dev=dataset(rows))
    both.save_to_disk(tmp_path / "dataset")

    (subset,) = made(tmp_path / "dataset", tmp_path / "data").subsets

    assert subset.name == "dev"
    utterances = read_manifest(subset.path)
    assert [(u.id, u.text, u.speaker) for u in utterances] == [
        ("a", TEXTS["ann-1"], "1"),
        ("dev-000001", TEXTS["ann-2"], "2"),
        ("dev-000002", TEXTS["bob-1"], "3"),
    ]
    folder = tmp_path / "data" / "audio" / "dev"
    assert {Path(u.audio).parent for u in utterances} == {folder}
    assert Path(utterances[0].audio).read_bytes() == (audio / "ann-1.wav").read_bytes()


# Parts of long recordings


def segments_of_kaldi(audio: Path) -> None:
    as_kaldi(audio)
    record(audio / "long.wav", 6.0)
    (audio / "wav.scp").write_text(f"long {audio / 'long.wav'}\n")
    (audio / "segments").write_text("ann-1 long 0 1.5\nann-2 long 2 3\nbob-1 long 4 -1")


def offsets_of_nemo(audio: Path) -> None:
    record(audio / "long.wav", 6.0)
    lines = [
        json.dumps(
            {
                **{"audio_filepath": "long.wav", "text": text, "id": name},
                **{"offset": start, "duration": seconds},
            }
        )
        for (name, text), start, seconds in zip(
            TEXTS.items(), (0, 2, 4), (1.5, 1, 2), strict=True
        )
    ]
    (audio / "m.json").write_text("\n".join(lines))


def cuts_of_lhotse(audio: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    record(audio / "long.wav", 6.0)
    recording = lhotse.Recording.from_file(audio / "long.wav")
    supervisions = [
        lhotse.SupervisionSegment(name, "long", start, seconds, text=text)
        for (name, text), start, seconds in zip(
            TEXTS.items(), (0, 2, 4), (1.5, 1, 2), strict=True
        )
    ]
    cut = recording.to_cut()
    cut.supervisions = supervisions
    lhotse.CutSet.from_cuts([cut]).trim_to_supervisions().to_file(
        audio / "dev_cuts.jsonl"
    )


def rows_with_times(audio: Path) -> None:
    record(audio / "long.wav", 6.0)
    rows = zip(TEXTS.items(), (0, 2, 4), ("1,5", "3", "6"), strict=True)
    lines = [f"{n}\tlong\t{start}\t{end}\t{text}" for (n, text), start, end in rows]
    content = "\n".join(["id\taudio\tstart\tend\ttext", *lines])
    (audio / "t.tsv").write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    "write", [segments_of_kaldi, offsets_of_nemo, cuts_of_lhotse, rows_with_times]
)
def test_parts_have_their_start(
    write: Callable[[Path], None], audio: Path, tmp_path: Path
) -> None:
    write(audio)

    (subset,) = made(audio, tmp_path / "data").subsets

    assert [
        (u.id, u.start, u.duration, Path(u.audio).name)
        for u in read_manifest(subset.path)
    ] == [
        ("ann-1", 0.0, 1.5, "long.wav"),
        ("ann-2", 2.0, 1.0, "long.wav"),
        ("bob-1", 4.0, 2.0, "long.wav"),
    ]
    assert not subset.problems


def test_parts_without_an_id_are_named_by_their_time(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", 6.0)
    lines = [
        json.dumps(
            {"audio_filepath": "long.wav", "text": "go", "offset": x, "duration": 1}
        )
        for x in (0.5, 2)
    ]
    (tmp_path / "m.json").write_text("\n".join(lines))

    (subset,) = made(tmp_path / "m.json", tmp_path / "data").subsets

    assert [u.id for u in subset.utterances] == ["long-00000500", "long-00002000"]


def test_silence_at_both_ends_is_left_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    samples = np.concatenate([np.zeros(16_000), noise, np.zeros(8_000)])
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE)
    (tmp_path / "a.txt").write_text("go")

    (subset,) = made(tmp_path, tmp_path / "data", trim=40.0).subsets

    (utterance,) = subset.utterances
    assert utterance.start == pytest.approx(0.9, abs=0.05)
    assert utterance.duration == pytest.approx(1.2, abs=0.1)


# What is wrong with single utterances


def problems(audio: Path, data: Path, **settings: Any) -> list[str]:
    (subset,) = made(audio, data, **settings).subsets
    if not subset.listing.exists():
        return []
    lines = subset.listing.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(subset.problems)
    return [line.replace(str(audio), "…") for line in lines]


def test_each_kind_of_problem_is_listed(audio: Path, tmp_path: Path) -> None:
    as_folder(audio)
    record(audio / "alone.wav")
    record(audio / "silent.wav")
    (audio / "silent.txt").write_text(" \n")
    record(audio / "long.wav", 41.0)
    (audio / "long.txt").write_text("go")
    record(audio / "dense.wav", 0.1)
    (audio / "dense.txt").write_text("go on")
    (audio / "bad.wav").write_bytes(b"no audio at all")
    (audio / "bad.txt").write_text("go")
    (audio / "twin.wav").write_bytes((audio / "ann-1.wav").read_bytes())
    (audio / "twin.txt").write_text("go")
    (audio / "._ann-1.wav").write_bytes(b"left behind by a Mac")
    (audio / "lost.txt").write_text("go")

    listed = problems(audio, tmp_path / "data")

    assert listed == [
        "audio without text: …/alone.wav: has no text",
        "duplicate: …/twin.wav: is the same recording as …/ann-1.wav",
        "empty text: …/silent.wav: silent has no words",
        "text without audio: …/lost.txt: no recording has its name",
        "too dense for CTC, kept: …/dense.wav: needs 5 steps, has 2",
        "too long: …/long.wav: long is 41.0 s long",
        "unreadable audio: …/bad.wav: is no audio that can be read (wav, flac, ogg "
        "vorbis, opus, mp3 and aiff can be read)",
    ]


def test_a_text_outside_the_alphabet_is_left_out(audio: Path, tmp_path: Path) -> None:
    as_folder(audio)
    letters = tmp_path / "letters.txt"
    letters.write_text("abcdefghijklmnopqrstuvwxyz'5")

    listed = problems(
        audio, tmp_path / "data", alphabet=str(letters), normalize="plain"
    )

    assert listed == ["text outside the alphabet: …/ann-2.wav: ann-2 has üß"]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("english", ["GO ON", "GRUSS GOTT", "FIVE O'CLOCK NOW"]),
        ("lower", ["go on!", "grüß gott", '5 o\'clock, "now"']),
        ("upper", ["GO ON!", "GRÜSS GOTT", '5 O\'CLOCK, "NOW"']),
        ("plain", ["go on", "grüß gott", "5 o'clock now"]),
    ],
)
def test_texts_are_spelled_as_asked(
    name: str, texts: list[str], audio: Path, tmp_path: Path
) -> None:
    as_folder(audio)

    (subset,) = made(audio, tmp_path / "data", normalize=name).subsets

    assert [u.text for u in read_manifest(subset.path)] == texts


def test_a_part_that_ends_after_its_recording_is_listed(
    audio: Path, tmp_path: Path
) -> None:
    segments_of_kaldi(audio)
    (audio / "segments").write_text("ann-1 long 5 6.05\nann-2 long 5 7\nbob-1 long 7 8")

    listed = problems(audio, tmp_path / "data")

    assert listed == [
        "ends after its recording: …/long.wav: ann-2 ends at 7.00 s, its recording at "
        "6.00 s",
        "ends after its recording: …/long.wav: bob-1 ends at 8.00 s, its recording at "
        "6.00 s",
    ]


def test_a_command_in_kaldis_folder_is_never_run(audio: Path, tmp_path: Path) -> None:
    as_kaldi(audio)
    witness = tmp_path / "witness"
    with (audio / "wav.scp").open("a") as scp:
        scp.write(f"evil touch {witness} |\nnone {audio}/none.wav\n")
    with (audio / "text").open("a") as text:
        text.write("evil go\nnone go\nann-1 again\nlost go\n")
    (audio / "utt2spk").write_text("ann-1 ann\nann-2\n")

    listed = problems(audio, tmp_path / "data")

    assert not witness.exists()
    assert listed == [
        "duplicate: …/text:6: ann-1 is there already",
        "malformed line: …/utt2spk:2: ann-2 has nothing behind it",
        "text without audio: …/none.wav: cannot be read (No such file or directory)",
        "text without audio: …: evil has no audio",
        "text without audio: …: lost has no audio",
        "unreadable audio: …/wav.scp: evil is a command, which is not run",
    ]
    speakers = {u.id: u.speaker for u in read_manifest(tmp_path / "data" / "all.jsonl")}
    assert speakers == {"ann-1": "ann", "ann-2": "", "bob-1": ""}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "is nested deeper than 32 times"),
        ("[1]", "a JSON object was expected"),
        ('{"text": "go"}', "has no audio_filepath"),
        ('{"audio_filepath": "a.wav"}', "has no text"),
        ('{"audio_filepath": "a.wav", "text": "", "offset": "0"}', "has no offset"),
        ('{"audio_filepath": "a.wav", "text": "", "offset": -1}', "has offset -1, not"),
    ],
)
def test_a_bad_line_of_json_is_listed(
    line: str, message: str, audio: Path, tmp_path: Path
) -> None:
    as_nemo(audio)
    path = audio / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")

    (listed,) = problems(audio, tmp_path / "data")

    assert listed.startswith(f"malformed line: …/manifest.json:5: {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "command", "source": "touch x"}, "has its audio from command"),
        ({"type": "url", "source": "http://x"}, "has its audio from url"),
    ],
)
def test_audio_of_lhotse_that_is_no_file_is_listed(
    source: dict[str, str], message: str, audio: Path, tmp_path: Path
) -> None:
    as_lhotse_by_hand(audio)
    path = audio / "cuts.jsonl.gz"
    first, *others = gzip.decompress(path.read_bytes()).decode().split("\n")
    cut = json.loads(first)
    cut["recording"]["sources"] = [{"channels": [0], **source}]
    path.write_bytes(gzip.compress("\n".join([json.dumps(cut), *others]).encode()))

    (listed,) = problems(audio, tmp_path / "data")

    assert listed.startswith(f"malformed line: …/cuts.jsonl.gz:1: {message}")


def test_bad_rows_of_a_table_are_listed(audio: Path, tmp_path: Path) -> None:
    rows_with_times(audio)
    with (audio / "t.tsv").open("a", encoding="utf-8") as table:
        table.write("\nx\tlong\tsoon\t3\tgo\ny\tlong\t3\t2\tgo\nz\tlong\nw\t\t1\t2\tgo")

    listed = problems(audio, tmp_path / "data")

    assert [line.partition("t.tsv:")[2] for line in listed] == [
        "5: has a time 'soon' (seconds were expected)",
        "6: ends before it starts, at 3 s",
        "7: has 2 columns, not 3 or more",
        "8: names no audio",
    ]


def test_lines_of_a_listing_without_a_recording_are_listed(
    audio: Path, tmp_path: Path
) -> None:
    as_listing(audio)
    (audio / "README.txt").write_text("Recorded by Ann and Bob.\n")
    with (audio / "transcripts.txt").open("a") as file:
        file.write("none go\nann-1.wav again\n")

    listed = problems(audio, tmp_path / "data")

    assert listed == [
        "duplicate: …/transcripts.txt:5: 'ann-1.wav' has a text already",
        "text without audio: …/transcripts.txt:4: 'none' is no recording here",
    ]


# Folders in a folder


def test_recordings_in_folders_are_of_a_speaker_each(tmp_path: Path) -> None:
    for name in ("ann/x.wav", "bob/x.wav"):
        path = record(tmp_path / "c" / name)
        chance = np.random.default_rng(list(name.encode())).normal(0, 0.1, 16_000)
        soundfile.write(path, chance, SAMPLE_RATE)
    (tmp_path / "c" / "all.txt").write_text("ann/x go\nbob/x.wav on\n")

    (subset,) = made(tmp_path / "c", tmp_path / "data").subsets

    assert [(u.id, u.speaker, u.text) for u in subset.utterances] == [
        ("ann-x", "ann", "go"),
        ("bob-x", "bob", "on"),
    ]


def test_a_name_that_several_recordings_have_is_listed(tmp_path: Path) -> None:
    for name in ("ann/x.wav", "bob/x.wav", "bob/y.wav"):
        record(tmp_path / "c" / name)
    (tmp_path / "c" / "all.txt").write_text("x go\ny on\n")

    listed = problems(tmp_path / "c", tmp_path / "data")

    assert (
        "malformed line: …/all.txt:1: 'x' is several recordings (name its" in listed[-1]
    )


# Tables


def test_what_was_guessed_of_a_table_is_said(audio: Path, tmp_path: Path) -> None:
    as_tsv_of_windows(audio)

    (notice,) = made(audio, tmp_path / "data").notices

    assert notice == (
        f"{audio / 'all.tsv'}: cp1252 (a guess), tab between columns, no quotes; "
        "audio: path, text: sentence, speaker: none"
    )


def test_a_table_without_a_header_has_audio_first_and_text_last(
    audio: Path, tmp_path: Path
) -> None:
    lines = [f"{name};x;{text}" for name, text in TEXTS.items()]
    (audio / "t.csv").write_text("\n".join(lines), encoding="utf-16")

    corpus = made(audio / "t.csv", tmp_path / "data")

    assert [u.text for u in corpus.subsets[0].utterances] == list(TEXTS.values())
    assert "utf-16, semicolon between" in corpus.notices[0]


def test_columns_can_be_named(audio: Path, tmp_path: Path) -> None:
    lines = ["Datei,Wer,Was", *(f"{name},Ann,{i} x" for i, name in enumerate(TEXTS))]
    (audio / "t.csv").write_text("\n".join(lines))

    with pytest.raises(CorpusError, match=r"columns are audio and text\? It has Datei"):
        made(audio, tmp_path / "data")
    columns = Columns("datei", "Was", "Wer")
    (subset,) = made(audio, tmp_path / "data", columns=columns).subsets

    assert {u.speaker for u in subset.utterances} == {"Ann"}
    with pytest.raises(CorpusError, match=r"has no column wo \(it has Datei, Wer, Was"):
        made(audio, tmp_path / "data", columns=Columns("wo", "Was"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"audio\na.wav\n", "has one column only"),
        (b"\x00\x01\xff", "is no text"),
        (b'audio,text\na,"' + b"x" * 2**25, "is no table"),
    ],
)
def test_what_is_no_table_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes(content)

    with pytest.raises(CorpusError, match=f"t.csv: {message}"):
        made(tmp_path / "t.csv", tmp_path / "data")


# Splits, and going on


def test_a_corpus_is_split(audio: Path, tmp_path: Path) -> None:
    for number in range(20):
        record(audio / f"s{number}" / "x.wav")
        chance = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(audio / f"s{number}" / "x.wav", chance, SAMPLE_RATE)
        (audio / f"s{number}" / "x.txt").write_text(f"go {number}")

    corpus = made(audio, tmp_path / "data", split=(80.0, 10.0, 10.0))

    assert [s.name for s in corpus.subsets] == ["train", "dev", "test"]
    assert [len(s.utterances) for s in corpus.subsets] == [16, 2, 2]
    listing = (tmp_path / "data" / "train.problems.txt").read_text()
    assert listing.count("audio without text") == 3


def test_a_stopped_preparation_goes_on(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_folder(audio)
    read = list[str]()
    monkeypatch.setattr("asr.data.measuring._AT_ONCE", 1)

    def count_and_stop(path: str) -> float:
        read.append(Path(path).name)
        if len(read) == 2:
            raise KeyboardInterrupt
        return duration(path)

    monkeypatch.setattr("asr.data.measuring.duration", count_and_stop)
    with pytest.raises(KeyboardInterrupt):
        made(audio, tmp_path / "data")
    journal = tmp_path / "data" / ".prepare.journal"
    journal.write_bytes(journal.read_bytes() + b'{"key": "torn')

    made(audio, tmp_path / "data")

    assert read == ["ann-1.wav", "ann-2.wav", "ann-2.wav", "bob-1.wav"]
    assert not journal.exists()


@pytest.mark.slow
def test_several_processes_give_the_same_as_one(audio: Path, tmp_path: Path) -> None:
    as_folder(audio)

    made(audio, tmp_path / "one")
    made(audio, tmp_path / "two", processes=2)

    one, two = (tmp_path / n / "all.jsonl" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


# What is wrong with the corpus


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: does not exist"),
        ("empty", r"empty: holds no recording \(wav, flac"),
        ("x.txt", "x.txt: is no corpus that is known"),
    ],
)
def test_what_is_no_corpus_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("x")

    with pytest.raises(CorpusError, match=message):
        made(tmp_path / name, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_recordings_without_any_text_are_refused(audio: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds 3 recordings and no text of them"):
        made(audio, tmp_path / "data")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "xml"}, "--format xml: is not known"),
        ({"normalize": "loud"}, "--normalize loud"),
        ({"split_by": "mood"}, "--split-by mood: use speaker or text"),
        ({"trim": -1.0}, "--trim must be above 0, not -1"),
        ({"most_seconds": float("nan")}, "--max-seconds must be above 0, not nan"),
        ({"processes": 0}, "--processes must be above 0"),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(**settings)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("kaldi", "holds no wav.scp"),
        ("nemo", "holds no manifest of NeMo"),
        ("lhotse", "holds no cuts and no supervisions"),
        ("table", "holds no table"),
        ("commonvoice", "holds none of train.tsv, dev.tsv and test.tsv"),
        ("librispeech", "holds no subset"),
    ],
)
def test_another_format_than_there_is_is_refused(
    format: str, message: str, audio: Path, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=message):
        made(audio, tmp_path / "data", format=format)


def test_subsets_of_a_corpus_that_has_none_are_refused(
    audio: Path, tmp_path: Path
) -> None:
    as_folder(audio)
    with pytest.raises(ConfigError, match="--subsets: a corpus of format folder"):
        made(audio, tmp_path / "data", subsets=("train",))


def test_librispeechs_layout_needs_no_known_subset(tmp_path: Path) -> None:
    chapter = tmp_path / "mine" / "84" / "9"
    record(chapter / "84-9-0.wav")
    (chapter / "84-9.trans.txt").write_text("\ufeff84-9-0 GO ON\n", encoding="utf-8")

    assert detect(tmp_path / "mine") == "librispeech"
    (subset,) = made(tmp_path / "mine", tmp_path / "data").subsets

    assert [(u.id, u.text, u.speaker) for u in subset.utterances] == [
        ("84-9-0", "GO ON", "84")
    ]


# The command


def test_the_command_shows_what_was_written_and_what_comes_next(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_folder(audio)
    record(audio / "alone.wav")
    data = tmp_path / "data"

    assert main(["prepare", str(audio), str(data), "--processes", "1"]) == 0

    out, err = capsys.readouterr()
    assert err == f"asr: {data}/all.problems.txt: 1 x audio without text\n"
    assert "          3     0.00         -\n" in out
    assert "format: folder; characters: ␣!\"',5G" in out
    assert out.endswith(f"next: asr data info {data}/all.jsonl\n")


def test_the_command_names_a_text_whose_encoding_is_a_guess(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_folder(audio)
    (audio / "ann-2.txt").write_bytes("Grüß Gott".encode("cp1252"))

    main(["prepare", str(audio), str(tmp_path / "data"), "--processes", "1"])

    err = capsys.readouterr().err
    assert err == f"asr: {audio}/ann-2.txt: cp1252 (a guess)\n"


def test_the_next_command_can_be_typed_as_it_stands(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_folder(audio)
    data = tmp_path / "my data"

    assert main(["prepare", str(audio), str(data), "--processes", "1"]) == 0

    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == ["next:", "asr", "data", "info", f"{data}/all.jsonl"]


def test_the_command_offers_english(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "a.wav")
    record(tmp_path / "b.wav")
    (tmp_path / "all.txt").write_text("a Go on!\nb Go back!\n")
    command = ["prepare", str(tmp_path), str(tmp_path / "data"), "--processes", "1"]

    main([*command, "--split", "50:50"])
    as_it_stands = capsys.readouterr().out
    main([*command, "--split", "50:50", "--normalize", "english"])
    english = capsys.readouterr().out

    assert "--normalize english brings the texts there" in as_it_stands
    assert "--normalize" not in english
    assert english.endswith(f"next: asr adapt bundled {tmp_path / 'data'} RUN\n")
