"""A small server that speaks the hub's protocol on 127.0.0.1, writes down what it is asked, and misbehaves on demand.

GET  /api/{models,datasets}/ID[/revision/REV]  the commit, and name, size and fingerprint of each file
HEAD /ID/resolve/REVISION/FILE              commit, ETag, size; large files (LFS) are redirected to the CDN
GET  /ID/resolve/REVISION/FILE              the bytes, or the rest of them from Range on
GET  /cdn/FILE                              the same, on another host name and so without the user's token
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40
LFS = (".safetensors", ".bin", ".h5", ".gguf", ".onnx", ".msgpack")

# The files of a repository: what opening its model fetches besides the weights, and what it leaves.
SMALL = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{ }",
    "tokenizer.json": b"{  }",
    "tokenizer_config.json": b"{   }",
    "spiece.model": b"pieces",
    "README.md": b"# A model",
}
NOT_NEEDED = {
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"h5",
    "flax_model.msgpack": b"flax",
    "model.onnx": b"onnx",
    "model.gguf": b"gguf",
    "modeling_llama.py": b"import os",
    "LICENSE": b"text",
    "original/consolidated.00.pth": b"pth",
    "original/config.json": b"{}",
    "onnx/model.safetensors": b"",
}


@dataclass
class Hub:
    """The repository that is served, the log, and the faults that wait for the next requests.

    faults: file name, or "api" → kinds, one for each request: a number (HTTP status), "gated", "break", "reset",
    "stall", "corrupt", "short", "nonsense".
    """

    repo: str
    files: dict[str, bytes]
    commit: str = COMMIT
    log: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    faults: dict[str, list[str | int]] = field(default_factory=dict)
    url: str = ""

    def asked(self, method: str) -> list[str]:
        """The files that were asked for by a method, in order."""
        return [path.rpartition("/")[2] for verb, path, _ in self.log if verb == method and not path.startswith("/api")]

    def fingerprint(self, name: str) -> str:
        data = self.files[name]
        if name.endswith(LFS):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def listing(self) -> dict[str, object]:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": self.fingerprint(name)[:40]}
            if name.endswith(LFS):
                entry["lfs"] = {"sha256": self.fingerprint(name), "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repo, "modelId": self.repo, "sha": self.commit, "siblings": siblings, "tags": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each answer waits 40 ms for an acknowledgement
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.log.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        if path.startswith("/api/"):
            self.api(path)
            return
        match = re.fullmatch(r"/(?:cdn|(?:datasets/)?(.+)/resolve/([^/]+))/(.+)", path)
        if match is None or match[3] not in self.hub.files or match[1] not in (None, self.hub.repo):
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        name = match[3]
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{self.hub.fingerprint(name)}"'}
        if match[1] and name.endswith(LFS):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(self.hub.files[name]))}
            headers["Location"] = self.hub.url.replace("127.0.0.1", "localhost") + f"/cdn/{name}"
            self.send(302, b"", headers)
            return
        self.file(name, headers)
        return

    def api(self, path: str) -> None:
        fault = self.fault("api")
        if fault == "stall":
            time.sleep(3)
        if fault == "gated":
            self.send(403, b"", {"X-Error-Code": "GatedRepo"})
            return
        if fault == "nonsense":
            self.send(200, b"<html>please log in</html>", {})
            return
        if isinstance(fault, int):
            self.send(fault, b"", {})
            return
        known = rf"/api/(models|datasets)/{re.escape(self.hub.repo)}(/revision/(main|{self.hub.commit}))?"
        if not re.fullmatch(known, path):
            code = "RevisionNotFound" if self.hub.repo in path else "RepoNotFound"
            self.send(404, b"", {"X-Error-Code": code})
            return
        self.send(200, json.dumps(self.hub.listing()).encode(), {"Content-Type": "application/json"})
        return

    def file(self, name: str, headers: dict[str, str]) -> None:
        data, status = self.hub.files[name], 200
        fault = self.fault(name) if self.command == "GET" else None
        if isinstance(fault, int):
            self.send(fault, b"", {})
            return
        if fault == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault == "short":
            data = data[:-1]
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
            data, status = data[int(start[1]) :], 206
        sent = data[: len(data) // 2] if fault in ("break", "reset", "stall") else data
        self.send(status, sent, headers, length=len(data))
        if fault == "stall":
            time.sleep(1.5)
        if fault == "reset":
            time.sleep(0.2)  # what was sent arrives before the reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if sent != data:
            self.close_connection = True

    def fault(self, what: str) -> str | int | None:
        waiting = self.hub.faults.get(what)
        return waiting.pop(0) if waiting else None

    def send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: object) -> None:
        self.close_request(request)  # type: ignore[arg-type]  # at once, so that SO_LINGER makes a reset


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends."""
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
