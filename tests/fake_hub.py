"""A Hugging Face Hub in memory, on a port of this machine.

It answers the calls that huggingface_hub makes to look up, fetch, make and write a
repository, so that what is pushed and loaded passes through the library. Larger files
go by Git LFS: the other way, Xet, is a protocol of its own.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from asr.model import hub as door

LFS_FROM = 20_000
"""Bytes from which on a file goes by Git LFS."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """One repository: commits, and which of them the branches and tags are."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files) -> str:
        """Add a commit to main."""
        before = self.commits.get(self.refs.get("main", ""), {})
        number = f"{len(self.commits)} {sorted(files)}"
        commit = hashlib.sha1(number.encode()).hexdigest()
        self.commits[commit] = {**before, **files}
        self.refs["main"] = commit
        return commit

    def files(self, revision: str) -> tuple[str, Files] | None:
        """Return the commit that a revision is, and its files."""
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass
class Hub:
    """What the server has, and what it was asked."""

    url: str = ""
    token: str = "hf_secret"
    """Who sends it may read and write everything."""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: Files = field(default_factory=dict)
    """Files that came by Git LFS, by their checksums."""
    requests: list[str] = field(default_factory=list)
    status: int = 0
    """What all requests are answered with, where it is not zero."""
    refuses_objects: bool = False
    """Whether the store of files by Git LFS is closed."""
    uploads: list[dict[str, Any]] = field(default_factory=list)
    """The headers of commits."""

    def add(self, name: str, files: Files) -> Repository:
        """Add a repository with one commit."""
        self.repositories[name] = Repository()
        self.repositories[name].commit(files)
        return self.repositories[name]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub while the context is open."""
    hub = Hub()

    class Handler(_Handler):
        it = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the library of this process ask a hub, with a cache of its own.

    It reads the environment as it is imported: these are what it becomes there.
    """
    constants = pytest.importorskip("huggingface_hub.constants")
    files = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": files,
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def go_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Take the network or the hub away: no network, HF_HUB_OFFLINE, out of order."""
    constants = pytest.importorskip("huggingface_hub.constants")
    if how == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    elif how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.status = 503


def forget() -> None:
    """Be another process."""
    door._RESOLVED.clear()


class _Handler(BaseHTTPRequestHandler):
    it: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        if not (path := self._begin()):
            return
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], unquote(found[2] or "main"))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        else:
            self._refuse(404, "EntryNotFound")

    def _info(self, name: str, revision: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        found = repository.files(revision)
        if found is None and revision != "main":  # it has no commit yet
            return self._refuse(404, "RevisionNotFound")
        commit, files = found or ("0" * 40, {".gitattributes": b""})
        self._answer(
            {
                "id": name,
                "sha": commit,
                "private": repository.private,
                "siblings": [
                    {"rfilename": file, "size": len(content), "blobId": _sha1(content)}
                    for file, content in files.items()
                ],
            }
        )

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        if repository.gated and not self._knows_token():
            return self._refuse(403, "GatedRepo")
        if (found := repository.files(revision)) is None:
            return self._refuse(404, "RevisionNotFound")
        commit, files = found
        if file not in files:
            return self._refuse(404, "EntryNotFound")
        content = files[file]
        tag = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": commit}
        self._answer(content, headers=tag)

    def do_PUT(self) -> None:
        if not (path := self._begin(token=False)):
            return
        content = self._body()
        if self.it.refuses_objects:
            return self._refuse(403, "")
        checksum = hashlib.sha256(content).hexdigest()
        assert path == f"/lfs/{checksum}"
        self.it.objects[checksum] = content
        self._answer({})

    def do_POST(self) -> None:
        path, body = self._begin(), self._body()
        if not path:
            return
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if not self._knows_token():
            return self._refuse(401, "")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/preupload/main"):
            return self._preupload(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path)
        assert found, path
        self._commit(found[1], [json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        there = name in self.it.repositories
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.it.repositories.setdefault(name, Repository(private=private))
        self._answer({"url": f"{self.it.url}/{name}"}, status=409 if there else 200)

    def _preupload(self, wanted: dict[str, Any]) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["size"] >= LFS_FROM else "regular",
                "shouldIgnore": False,
            }
            for one in wanted["files"]
        ]
        self._answer({"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.it.url}/lfs/{one['oid']}"}}}
            for one in wanted["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = Files()
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.it.uploads.append(value)
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = self.it.objects[value["oid"]]
        commit = self.it.repositories[name].commit(files)
        url = f"{self.it.url}/{name}/commit/{commit}"
        self._answer({"commitUrl": url, "commitOid": commit})

    # What all have in common

    def _begin(self, token: bool = True) -> str:
        """Return the path that was asked for; nothing if it is answered already."""
        path = urlsplit(self.path).path
        self.it.requests.append(f"{self.command} {path}")
        given = self.headers.get("Authorization")
        assert token or given is None, "the token was sent to a store of files"
        if self.it.status:
            self._body()
            self._refuse(self.it.status, "")
            return ""
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _knows_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.it.token}"

    def _repository(self, name: str) -> Repository | None:
        """Return a repository that may be read; None if that is answered already."""
        found = self.it.repositories.get(name)
        if found is None or (found.private and not self._knows_token()):
            self._refuse(404 if self._knows_token() else 401, "RepoNotFound")
            return None
        return found

    def _refuse(self, status: int, code: str) -> None:
        self._answer({}, status=status, headers={"X-Error-Code": code} if code else {})

    def _answer(
        self,
        content: bytes | dict[str, Any],
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
