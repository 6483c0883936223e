import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile

from asr.data.manifest import read_manifest
from asr.errors import DownloadError
from recipes.librispeech import prepare
from recipes.librispeech.download import ARCHIVES, MARKER, OPENSLR, Archive, download

SUBSET = "dev-clean-2"
CHAPTER = f"LibriSpeech/{SUBSET}/84/9"


def sound() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(file, noise, 16000, format="FLAC")
    return file.getvalue()


FILES = {
    "LibriSpeech/README.TXT": b"read me",
    f"{CHAPTER}/84-9.trans.txt": b"84-9-0000 GO\n",
    f"{CHAPTER}/84-9-0000.flac": sound(),
}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def pack(*more: tarfile.TarInfo) -> bytes:
    """An archive as it is published, and some members more."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(member(CHAPTER, tarfile.DIRTYPE))
        for name, content in FILES.items():
            info = member(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return packed.getvalue()


ARCHIVE = pack()


@dataclass
class Mirror:
    """A server of one archive, with the failures that servers have."""

    content: bytes = ARCHIVE
    knows_ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """How many bytes the next answers give before the connection is cut."""
    stalled: Event | None = None
    """Keeps the first connection open after its cut, until the next request."""
    length: str | None = None
    """Content-Length, in place of the right one."""
    redirect: str | None = None
    """Address that answers lead to."""
    drips: bool = False
    """Whether the archive comes byte by byte, as long as somebody reads it."""
    answers: list[int] = field(default_factory=list)
    """HTTP status of the next answers, in place of the archive."""
    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and range of each request so far."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wished = handler.headers["Range"]
        self.asked.append((handler.path, wished))
        if self.stalled and len(self.asked) > 1:
            self.stalled.set()
        if self.answers:
            handler.send_error(self.answers.pop(0))
            return
        if self.redirect is not None:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        start = int(wished[6:-1]) if wished and self.knows_ranges else 0
        size = len(self.content)
        if start >= size:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{size}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.length != "":
            handler.send_header("Content-Length", self.length or str(size - start))
        handler.end_headers()
        if self.drips:
            with suppress(OSError):  # nobody reads any more
                for byte in self.content[start:]:
                    handler.wfile.write(bytes([byte]))
                    sleep(0.002)
            return
        end = start + self.cuts.pop(0) if self.cuts else size
        handler.wfile.write(self.content[start:end])
        if self.stalled:
            self.stalled.wait(5)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        mirror.address = f"http://127.0.0.1:{server.server_port}"
        yield mirror
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _publish(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, ARCHIVE)


def publish(monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    md5 = hashlib.md5(archive).hexdigest()
    monkeypatch.setitem(ARCHIVES, SUBSET, Archive(31, md5, len(archive)))


def fetch(mirror: Mirror, corpus: Path, num_attempts: int = 3) -> Path:
    waits = [0] * (num_attempts - 1)
    return download(SUBSET, corpus, base=mirror.address, waits=waits, timeout=30)


def ranges(mirror: Mirror) -> list[str | None]:
    return [wished for _, wished in mirror.asked]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["README.TXT", SUBSET, f"{SUBSET}.tar.gz"]


# A good day


def test_a_subset_is_fetched_and_unpacked(mirror: Mirror, tmp_path: Path) -> None:
    corpus = tmp_path / "new" / "corpus"

    folder = fetch(mirror, corpus)

    assert mirror.asked == [(f"/31/{SUBSET}.tar.gz", None)]
    assert folder == corpus / SUBSET
    assert names(corpus) == WHOLE
    assert names(folder) == [MARKER, "84"]
    for name, content in FILES.items():
        path = corpus / name.removeprefix("LibriSpeech/")
        assert path.read_bytes() == content


def test_a_second_run_does_nothing(mirror: Mirror, tmp_path: Path) -> None:
    fetch(mirror, tmp_path)
    (tmp_path / f"{SUBSET}.tar.gz").unlink()

    fetch(mirror, tmp_path)

    assert len(mirror.asked) == 1


def test_a_subset_joins_those_in_a_folder_called_librispeech(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "LibriSpeech").mkdir()
    assert fetch(mirror, tmp_path) == tmp_path / "LibriSpeech" / SUBSET


def test_an_archive_that_is_there_is_not_fetched_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / f"{SUBSET}.tar.gz").write_bytes(ARCHIVE)

    fetch(mirror, tmp_path)

    assert mirror.asked == []
    assert names(tmp_path) == WHOLE


def test_texts_about_the_corpus_are_not_replaced(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "README.TXT").write_text("mine")
    fetch(mirror, tmp_path)
    assert (tmp_path / "README.TXT").read_text() == "mine"


def test_prepare_fetches_what_it_prepares(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = partial(download, base=mirror.address)
    monkeypatch.setattr("recipes.librispeech.prepare.download", local)
    corpus, data = str(tmp_path / "corpus"), str(tmp_path / "data")

    status = prepare.main([corpus, data, "--download", SUBSET, "--processes", "1"])

    assert status == 0
    (utterance,) = read_manifest(tmp_path / "data" / f"{SUBSET}.jsonl")
    assert utterance.text == "GO"


def test_what_is_published_has_an_address_and_a_sum() -> None:
    assert OPENSLR == "https://www.openslr.org/resources"
    assert {name for name, s in ARCHIVES.items() if s.resource == 31} == {
        "train-clean-5",
        "dev-clean-2",
    }
    assert all(len(s.md5) == 32 and int(s.md5, 16) for s in ARCHIVES.values())
    assert len({s.md5 for s in ARCHIVES.values()}) == 9


# A bad connection


def test_a_cut_connection_is_taken_up_where_it_ended(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.cuts = [1000, 500]

    fetch(mirror, tmp_path)

    assert ranges(mirror) == [None, "bytes=1000-", "bytes=1500-"]
    assert names(tmp_path) == WHOLE
    url = f"{mirror.address}/31/{SUBSET}.tar.gz"
    assert capsys.readouterr().err == "".join(
        f"prepare: {url}: the connection ended at byte {ended} of {len(ARCHIVE)}; "
        "next attempt in 0 s\n"
        for ended in (1000, 1500)
    )


def test_a_stalled_connection_is_taken_up_too(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a read would wait, it times out: no clock decides when."""
    mirror.cuts = [1000]
    mirror.stalled = stalled = Event()
    received, read1 = 0, HTTPResponse.read1

    def impatient(response: HTTPResponse, size: int) -> bytes:
        nonlocal received
        if received == 1000 and not stalled.is_set():
            raise TimeoutError("timed out")
        block = read1(response, size)
        received += len(block)
        return block

    monkeypatch.setattr(HTTPResponse, "read1", impatient)

    fetch(mirror, tmp_path, num_attempts=2)

    assert ranges(mirror) == [None, "bytes=1000-"]
    assert names(tmp_path) == WHOLE


