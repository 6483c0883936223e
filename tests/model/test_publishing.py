"""`asr push`: what is checked, what is uploaded, and that it can be loaded again."""

import json
import re
from pathlib import Path

import pytest
import yaml

from asr.cli import main
from asr.errors import CheckpointError
from asr.model.export import export
from asr.model.hub import is_on_hub
from asr.model.publishing import README, publish
from asr.model.storage import CARD, DESCRIPTION, WEIGHTS, find_model, load_model
from tests.fake_hub import Hub, go_offline

# Of httpx2, about how huggingface_hub 2.4 uploads to Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CARD_TEXT = """# It

| | |
|---|---|
| Language | de, fr |
| Licence | CC BY 4.0; the recordings are CC0 |
"""
NAME = "hf:ann/las-german"


@pytest.fixture(autouse=True)
def _token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be logged in."""
    monkeypatch.setenv("HF_TOKEN", hub.token)


@pytest.fixture
def folder(model_folder: Path) -> Path:
    """A model whose card is filled in."""
    (model_folder / CARD).write_text(CARD_TEXT)
    return model_folder


def head_of(card: bytes) -> dict[str, object]:
    """Read the metadata of a card on the Hub."""
    found = yaml.safe_load(card.decode().split("---\n")[1])
    assert isinstance(found, dict)
    return found


# A round trip


def test_what_is_pushed_can_be_loaded_by_its_name(hub: Hub, folder: Path) -> None:
    published = publish(folder, NAME)

    assert published.url == f"{hub.url}/ann/las-german"
    assert published.name == f"{NAME}@{hub.repositories['ann/las-german'].refs['main']}"
    found, there = load_model(find_model(published.name)), load_model(folder)
    weights = there.las.state_dict()
    assert all(
        bool((weight == weights[name]).all())
        for name, weight in found.las.state_dict().items()
    )
    copy = find_model(published.name)
    for file in (DESCRIPTION, WEIGHTS, CARD):
        assert (copy / file).read_bytes() == (folder / file).read_bytes()


