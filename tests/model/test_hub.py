"""Models on the Hugging Face Hub: fetched, and fetched again without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr.errors import CheckpointError
from asr.model import hub as door
from asr.model.storage import (
    CARD,
    DESCRIPTION,
    WEIGHTS,
    add_further,
    find_model,
    find_model_to_change,
    load_model,
    pinned_model,
)
from tests.fake_hub import Hub, Repository, forget, go_offline

NAME = "hf:ann/las-german"


@pytest.fixture
def repository(hub: Hub, model_folder: Path) -> Repository:
    """One with a model, whose card is there, too, and something else."""
    add_further(model_folder, "decoding.json", b"{}")
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    return hub.add("ann/las-german", {**files, CARD: b"# It", "big.bin": b"no" * 99})


ways_to_be_offline = pytest.mark.parametrize(
    "how", ["no network", "HF_HUB_OFFLINE", "out of order"]
)

# Fetching


def test_a_model_comes_as_it_is_there(
    repository: Repository, model_folder: Path
) -> None:
    found, there = load_model(find_model(NAME)), load_model(model_folder)

    assert found.metadata == there.metadata
    assert found.tokenizer.to_dict() == there.tokenizer.to_dict()
    weights = there.las.state_dict()
    assert all(
        bool((weight == weights[name]).all())
        for name, weight in found.las.state_dict().items()
    )


def test_only_the_files_of_the_model_are_fetched(repository: Repository) -> None:
    folder = find_model(NAME)

    names = {path.name for path in folder.iterdir()}
    assert names == {DESCRIPTION, WEIGHTS, "decoding.json", CARD}


def test_the_commit_is_named_once_so_that_it_can_be_written_down(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    commit = repository.refs["main"]

    folders = {find_model(NAME), find_model(Path(NAME))}

    assert {folder.name for folder in folders} == {commit}
    assert [record.getMessage() for record in caplog.records] == [
        f"asr: {NAME} is {NAME}@{commit} now (a name with its commit stays the same)"
    ]


def test_a_commit_that_is_in_the_cache_needs_no_request(
    hub: Hub, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    pinned = f"{NAME}@{repository.refs['main']}"
    find_model(pinned)
    hub.requests.clear()

    find_model(pinned)

    assert hub.requests == []
    assert caplog.records == []


def test_a_name_stays_the_same_commit_for_a_process(
    repository: Repository, model_folder: Path
) -> None:
    before = find_model(NAME)
    after = repository.commit({CARD: b"# Another"})

    assert find_model(NAME) == before
    forget()
    assert find_model(NAME).name == after


def test_tags_and_branches_are_revisions(repository: Repository) -> None:
    first = repository.refs["main"]
    repository.refs |= {"v1.0": first, "own/branch": first}
    repository.commit({CARD: b"# Another"})

    for revision in ("v1.0", "own/branch", first):
        assert find_model(f"{NAME}@{revision}").name == first
    assert find_model(NAME).name != first


def test_other_processes_get_the_commit(
    repository: Repository, model_folder: Path
) -> None:
    assert pinned_model(NAME) == f"{NAME}@{repository.refs['main']}"
    assert pinned_model(model_folder) == model_folder
    assert pinned_model(None) is None


def test_a_private_model_comes_with_a_token(
    hub: Hub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.private = True
    monkeypatch.setenv("HF_TOKEN", hub.token)

    assert find_model(NAME).name == repository.refs["main"]


# Without the Hub


@ways_to_be_offline
def test_without_the_hub_the_cache_is_used_with_a_line(
    hub: Hub,
    repository: Repository,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = find_model(NAME)
    forget()
    caplog.clear()
    go_offline(hub, monkeypatch, how)

    assert find_model(NAME) == folder
    (record,) = caplog.records
    assert record.getMessage().startswith(f"asr: {NAME}: the Hub cannot be reached (")
    assert record.getMessage().endswith(f": {folder.name} of the cache is used")
    load_model(folder)


@ways_to_be_offline
def test_without_the_hub_and_the_cache_there_is_no_model(
    hub: Hub, repository: Repository, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(hub, monkeypatch, how)

    with pytest.raises(
        CheckpointError, match=f"^{NAME}: the Hub cannot be reached .*not in the cache"
    ):
        find_model(NAME)


@pytest.mark.parametrize("lost", [DESCRIPTION, WEIGHTS, "decoding.json"])
def test_a_commit_of_which_a_file_is_missing_is_fetched_again(
    lost: str, repository: Repository
) -> None:
    pinned = f"{NAME}@{repository.refs['main']}"
    (find_model(pinned) / lost).unlink()

    load_model(find_model(pinned))


# What is wrong


@pytest.mark.parametrize(
    "name",
    [
        *("hf:", "hf:ann", "hf:ann/", "hf:/x", "hf://ann/x", "hf:ann/x/y", "hf:ann/x@"),
        *("hf:ann/x@../../y", "hf:a nn/x", "hf:ann/x@a b", "hf:../x", "hf:ann/x@-r"),
        *("hf:ann/x\n", "hf:änn/x", "hf:ann/x@v1\0"),
    ],
)
def test_a_name_that_none_can_have_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"is no name on the Hub \(hf:USER/NAME@"):
        find_model(name)


def test_names_that_the_library_refuses_are_refused(hub: Hub) -> None:
    with pytest.raises(
        CheckpointError, match=r"hf:ann/a--b: failed on the Hub \(Cannot"
    ):
        find_model("hf:ann/a--b")


@pytest.mark.parametrize("private", [True, False])
def test_unknown_and_private_repositories_look_the_same(
    private: bool, repository: Repository
) -> None:
    repository.private = private
    name = NAME if private else "hf:ann/other"

    with pytest.raises(
        CheckpointError, match=f"^{name}: there is no such repository, or it is private"
    ):
        find_model(name)


def test_an_unknown_revision_is_refused(repository: Repository) -> None:
    with pytest.raises(CheckpointError, match=f"^{NAME}@v9: there is no revision v9"):
        find_model(f"{NAME}@v9")


def test_a_gated_model_needs_an_agreement(repository: Repository) -> None:
    repository.gated = True

    with pytest.raises(CheckpointError, match=f"^{NAME}: its owners ask for an agr"):
        find_model(NAME)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_other_refusals_are_one_line(
    status: int, hub: Hub, repository: Repository
) -> None:
    hub.status = status

    with pytest.raises(CheckpointError, match=f"^{NAME}: the Hub refuses .*{status}"):
        find_model(NAME)


def test_a_repository_of_something_else_is_refused(hub: Hub) -> None:
    hub.add("ann/las-german", {"config.json": b"{}", "pytorch_model.bin": b"x"})

    with pytest.raises(CheckpointError, match=f"^{NAME}: is no model of asr .*has no "):
        find_model(NAME)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"files": 7}', b'{"files": {"a": 7}}', b"\xff"]
)
def test_a_description_that_lists_nothing_is_refused(hub: Hub, content: bytes) -> None:
    hub.add("ann/las-german", {DESCRIPTION: content})

    with pytest.raises(
        CheckpointError, match=r"is no model of asr \(its model.json has"
    ):
        find_model(NAME)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "C:x", ".."])
def test_a_description_that_leads_elsewhere_is_refused(hub: Hub, name: str) -> None:
    content = json.dumps({"files": {name: {"size": 1, "sha256": "0"}}}).encode()
    hub.add("ann/las-german", {DESCRIPTION: content, name: b"x"})

    with pytest.raises(CheckpointError, match="names files that no model has"):
        find_model(NAME)


def test_a_listed_file_that_is_not_there_is_noticed(
    hub: Hub, repository: Repository
) -> None:
    del repository.commits[repository.refs["main"]][WEIGHTS]

    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is listed, and not there"):
        find_model(NAME)


def test_a_file_of_another_size_is_not_even_fetched(
    hub: Hub, repository: Repository
) -> None:
    repository.commit({WEIGHTS: b"short"})

    with pytest.raises(CheckpointError, match=f"{WEIGHTS} has 5 bytes there, not "):
        find_model(NAME)
    assert not any(request.endswith(WEIGHTS) for request in hub.requests)


@pytest.mark.parametrize("file", [DESCRIPTION, WEIGHTS, CARD])
def test_a_file_that_is_too_large_is_not_fetched(
    hub: Hub, repository: Repository, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MOST_BYTES", 3 if file == DESCRIPTION else 2000)
    monkeypatch.setattr(door, "MOST_WEIGHTS", 100)
    if file == CARD:
        monkeypatch.setattr(door, "MOST_WEIGHTS", 10**6)
        repository.commit({CARD: b"x" * 3000})

    with pytest.raises(CheckpointError, match=f"^{NAME}: {file} has .* at most "):
        find_model(NAME)
    assert not any(request.endswith(f"/{file}") for request in hub.requests)


def test_a_damaged_file_is_noticed_and_what_to_do(
    repository: Repository, tmp_path: Path
) -> None:
    weights = bytearray(repository.commits[repository.refs["main"]][WEIGHTS])
    weights[-1] ^= 1
    repository.commit({WEIGHTS: bytes(weights)})
    folder = find_model(NAME)

    place = tmp_path / "cache" / "models--ann--las-german"
    with pytest.raises(
        CheckpointError, match=f"checksum is another.*delete {place} and load"
    ):
        load_model(folder)


@pytest.mark.parametrize("token", ["hf_se\x0bcret", "hf_sécret", "hf_se\u2028cret"])
def test_a_token_that_no_request_can_hold_is_in_no_message(
    repository: Repository, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(CheckpointError, match=f"^{NAME}: .*the token cannot be sent"):
        find_model(NAME)
    with pytest.raises(CheckpointError) as caught:
        find_model(NAME)
    assert "cret" not in str(caught.value)


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(CheckpointError, match=r"needs huggingface_hub .*spell\[hub\]"):
        find_model(NAME)


# The folder in the cache


@pytest.mark.parametrize("as_path", [True, False])
def test_a_model_of_the_cache_is_not_written_into(
    as_path: bool, repository: Repository
) -> None:
    name = find_model(NAME) if as_path else NAME

    with pytest.raises(
        CheckpointError, match=f"^{name}: is a copy of what is on the Hub .*asr export"
    ):
        find_model_to_change(name)


def test_links_of_the_cache_lead_into_its_store_only(
    repository: Repository, tmp_path: Path
) -> None:
    folder = find_model(NAME)
    assert (folder / WEIGHTS).is_symlink()
    outside = tmp_path / WEIGHTS
    outside.write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(outside)

    with pytest.raises(CheckpointError, match="is a link that leads out of its folder"):
        load_model(folder)


def test_a_store_that_several_repositories_share_is_followed(
    repository: Repository, tmp_path: Path
) -> None:
    folder = find_model(NAME)
    blob = (folder / WEIGHTS).resolve()
    shared = tmp_path / "cache" / "blobs" / "ab"
    shared.mkdir(parents=True)
    blob.rename(shared / "abc")
    blob.symlink_to(shared / "abc")

    load_model(folder)


def test_a_store_that_is_a_link_is_not_followed(
    repository: Repository, tmp_path: Path
) -> None:
    folder = find_model(NAME)
    blobs = folder.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CheckpointError, match="is a link that leads out of its folder"):
        load_model(folder)


@pytest.mark.slow
def test_the_environment_of_the_library_is_its_own(
    hub: Hub, repository: Repository, tmp_path: Path
) -> None:
    program = f"from asr.model.storage import find_model; print(find_model({NAME!r}))"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
    }

    def load(**more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", program],
            env=environment | more,
            capture_output=True,
            text=True,
        )

    online, offline = load(), load(HF_HUB_OFFLINE="1")

    commit = repository.refs["main"]
    assert online.stdout.strip().startswith(f"{tmp_path / 'home'}{os.sep}")
    assert online.stderr.startswith(f"asr: {NAME} is {NAME}@{commit} now")
    assert offline.stdout == online.stdout
    assert offline.stderr == (
        f"asr: {NAME}: the Hub cannot be reached (HF_HUB_OFFLINE is set): {commit} of "
        "the cache is used\n"
    )