def test_a_server_without_ranges_starts_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.knows_ranges = False
    mirror.cuts = [1000]

    fetch(mirror, tmp_path)

    assert ranges(mirror) == [None, "bytes=1000-"]
    assert names(tmp_path) == WHOLE


def test_the_attempts_are_numbered_and_what_came_is_kept(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.cuts = [100, 100, 100]

    with pytest.raises(DownloadError, match=r"byte 300 of \d+ \(3 attempts; run again"):
        fetch(mirror, tmp_path)
    assert names(tmp_path) == [f"{SUBSET}.tar.gz.partial"]
    fetch(mirror, tmp_path)

    assert ranges(mirror)[3:] == ["bytes=300-"]
    assert names(tmp_path) == WHOLE


def test_the_waits_grow_and_are_kept(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = list[float]()
    monkeypatch.setattr("time.sleep", slept.append)
    mirror.answers = [503, 429]

    download(SUBSET, tmp_path, base=mirror.address, waits=[1, 2, 5])

    assert slept == [1, 2]


def test_a_partial_file_that_is_whole_is_not_fetched_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / f"{SUBSET}.tar.gz.partial").write_bytes(ARCHIVE)

    fetch(mirror, tmp_path, num_attempts=1)

    assert ranges(mirror) == [f"bytes={len(ARCHIVE)}-"]
    assert names(tmp_path) == WHOLE


def test_a_partial_file_that_is_too_long_is_dropped(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / f"{SUBSET}.tar.gz.partial").write_bytes(ARCHIVE + b"more")

    fetch(mirror, tmp_path)

    assert ranges(mirror) == [f"bytes={len(ARCHIVE) + 4}-", None]
    assert names(tmp_path) == WHOLE


def test_a_wrong_range_is_not_believed(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{SUBSET}.tar.gz.partial").write_bytes(ARCHIVE[:1000])
    send = BaseHTTPRequestHandler.send_header

    def off_by_one(self: BaseHTTPRequestHandler, name: str, value: str) -> None:
        send(self, name, value.replace("bytes 1000-", "bytes 999-"))

    monkeypatch.setattr(BaseHTTPRequestHandler, "send_header", off_by_one)

    fetch(mirror, tmp_path)

    assert ranges(mirror) == ["bytes=1000-", None]
    assert names(tmp_path) == WHOLE


def test_what_the_server_does_not_have_is_not_asked_for_twice(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.answers = [404]
    with pytest.raises(DownloadError, match=r"tar.gz: the server answers 404 Not Fou"):
        fetch(mirror, tmp_path)
    assert len(mirror.asked) == 1


def test_a_server_that_is_not_there_is_reported(mirror: Mirror, tmp_path: Path) -> None:
    mirror.address = "http://127.0.0.1:9"
    with pytest.raises(DownloadError, match=r"Connection refused \(3 attempts"):
        fetch(mirror, tmp_path)


def test_a_server_that_sends_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float]()

    def recorded(request: Request, timeout: float) -> Any:
        waited.append(timeout)
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr("recipes.librispeech.download.urlopen", recorded)
    listening = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    base = f"http://127.0.0.1:{listening.server_port}"

    with listening, pytest.raises(DownloadError, match=r"timed out \(1 attempts"):
        download(SUBSET, tmp_path, base=base, waits=[], timeout=0.05)

    assert waited == [0.05]


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "9" * 30, "²"])
def test_a_length_that_is_none_is_not_believed(
    mirror: Mirror, tmp_path: Path, length: str
) -> None:
    mirror.length = length
    with pytest.raises(
        DownloadError, match=r"the server sends a wrong length \('.*3 at"
    ):
        fetch(mirror, tmp_path)


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://a..b/", "http://x:y/", f"http://{'a' * 70}.b/"]
)
def test_a_redirect_that_leads_nowhere_is_reported(
    mirror: Mirror, tmp_path: Path, address: str
) -> None:
    mirror.redirect = address
    with pytest.raises(DownloadError, match=r"clean-2.tar.gz: "):
        fetch(mirror, tmp_path, num_attempts=1)


