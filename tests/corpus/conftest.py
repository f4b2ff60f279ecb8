"""A web server of files that misbehaves as it is told, for the tests of downloads."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from yanmo.corpus import remote


class Handler(BaseHTTPRequestHandler):
    """Files of `server.files` by path; the next fault of `server.faults[path]` first."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.log.append((self.path, self.headers.get("Range")))
        waiting = self.server.faults.get(self.path, [])
        fault = waiting.pop(0) if waiting else None
        data = self.server.files.get(self.path)
        if fault == "wait":
            self.server.gate.wait(60)
        if isinstance(fault, tuple) or data is None:
            status, headers = fault if isinstance(fault, tuple) else (404, {})
            self.begin(status, {**headers, "Content-Length": "0"})
            return
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        asked = self.headers.get("Range")
        start = int(asked[6:-1]) if asked and self.headers.get("If-Range") == tag else 0
        headers = {"ETag": tag, "Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault == "says less":
            headers["Content-Length"] = str((len(data) - start) // 2)
        if fault == "says more":
            headers["Content-Length"] = str(len(data) - start + 9)
            self.close_connection = True
        if fault == "says nothing":
            del headers["Content-Length"]
            self.close_connection = True
        self.begin(206 if start else 200, headers)
        self.body(data[start:], fault)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def body(self, data: bytes, fault: object) -> None:
        half = data[: len(data) // 2]
        with contextlib.suppress(OSError):
            if fault == "endless":
                for _ in range(100):
                    self.wfile.write(data)
            elif fault in ("reset", "stall"):
                self.wfile.write(half)
                time.sleep(0.2)
                if fault == "stall":
                    self.server.gate.wait(5)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            elif fault == "drip":
                for place in range(len(data)):
                    self.wfile.write(data[place : place + 1])
                    self.wfile.flush()
                    if self.server.gate.wait(0.02):
                        return
            else:
                self.wfile.write(half if fault == "short" else data)
                self.close_connection = self.close_connection or fault == "short"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    files: dict[str, bytes]

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = Server(("127.0.0.1", 0), Handler)
    made.files, made.faults, made.log, made.gate = {}, {}, [], threading.Event()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    values = {"YANMO_COMMONCRAWL": made.url, "YANMO_WIKIMEDIA": made.url, "YANMO_CACHE": str(tmp_path / "cache")}
    for name, value in (values | {"YANMO_DOWNLOAD_PAUSE": "0", "YANMO_DOWNLOAD_TIMEOUT": "1"}).items():
        monkeypatch.setenv(name, value)
    remote.published.cache_clear()
    yield made
    made.gate.set()
    made.shutdown()
    made.server_close()
    remote.published.cache_clear()
