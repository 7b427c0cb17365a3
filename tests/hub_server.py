"""A small Hugging Face Hub on loopback: enough of its protocol for huggingface_hub's own client."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


@dataclass
class Fault:
    """Something that goes wrong with requests for files.

    Attributes:
        on: Regular expression that ``METHOD path`` of the request matches.
        times: For how many requests, then all is well.
        status: Answer with this status alone, and no file.
        headers: Beside that status.
        body: Answer with this instead of the file, as if it were the file.
        bare: Leave out what only the Hub sends, as a proxy's own page does.
        cut: Drop the connection after so many bytes of the body that was announced.
        pause: Seconds to wait before a HEAD's answer and after each eighth of a body; the client may give up.
        meet: Answer only once so many requests are here.
    """

    on: str
    times: int = 1_000
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    bare: bool = False
    cut: int | None = None
    pause: float = 0
    meet: threading.Barrier | None = None


class Hub:
    """Repositories in memory, and a log of what was asked.

    Attributes:
        repos: Repository to commit hash to file name to content; the last commit is ``main``.
        requests: ``METHOD path`` of each request.
        faults: What goes wrong; the first that matches a request counts.
        down: Hang up on every request.
        well: Set when the server is to stop waiting.
        token: What a request must carry to write, or to see a private repository; None asks for none.
        private: The repositories that are.
        refused: A repository whose commits fail, as on a full disk.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.url = ""
        self.down = False
        self.well = threading.Event()
        self._lock = threading.Lock()
        self.token: str | None = None
        self.private: set[str] = set()
        self.refused: str | None = None

    def clear(self) -> None:
        """Forget all repositories and requests, and every trouble."""
        self.repos.clear()
        self.requests.clear()
        self.private.clear()
        self.recover()

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit of these files on top of the last, and return its hash."""
        commits = self.repos.setdefault(repo, {})
        merged = {**(list(commits.values())[-1] if commits else {}), **files}
        digest = hashlib.sha1(repr((repo, len(commits), sorted(merged))).encode()).hexdigest()
        commits[digest] = merged
        return digest

    def break_down(self, on: str, **what: object) -> None:
        """Let requests go wrong, see ``Fault``."""
        self.well.clear()
        self.faults.append(Fault(on, **what))

    def recover(self) -> None:
        """Let everything go well again."""
        self.down, self.token, self.refused = False, None, None
        self.faults.clear()
        self.well.set()

    def fault_of(self, request: str) -> Fault:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.on, request):
                    fault.times -= 1
                    return fault
        return Fault("")

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repos.get(repo, {})
        if revision == "main" and commits:
            revision = list(commits)[-1]
        return (revision, commits[revision]) if revision in commits else None


TINY_NETWORK = {"num_stacks": 2, "width": 8, "depth": 2}
"""The settings that the fixture ``tiny_model`` differs in from a named model."""


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def git_blob(content: bytes) -> str:
    """The id by which git knows a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_file(self, body: bytes, commit: str) -> None:
            fault = hub.fault_of(f"{self.command} {self.path}")
            if fault.meet is not None:
                fault.meet.wait(60)
            if fault.status != 200:
                return self.reply(fault.status, **fault.headers)
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X_Repo_Commit": commit}
            body = body if fault.body is None else fault.body
            status = 200
            if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start, size = int(match[1]), len(body)
                status, body = 206, body[start:]
                headers["Content_Range"] = f"bytes {start}-{size - 1}/{size}"
            if self.command == "HEAD":
                hub.well.wait(fault.pause)
            if self.command == "HEAD" or (fault.cut is None and not fault.pause):
                return self.reply(status, body, **({} if fault.bare else headers))
            self.send_response(status)
            for key, value in {**headers, "Content_Length": str(len(body))}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if fault.cut is not None:
                self.wfile.write(body[: fault.cut])
                self.close_connection = True
                return None
            step = len(body) // 8 + 1
            for start in range(0, len(body), step):
                try:
                    self.wfile.write(body[start : start + step])
                except OSError:  # the client has given up
                    self.close_connection = True
                    return None
                hub.well.wait(fault.pause)
            return None

        def reply_json(self, value: object, status: int = 200) -> None:
            self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def may(self) -> bool:
            return hub.token is None or self.headers.get("Authorization") == f"Bearer {hub.token}"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if hub.down:
                self.close_connection = True
                return None
            hub.requests.append(f"{self.command} {self.path}")
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                repo, revision, name = match.groups()
                if repo not in hub.repos or (repo in hub.private and not self.may()):
                    return self.reply(404, X_Error_Code="RepoNotFound")
                found = hub.find(repo, revision)
                if found is None:
                    return self.reply(404, X_Error_Code="RevisionNotFound")
                commit, files = found
                if name not in files:
                    return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                return self.send_file(files[name], commit)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path):
                found = hub.find(match[1], match[2] or "main")
                if match[1] not in hub.repos or (match[1] in hub.private and not self.may()):
                    return self.reply(404, X_Error_Code="RepoNotFound")
                commit, files = found or ("", {})
                siblings = [{"rfilename": name} for name in files]
                return self.reply_json({"id": match[1], "sha": commit, "siblings": siblings, "private": False})
            return self.reply(404)

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            body = self.read_body()
            if not self.may():
                return self.reply(401)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                known = {"url": f"{hub.url}/{repo}", "id": repo}
                if repo in hub.repos:
                    return self.reply_json(known, 409)
                hub.repos[repo] = {}
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(repo)
                return self.reply_json(known)
            if self.path == "/api/validate-yaml":
                return self.reply_json({"errors": [], "warnings": []})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", self.path):
                _, present = hub.find(match[1], "main") or ("", {})
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "regular",
                        "shouldIgnore": False,
                        "oid": git_blob(present[file["path"]]) if file["path"] in present else None,
                    }
                    for file in json.loads(body)["files"]
                ]
                return self.reply_json({"files": files})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/?]+(?:\?.*)?", self.path):
                if match[1] == hub.refused:
                    return self.reply(507)
                rows = [json.loads(line) for line in body.splitlines()]
                files = {
                    row["value"]["path"]: base64.b64decode(row["value"]["content"])
                    for row in rows
                    if row["key"] == "file"
                }
                commit = hub.commit(match[1], files)
                return self.reply_json(
                    {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{match[1]}/commit/{commit}"}
                )
            return self.reply(404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