def test_a_connection_that_only_drips_counts_as_lost(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.drips = True
    with pytest.raises(DownloadError, match=r"under 1000 bytes came a second \(1 att"):
        download(SUBSET, tmp_path, base=mirror.address, waits=[], timeout=0.3)


# Something else than was published


@pytest.mark.parametrize("length", [None, ""], ids=["said", "not said"])
def test_what_is_larger_than_published_is_not_fetched(
    mirror: Mirror, tmp_path: Path, length: str | None
) -> None:
    mirror.content, mirror.length = ARCHIVE + bytes(2**20), length

    with pytest.raises(DownloadError, match=r"is not what was published: it has over"):
        fetch(mirror, tmp_path)

    assert len(mirror.asked) == 1
    assert names(tmp_path) == []


def test_a_larger_rest_of_an_older_download_is_dropped(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / f"{SUBSET}.tar.gz.partial").write_bytes(ARCHIVE + bytes(2**20))

    fetch(mirror, tmp_path)

    assert ranges(mirror) == [None]
    assert names(tmp_path) == WHOLE


def test_an_archive_that_swells_is_not_unpacked(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = member("LibriSpeech/bomb")
    large.size = 2**26
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(large, io.BytesIO(bytes(2**26)))
    mirror.content = packed.getvalue()
    publish(monkeypatch, mirror.content)

    with pytest.raises(DownloadError, match=r"holds over \d+ bytes, more than was pub"):
        fetch(mirror, tmp_path)

    assert names(tmp_path) == [f"{SUBSET}.tar.gz"]


def test_a_wrong_sum_is_reported_and_the_next_run_starts_afresh(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.content = ARCHIVE[:-9] + b"x" + ARCHIVE[-8:]

    with pytest.raises(DownloadError, match="damaged: is not what was published: its"):
        fetch(mirror, tmp_path)
    assert names(tmp_path) == [f"{SUBSET}.tar.gz.damaged"]
    mirror.content = ARCHIVE
    fetch(mirror, tmp_path)

    assert ranges(mirror) == [None, None]
    assert (tmp_path / SUBSET / MARKER).exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../evil"), "'../evil' leads out of the archive"),
        (member("LibriSpeech/../../../evil"), "evil' leads out of the archive"),
        (member("LibriSpeech/../evil"), "evil' leads out of the archive"),
        (member("{tmp_path}/evil"), "evil' leads out of the archive"),
        (member("evil", tarfile.SYMTYPE, "/etc"), "'evil' is neither a file nor a f"),
        (member("evil", tarfile.SYMTYPE, "LibriSpeech"), "'evil' is neither a file"),
        (member("evil", tarfile.LNKTYPE, f"{CHAPTER}/84-9.trans.txt"), "is neither a"),
        (member("evil", tarfile.CHRTYPE), "'evil' is neither a file nor a folder"),
        (member("evil", tarfile.BLKTYPE), "'evil' is neither a file nor a folder"),
        (member("evil", tarfile.FIFOTYPE), "'evil' is neither a file nor a folder"),
        (member("a/" * 1500 + "evil"), "is in over 10 folders"),
        (member("a/" * 1500, tarfile.DIRTYPE), "is in over 10 folders"),
        (member("LibriSpeech/" + "a" * 300), "File name too long"),
    ],
    ids=lambda value: f"{value.type!r} {value.name}" if hasattr(value, "type") else "",
)
def test_a_bad_member_leaves_nothing(
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: tarfile.TarInfo,
    message: str,
) -> None:
    bad.name = bad.name.replace("{tmp_path}", str(tmp_path))
    mirror.content = pack(bad)
    publish(monkeypatch, mirror.content)

    with pytest.raises(DownloadError, match=message):
        fetch(mirror, tmp_path / "a" / "b" / "c")

    assert names(tmp_path / "a" / "b" / "c") == [f"{SUBSET}.tar.gz"]
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda archive: archive[:-1000], "tar.gz: is damaged"),
        (lambda archive: b"<html>" + archive, "tar.gz: is damaged"),
        (lambda archive: archive[:100] + bytes(99) + archive[199:], "is damaged"),
    ],
)
def test_a_damaged_archive_leaves_nothing(
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[bytes], bytes],
    message: str,
) -> None:
    mirror.content = spoil(ARCHIVE)
    publish(monkeypatch, mirror.content)

    with pytest.raises(DownloadError, match=message):
        fetch(mirror, tmp_path)

    assert names(tmp_path) == [f"{SUBSET}.tar.gz"]