def test_the_bundled_model_makes_the_journey_by_the_command_line(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = "asr/assets/sample.opus"
    search = ["--beam-size", "1", "--lm-weight", "0", "--clip", ":2"]

    assert main(["push", "las_mini", NAME, "--message", "The first"]) == 0
    url, name = capsys.readouterr().out.splitlines()
    assert main(["transcribe", sample, *search]) == 0
    expected = capsys.readouterr().out
    assert main(["transcribe", sample, *search, "--model", NAME]) == 0
    found = capsys.readouterr().out
    go_offline(hub, monkeypatch, "no network")
    assert main(["transcribe", sample, *search, "--model", name]) == 0

    assert url == f"{hub.url}/ann/las-german"
    assert re.fullmatch(f"{NAME}@[0-9a-f]{{40}}", name)
    assert expected.strip()
    assert found == expected == capsys.readouterr().out
    assert [upload["summary"] for upload in hub.uploads] == ["The first"]
    assert hub.objects  # its weights went by Git LFS


def test_a_model_of_the_hub_is_exported_and_pushed_again(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    name = publish(folder, NAME).name

    export(name, tmp_path / "copy")
    again = publish(name, "hf:bob/copy").name

    assert (tmp_path / "copy" / CARD).read_text() == CARD_TEXT
    assert load_model(find_model(again)).metadata == load_model(folder).metadata


def test_a_second_push_is_a_second_commit(hub: Hub, folder: Path) -> None:
    first = publish(folder, NAME).name
    (folder / CARD).write_text(f"{CARD_TEXT}\nMore.\n")

    second = publish(folder, NAME).name

    assert first != second
    assert (find_model(first) / CARD).read_text() == CARD_TEXT
    assert (find_model(second) / CARD).read_text() == f"{CARD_TEXT}\nMore.\n"


# The repository


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_if_that_is_asked_for(
    hub: Hub, folder: Path, private: bool
) -> None:
    publish(folder, NAME, private=private)

    assert hub.repositories["ann/las-german"].private is private


def test_a_public_repository_does_not_pass_for_a_private_one(
    hub: Hub, folder: Path
) -> None:
    publish(folder, NAME)

    with pytest.raises(CheckpointError, match=rf"^{NAME}: is public \(make it private"):
        publish(folder, NAME, private=True)
    assert len(hub.uploads) == 1


def test_a_repository_of_something_else_is_left_alone(hub: Hub, folder: Path) -> None:
    hub.add("ann/las-german", {"README.md": b"#", "config.json": b"{}"})

    with pytest.raises(CheckpointError, match=r"holds other things .*config\.json for"):
        publish(folder, NAME)
    assert hub.uploads == []


def test_an_empty_repository_is_filled(hub: Hub, folder: Path) -> None:
    hub.add("ann/las-german", {".gitattributes": b"", "README.md": b"# Mine"})

    publish(folder, NAME)

    commit = hub.repositories["ann/las-german"].refs["main"]
    assert WEIGHTS in hub.repositories["ann/las-german"].commits[commit]


def test_nobody_pushes_without_a_token(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    with pytest.raises(
        CheckpointError, match=r"refuses that, with status 401 \(log in"
    ):
        publish(folder, NAME)
    assert hub.repositories == {}


def test_a_wrong_token_is_not_printed(
    hub: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")

    assert main(["push", str(folder), NAME]) == 1

    printed = capsys.readouterr()
    assert printed.err.startswith(f"asr: {NAME}: ")
    assert printed.err.count("\n") == 1
    assert "hf_wrong_one" not in printed.err + printed.out


def test_without_the_hub_nothing_is_pushed(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(hub, monkeypatch, "no network")

    with pytest.raises(CheckpointError, match=f"^{NAME}: the Hub cannot be reached"):
        publish(folder, NAME)


def test_an_upload_that_fails_is_one_line_and_no_commit(hub: Hub, folder: Path) -> None:
    hub.refuses_objects = True

    with pytest.raises(
        CheckpointError,
        match=rf"^{NAME}: failed on the Hub \(Error while uploading .*: .*403",
    ):
        publish(folder, NAME)
    assert hub.uploads == []


@pytest.mark.parametrize("name", ["ann/las", "hf:ann", "my-model"])
def test_only_to_the_hub_is_pushed(hub: Hub, folder: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="is no name on the Hub"):
        publish(folder, name)


def test_a_revision_cannot_be_pushed_to(hub: Hub, folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=rf"^{NAME}@v1: names a revision \(models"
    ):
        publish(folder, f"{NAME}@v1")


def test_the_hub_is_no_folder_to_export_into(folder: Path) -> None:
    assert is_on_hub(Path(NAME))
    with pytest.raises(
        CheckpointError, match=f"is on the Hub .*asr push FOLDER {NAME}"
    ):
        export(folder, Path(NAME))


# What is checked before


def test_a_damaged_model_is_not_pushed(hub: Hub, folder: Path) -> None:
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS).write_bytes(weights)

    with pytest.raises(CheckpointError, match="checksum is another"):
        publish(folder, NAME)
    assert hub.requests == []


def test_a_model_that_does_not_fit_its_description_is_not_pushed(
    hub: Hub, folder: Path
) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    description["las"]["listener"]["size"] += 1
    (folder / DESCRIPTION).write_text(json.dumps(description))

    with pytest.raises(CheckpointError, match=f"does not fit {DESCRIPTION}"):
        publish(folder, NAME)
    assert hub.requests == []


def test_a_model_without_a_card_is_not_pushed(hub: Hub, folder: Path) -> None:
    (folder / CARD).unlink()

    with pytest.raises(
        CheckpointError, match=rf"{CARD}: cannot be read \(a model is pu"
    ):
        publish(folder, NAME)
    assert hub.requests == []


def test_a_card_with_gaps_is_not_pushed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (folder / CARD).unlink()
    exported = export(folder, tmp_path / "exported").folder

    with pytest.raises(CheckpointError, match=rf"{CARD}:\d+: is still to be filled in"):
        publish(exported, NAME)
    assert hub.requests == []


@pytest.mark.parametrize(
    "line",
    [
        *("train: [/home/ann/data/train.jsonl]", "see /mnt/corpus", "`/tmp/x.wav`"),
        *('"/Users/ann/run"', r"C:\Users\ann", "(/data/a_b/c-d)", "at=/root/x"),
    ],
)
def test_paths_of_this_machine_are_not_published(
    hub: Hub, folder: Path, line: str
) -> None:
    (folder / CARD).write_text(f"{CARD_TEXT}\n{line}\n")

    with pytest.raises(
        CheckpointError, match=rf"{CARD}:8: names .*a path of this mach"
    ):
        publish(folder, NAME)
    assert hub.requests == []


@pytest.mark.parametrize(
    "line",
    [
        *("https://example.org/a/b", "and/or/else", "../../../recipes/x", "n/a", "1/2"),
        *("~/.cache/x/y", "exp/run/model", "km/h, m/s", "</td></tr>", "9/10 of /s/"),
    ],
)
def test_other_slashes_are_published(hub: Hub, folder: Path, line: str) -> None:
    (folder / CARD).write_text(f"{CARD_TEXT}\n{line}\n")

    publish(folder, NAME)


# The card


def test_the_card_gets_the_head_that_the_hub_knows(hub: Hub, folder: Path) -> None:
    published = publish(folder, NAME)

    commit = published.name.partition("@")[2]
    card = hub.repositories["ann/las-german"].commits[commit][README]
    assert head_of(card) == {
        "license": "cc-by-4.0",
        "language": ["de", "fr"],
        "library_name": "listen-attend-spell",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["automatic-speech-recognition", "listen-attend-spell"],
    }
    assert card.decode().endswith(f"---\n\n{CARD_TEXT}")
    assert published.notes == []


@pytest.mark.parametrize(
    ("cell", "known"),
    [
        *(("Apache 2.0; LibriSpeech is CC BY 4.0", "apache-2.0"), ("MIT", "mit")),
        *(("cc0-1.0", "cc0-1.0"), ("CC BY-SA 4.0 (as the data)", "cc-by-sa-4.0")),
        *(("ours", "other"), ("", "other")),
    ],
)
def test_a_licence_is_one_of_the_hub_or_another(
    hub: Hub, folder: Path, cell: str, known: str
) -> None:
    (folder / CARD).write_text(f"| Licence | {cell} |\n| Language | en |\n")

    published = publish(folder, NAME)

    files = hub.repositories["ann/las-german"].commits[published.name.split("@")[1]]
    assert head_of(files[README])["license"] == known
    assert [note for note in published.notes if "licence" in note] == (
        ["its licence is 'other': row Licence of MODEL_CARD.md has no known name"]
        if known == "other"
        else []
    )


@pytest.mark.parametrize("cell", ["English", "", "en and de", "e"])
def test_a_language_without_a_code_stays_open(
    hub: Hub, folder: Path, cell: str
) -> None:
    (folder / CARD).write_text(f"| Licence | MIT |\n| Language | {cell} |\n")

    published = publish(folder, NAME)

    files = hub.repositories["ann/las-german"].commits[published.name.split("@")[1]]
    assert "language" not in head_of(files[README])
    (note,) = published.notes
    assert note.startswith("its language is open")


def test_a_card_with_a_head_keeps_it(hub: Hub, folder: Path) -> None:
    (folder / CARD).write_text("---\nlicense: mit\n---\n# Mine\n")

    published = publish(folder, NAME)

    files = hub.repositories["ann/las-german"].commits[published.name.split("@")[1]]
    assert files[README] == files[CARD]
    assert published.notes == []


def test_the_bundled_card_lacks_nothing(hub: Hub) -> None:
    assert publish(None, NAME).notes == []
