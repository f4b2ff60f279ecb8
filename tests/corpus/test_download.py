"""A download arrives whole and checked, whatever the server does, or ends in one sentence and leaves no false file."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from yanmo.corpus.download import Manners, Remote, fetch
from yanmo.errors import FileError, NetworkError

DATA = bytes(range(256)) * 4_000
SHA1 = "sha1:" + hashlib.sha1(DATA).hexdigest()
QUICK = Manners(timeout=0.5, attempts=3, pause=0.01)


@pytest.fixture
def server():
    faults, asked, tag, gate = [], [], ['"one"'], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.headers.get("Range"))
            fault = faults.pop(0) if faults else None
            if isinstance(fault, tuple):
                self.send_response(fault[0])
                for key, value in fault[1].items():
                    self.send_header(key, value)
                self.end_headers()
                return
            start = 0
            if self.headers.get("Range") and self.headers.get("If-Range") == tag[0] and fault != "ignores":
                start = int(self.headers["Range"][6:-1])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
            self.send_header("ETag", tag[0])
            self.send_header("Content-Length", str(len(DATA) - start))
            self.end_headers()
            body = DATA[start:] if fault != "wrong" else b"x" * len(DATA)
            self.wfile.write(body[: 400_000 if fault in ("short", "stall") else None])
            if fault == "stall":
                self.wfile.flush()
                gate.wait(1.5)

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    made.faults, made.asked, made.tag = faults, asked, tag
    made.remote = Remote(f"http://127.0.0.1:{made.server_address[1]}/a", "a", len(DATA), SHA1)
    yield made
    gate.set()
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize("fault", [(500, {}), (503, {}), (429, {"Retry-After": "0"}), "short", "stall"])
def test_a_fault_that_passes_is_outlived(server, tmp_path, fault):
    server.faults.append(fault)
    assert fetch(server.remote, tmp_path, QUICK).read_bytes() == DATA
    assert server.asked[1] == ("bytes=400000-" if isinstance(fault, str) else None)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "a.seen.json"]


def test_a_file_that_changed_or_a_range_that_is_ignored_begins_again(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"old bytes")
    (tmp_path / "a.part.json").write_text('{"validator": "\\"zero\\""}')
    assert fetch(server.remote, tmp_path, QUICK).read_bytes() == DATA
    server.faults += ["short", "ignores"]
    assert fetch(server.remote, tmp_path / "b", QUICK).read_bytes() == DATA


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    fetch(server.remote, tmp_path, QUICK)
    fetch(server.remote, tmp_path, QUICK)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "faults, what",
    [
        ([(404, {})], "HTTP 404"),
        ([(500, {})] * 3, "did not arrive"),
        (["wrong"], "arrived damaged"),
        ([(429, {"Retry-After": "9999"})], "asks for 9999"),
        ([(302, {"Location": "file:///etc/passwd"})], "HTTP 302"),
    ],
)
def test_a_fault_that_stays_is_one_sentence(server, tmp_path, faults, what):
    server.faults += faults
    with pytest.raises(NetworkError, match=what):
        fetch(server.remote, tmp_path, QUICK)
    assert not (tmp_path / "a").exists()


def test_a_name_that_leaves_the_folder_is_refused(server, tmp_path):
    with pytest.raises(FileError, match="plain name"):
        fetch(Remote(server.remote.url, "../a"), tmp_path, QUICK)
    with pytest.raises(NetworkError, match="only http"):
        fetch(Remote("file:///etc/passwd", "a"), tmp_path, QUICK)