def test_an_archive_of_another_subset_is_refused(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHIVES, "dev-other", ARCHIVES[SUBSET])

    with pytest.raises(DownloadError, match="holds no LibriSpeech/dev-other"):
        download("dev-other", tmp_path, base=mirror.address)

    assert names(tmp_path) == ["dev-other.tar.gz"]


# Something in the way


@pytest.mark.parametrize("place", ["shutil.copyfileobj", "pathlib.Path.touch"])
def test_an_interrupted_unpacking_is_not_taken_for_a_whole_one(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(mirror, tmp_path)
    monkeypatch.undo()
    assert SUBSET not in names(tmp_path)
    publish(monkeypatch, ARCHIVE)
    fetch(mirror, tmp_path)

    assert len(mirror.asked) == 1
    assert names(tmp_path) == WHOLE


def test_what_a_killed_run_had_unpacked_is_unpacked_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    left = tmp_path / f".{SUBSET}.unpacking" / CHAPTER
    left.mkdir(parents=True)
    (left / "84-9-0000.flac").write_bytes(b"half")
    (left / "84-9-0009.flac").write_bytes(b"half")

    folder = fetch(mirror, tmp_path)

    assert names(tmp_path) == WHOLE
    assert names(folder / "84" / "9") == ["84-9-0000.flac", "84-9.trans.txt"]
    assert (folder / "84" / "9" / "84-9-0000.flac").read_bytes() == sound()


def test_a_folder_of_the_user_is_left_alone(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / SUBSET).mkdir()
    with pytest.raises(DownloadError, match=f"{SUBSET}: is there, but may not be whol"):
        fetch(mirror, tmp_path)
    assert names(tmp_path) == [SUBSET]
    assert mirror.asked == []


def test_a_full_disk_is_reported_at_once(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{SUBSET}.tar.gz.partial").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=f"{tmp_path}: No space left on device"):
        fetch(mirror, tmp_path)
    assert len(mirror.asked) == 1


def test_a_corpus_that_cannot_be_made_is_reported(
    mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"file/corpus: Not a directory"):
        fetch(mirror, tmp_path / "file" / "corpus")
