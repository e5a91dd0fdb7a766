"""A local server that speaks the Hugging Face hub's protocol as far as huggingface_hub needs it for models.

Login, creation and deletion of repositories, the check of a card's metadata, uploads (in the commit or by LFS),
commits, revisions, and files with their ETags. Repositories lie in memory; what was asked, with its headers, is kept.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_secretsecretsecretsecretsecretsecr"
_CARD = re.compile(r"^---\n(.*?)\n---\n", re.DOTALL)


@dataclass
class Repository:
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.safetensors lfs\n"}])
    tags: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def sha(number: int) -> str:
        return hashlib.sha1(f"commit {number}".encode()).hexdigest()

    def number(self, revision: str) -> int | None:
        names = {self.sha(k): k for k in range(len(self.commits))} | {"main": len(self.commits) - 1} | self.tags
        return names.get(revision)


class LocalHub:
    """The server's repositories, by name, and its faults: `broken` names the requests that fail with status 500."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.broken: str = ""
        self.url = ""

    @contextlib.contextmanager
    def serving(self) -> Iterator[LocalHub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[name].commits[-1]


def card_faults(text: str) -> list[str]:
    """What the hub would say of a card's metadata, as far as its documentation states it."""
    found = _CARD.match(text)
    data = yaml.safe_load(found[1]) if found else None
    if not isinstance(data, dict):
        return ["no metadata"]
    faults = [key for key in ("library_name", "pipeline_tag") if not isinstance(data.get(key), str)]
    faults += [] if isinstance(data.get("license", ""), str) else ["license"]
    if data.get("license") == "other" and not {"license_name", "license_link"} <= data.keys():
        faults.append("license other without its name and link")
    for model in data.get("model-index", []):
        for result in model["results"]:
            known = {"type", "name"} <= result["dataset"].keys() and "type" in result["task"]
            metrics = all({"type", "value"} <= metric.keys() for metric in result["metrics"])
            faults += [] if known and metrics else ["model-index"]
    return faults


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _handle(self) -> None:
        path = unquote(self.path.partition("?")[0])
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, path, headers))
        body = self.rfile.read(int(headers.get("content-length", 0)))
        if headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        self.is_known = headers.get("authorization") == f"Bearer {TOKEN}"
        if self.hub.broken and self.hub.broken in path:
            return self._answer(500, {"error": "broken on purpose"})
        for pattern, method in _ROUTES:
            if at := re.fullmatch(pattern, f"{self.command} {path}"):
                return getattr(self, method)(body, *at.groups())
        return self._answer(404, {"error": f"no route {path}"})

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, {"X-Error-Code": code})

    def _open(self, name: str, *, to_write: bool = False) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or ((found.private or to_write) and not self.is_known):
            self._refuse(404 if self.is_known else 401, "RepoNotFound")
            return None
        return found

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.is_known:
            return self._answer(401, {"error": "Invalid username or password."})
        if asked["organization"] != "user":
            return self._answer(403, {"error": f"You don't have the rights to create a model under {name}"})
        if name in self.hub.repositories:
            return self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return self._answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def delete(self, body: bytes) -> None:
        asked = json.loads(body)
        if self.is_known:
            del self.hub.repositories[f"{asked['organization']}/{asked['name']}"]
        self._answer(200 if self.is_known else 401, {})

    def validate(self, body: bytes) -> None:
        faults = [{"message": fault} for fault in card_faults(json.loads(body)["content"])]
        self._answer(400 if faults else 200, {"errors": faults, "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if (found := self._open(name, to_write=True)) is None:
            return None
        if found.number(revision) is None:
            return self._refuse(404, "RevisionNotFound")
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
            for f in json.loads(body)["files"]
        ]
        return self._answer(200, {"files": [{**one, "shouldIgnore": False, "oid": None} for one in modes]})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}?signature=signed"}}}
            for one in json.loads(body)["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        self.hub.blobs[oid] = body
        self._answer(200, {})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if (found := self._open(name, to_write=True)) is None:
            return
        files = dict(found.commits[-1])
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                files[item["value"]["path"]] = self.hub.blobs[item["value"]["oid"]]
        found.commits.append(files)
        sha = found.sha(len(found.commits) - 1)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        if (found := self._open(name)) is None:
            return
        if (number := found.number(revision or "main")) is None:
            self._refuse(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": file} for file in found.commits[number]]
        self._answer(200, {"id": name, "sha": found.sha(number), "private": found.private, "siblings": siblings})

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        if (found := self._open(name)) is None:
            return
        if (number := found.number(revision)) is None:
            self._refuse(404, "RevisionNotFound")
            return
        headers = {"X-Repo-Commit": found.sha(number)}
        if (content := found.commits[number].get(file)) is None:
            self._answer(404, {}, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        self._answer(200, content, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    (r"POST /api/repos/create", "create"),
    (r"DELETE /api/repos/delete", "delete"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_NAME}/preupload/(.+)", "preupload"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs/(\w+)", "store"),
    (rf"POST /api/models/{_NAME}/commit/(.+)", "commit"),
    (rf"GET /api/models/{_NAME}/revision/(.+)", "info"),
    (rf"GET /api/models/{_NAME}", "info"),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
)
