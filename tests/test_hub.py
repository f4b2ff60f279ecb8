"""Models are found on this machine or fetched from a hub: a server in the test speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hub_server import COMMIT, NOT_NEEDED, SMALL, Hub, serve

from yanmo.errors import Error, FileError, NetworkError
from yanmo.hub import resolve
from yanmo.models.weights import open_weights

DOWNLOAD_CHUNK_SIZE = 10 * 2**20  # of huggingface_hub


def weights(large: bool = False) -> bytes:
    more = {"b": torch.arange(DOWNLOAD_CHUNK_SIZE // 4 * 2.2)} if large else {}
    return safetensors.torch.save({"a": torch.arange(50_000.0)} | more, metadata={"format": "pt"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub("owner/name", SMALL | {"model.safetensors": weights()} | NOT_NEEDED)) as served:
        yield served


Answer = dict[str, str]

CLIENT = """
import json, sys
from yanmo.errors import Error
from yanmo.hub import resolve
assert "huggingface_hub" not in sys.modules
try:
    answer = {"path": str(resolve(sys.argv[1]))}
except Error as error:
    answer = {"error": type(error).__name__, "sentence": str(error)}
print(json.dumps(answer))
"""


class Client:
    """What a user gets from `resolve`, with a cache of its own: here, or in a fresh process with `environment`."""

    def __init__(self, home: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        self.home, self.url, self.patch, self.constants = home, url, monkeypatch, constants
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)

    def __call__(self, repo: str = "owner/name", *, offline: bool = False, url: str = "", **arguments: Any) -> Answer:
        self.patch.setattr(self.constants, "HF_HUB_OFFLINE", offline)
        self.patch.setattr(self.constants, "ENDPOINT", url or self.url)
        self.patch.setattr(
            self.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            self.constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}",
        )
        try:
            return {"path": str(resolve(repo, **arguments))}
        except Error as error:
            assert type(error) in (NetworkError, FileError) and "\n" not in str(error)
            return {"error": type(error).__name__, "sentence": str(error)}

    def fresh(self, repo: str = "owner/name", **environment: str) -> Answer:
        variables = os.environ | {"HF_HOME": str(self.home), "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0"}
        variables |= {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
        command = [sys.executable, "-c", CLIENT, repo]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.stderr = done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(tmp_path / "home", hub.url, monkeypatch)


def opens(answer: Answer) -> bool:
    with open_weights(answer["path"]) as opened:
        return torch.equal(opened.read("a"), torch.arange(50_000.0))


# Downloads ---------------------------------------------------------------------------------------------------------


def test_a_download_opens_and_asks_for_the_needed_files_alone(hub: Hub, client: Client) -> None:
    answer = client.fresh(TQDM_POSITION="-1")  # shows the progress bar outside of a terminal too
    assert opens(answer)
    assert sorted(p.name for p in Path(answer["path"]).iterdir()) == sorted([*SMALL, "model.safetensors"])
    assert sorted(hub.asked("GET")) == sorted([*SMALL, "model.safetensors"])
    assert "model.safetensors" in client.stderr  # the library's progress bar


def test_the_second_load_asks_for_the_commit_and_for_nothing_more(hub: Hub, client: Client) -> None:
    first = client()
    hub.log.clear()
    assert client()["path"] == first["path"]
    assert [(verb, path) for verb, path, _ in hub.log] == [("GET", "/api/models/owner/name/revision/main")]


def test_a_commit_that_is_in_the_cache_needs_no_hub(hub: Hub, client: Client) -> None:
    first = client(revision=COMMIT)
    hub.log.clear()
    assert client(revision=COMMIT)["path"] == first["path"]
    assert hub.log == []


def test_a_new_commit_fetches_what_changed(hub: Hub, client: Client) -> None:
    client()
    hub.log.clear()
    hub.commit = "d" * 40
    hub.files["README.md"] = b"# Changed"
    answer = client()
    assert hub.asked("GET") == ["README.md"]
    assert opens(answer) and (Path(answer["path"]) / "README.md").read_bytes() == b"# Changed"
    assert client(offline=True)["path"] == answer["path"]


def test_a_tokenizer_is_fetched_without_weights_and_a_config_alone(hub: Hub, client: Client) -> None:
    answer = client(want="config")
    assert hub.asked("GET") == ["config.json", "generation_config.json"]
    answer = client(want="tokenizer")
    assert "model.safetensors" not in hub.asked("GET") and "spiece.model" in hub.asked("GET")
    assert client(offline=True, want="tokenizer")["path"] == answer["path"]
    answer = client(offline=True)
    assert answer["error"] == "NetworkError" and "no model.safetensors" in answer["sentence"]


def test_the_shards_of_an_index_are_fetched(hub: Hub, client: Client) -> None:
    half = torch.arange(50_000.0)
    del hub.files["model.safetensors"]
    hub.files["model-1.safetensors"] = safetensors.torch.save({"a": half})
    hub.files["model-2.safetensors"] = safetensors.torch.save({"b": half})
    hub.files["other.safetensors"] = b"not in the index"
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    answer = client()
    assert opens(answer) and "other.safetensors" not in hub.asked("GET")
    assert opens(client(offline=True))
    (Path(answer["path"]) / "model-2.safetensors").unlink()
    answer = client(offline=True)
    assert answer["error"] == "NetworkError" and "model-2.safetensors is missing" in answer["sentence"]


def test_an_index_with_a_shard_that_escapes_is_refused(hub: Hub, client: Client) -> None:
    del hub.files["model.safetensors"]
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "../../evil"}}'
    answer = client()
    assert answer["error"] == "FileError" and "'../../evil'" in answer["sentence"]


def test_pickled_weights_are_fetched_where_there_is_nothing_better(hub: Hub, client: Client) -> None:
    del hub.files["model.safetensors"]
    client()
    assert "pytorch_model.bin" in hub.asked("GET")


def test_an_adapter_is_fetched_with_what_it_needs(hub: Hub, client: Client) -> None:
    config, weights = "adapter_config.json", "adapter_model.safetensors"
    hub.files = {config: b"{}", weights: b"12", "tokenizer.json": b"{ }", "README.md": b"x", "optimizer.pt": b"1234"}
    folder = Path(client()["path"])
    assert sorted(hub.asked("GET")) == sorted([config, weights, "tokenizer.json", "README.md"])
    assert (folder / config).is_file() and client(offline=True) == {"path": str(folder)}
    del hub.files[weights]
    hub.commit = "d" * 40
    assert "an adapter without adapter_model.safetensors" in client()["sentence"]


def test_a_repository_of_gguf_files_gives_the_one_that_is_meant(hub: Hub, client: Client) -> None:
    names = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m.gguf", "README.md", "sub/big-Q8_0-00001-of-00002.gguf"]
    hub.files = {name: b"GGUF" + name.encode() for name in names} | {"sub/big-Q8_0-00002-of-00002.gguf": b"GGUF2"}
    for wanted in ("Q4_K_M", "q4_k_m", "m-Q4_K_M.gguf"):
        answer = client(f"owner/name:{wanted}")
        assert "path" in answer, answer
        assert Path(answer["path"]).name == "m-Q4_K_M.gguf"
    assert hub.asked("GET") == ["m-Q4_K_M.gguf"]
    answer = client("owner/name:big-Q8_0.gguf")
    assert "path" in answer, answer
    parts = Path(answer["path"])
    assert parts.name == "big-Q8_0-00001-of-00002.gguf"
    assert parts.with_name("big-Q8_0-00002-of-00002.gguf").read_bytes() == b"GGUF2"
    assert client("owner/name:Q4_K_M", offline=True)["path"].endswith("m-Q4_K_M.gguf")
    for wrong, said in [
        ("", "3 .gguf files in it"),
        (":Q8_0", "2 .gguf files"),
        (":Q2_K", "no .gguf file 'Q2_K' in it"),
    ]:
        assert said in client(f"owner/name{wrong}", revision="main")["sentence"]
    del hub.files["sub/big-Q8_0-00002-of-00002.gguf"]
    assert "has 2 parts, and 1 are there" in client("owner/name:big-Q8_0")["sentence"]


def test_the_only_gguf_file_of_a_repository_is_meant(hub: Hub, client: Client) -> None:
    hub.files = {"m-Q8_0.gguf": b"GGUF", "imatrix.gguf": b"GGUF", "README.md": b"x"}
    assert client()["path"].endswith("m-Q8_0.gguf") and hub.asked("GET") == ["m-Q8_0.gguf"]
    assert client(offline=True)["path"].endswith("m-Q8_0.gguf")


def test_a_model_without_readable_weights_is_one_sentence_and_no_download(hub: Hub, client: Client) -> None:
    del hub.files["model.safetensors"], hub.files["pytorch_model.bin"]
    answer = client()
    assert answer["error"] == "FileError" and "'flax_model.msgpack', 'model.gguf'" in answer["sentence"]
    assert hub.asked("GET") == []
    assert answer["sentence"].endswith("its path, or owner/name:FILE on a hub")  # .gguf is read, but not by chance
    assert client("owner/name:model")["path"].endswith("model.gguf")


def test_the_token_goes_to_the_hub_and_not_to_its_content_network(hub: Hub, client: Client) -> None:
    assert opens(client.fresh(HF_TOKEN="hf_secret"))
    asked = [(path, headers) for _, path, headers in hub.log if "owner/name" in path or "/cdn/" in path]
    assert len(asked) > len(SMALL)
    for path, headers in asked:
        assert ("authorization" in headers) == (not path.startswith("/cdn/")), path


# Broken downloads --------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_is_resumed_where_it_broke(hub: Hub, client: Client) -> None:
    data = hub.files["model.safetensors"] = weights(large=True)
    hub.faults["model.safetensors"] = ["break"]
    path = Path(client.fresh()["path"])
    assert (path / "model.safetensors").read_bytes() == data
    ranges = [headers.get("range") for verb, path, headers in hub.log if verb == "GET" and "/cdn/" in path]
    assert ranges == [None, f"bytes={DOWNLOAD_CHUNK_SIZE}-"]  # the library keeps whole chunks


def test_a_connection_that_is_reset_is_tried_again(hub: Hub, client: Client) -> None:
    hub.faults["model.safetensors"] = ["reset"]
    assert opens(client())


def test_a_stalled_body_is_resumed(hub: Hub, client: Client) -> None:
    hub.faults["model.safetensors"] = ["stall"]
    assert opens(client())


def test_files_that_arrived_before_a_break_are_not_fetched_again(hub: Hub, client: Client) -> None:
    hub.faults["model.safetensors"] = [403]
    assert client()["error"] == "NetworkError"
    hub.log.clear()
    assert opens(client())
    assert hub.asked("GET") == ["model.safetensors"]


@pytest.mark.parametrize(
    ("name", "fault", "sentence"),
    [
        ("model.safetensors", "corrupt", "model.safetensors arrived damaged .SHA-256"),
        ("config.json", "corrupt", "config.json arrived damaged .git hash"),
        ("model.safetensors", "short", "model.safetensors did not arrive .*Consistency check failed"),
        ("model.safetensors", 404, "no such model at .*model.safetensors"),
    ],
)
def test_a_body_that_is_wrong_is_one_sentence_and_leaves_nothing(
    hub: Hub, client: Client, name: str, fault: str | int, sentence: str
) -> None:
    hub.faults[name] = [fault]
    answer = client()
    assert answer["error"] == "NetworkError"
    assert re.search(sentence, answer["sentence"]), answer
    assert client(offline=True)["error"] == "NetworkError"
    assert opens(client())


def test_a_cached_file_of_the_wrong_size_is_fetched_again(hub: Hub, client: Client) -> None:
    path = Path(client()["path"]) / "model.safetensors"
    os.truncate(path.resolve(), 100)
    assert opens(client())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (401, "set HF_TOKEN to a token that may read it"),
        (403, "set HF_TOKEN to a token that may read it"),
        ("gated", "gated; accept its conditions at http://.*/owner/name and set HF_TOKEN"),
        (404, "no such model at http://.*check the spelling"),
        (500, "its list of files did not arrive .*500"),
        (429, "its list of files did not arrive .*429"),
        ("stall", "its list of files did not arrive .*timed out"),
        ("nonsense", "its list of files did not arrive"),
    ],
)
def test_a_hub_that_refuses_is_one_sentence(hub: Hub, client: Client, fault: str | int, sentence: str) -> None:
    hub.faults["api"] = [fault]
    answer = client()
    assert answer["error"] == "NetworkError" and re.search(sentence, answer["sentence"]), answer


def test_an_unknown_id_or_revision_is_one_sentence(client: Client) -> None:
    answer = client("owner/nmae")
    assert answer["error"] == "NetworkError" and "owner/nmae: no such model" in answer["sentence"]
    answer = client(revision="v9")
    assert answer["error"] == "NetworkError" and "no revision 'v9'" in answer["sentence"]


def test_a_hub_that_cannot_be_reached_is_one_sentence_or_the_cache_with_a_warning(hub: Hub, client: Client) -> None:
    nobody = "http://127.0.0.1:9"
    assert "check the connection" in client(url=nobody)["sentence"]
    first = client()
    with pytest.warns(
        UserWarning, match="check the connection and try again; until then its copy in the cache is used"
    ):
        assert client(url=nobody) == first
    hub.faults["api"] = [503]
    with pytest.warns(UserWarning, match="503.*its copy in the cache is used"):
        assert client() == first
    hub.faults["api"] = [401]
    assert "HF_TOKEN" in client()["sentence"]  # refused is not unreachable


def test_offline_mode_works_from_the_cache_alone(hub: Hub, client: Client) -> None:
    answer = client.fresh(HF_HUB_OFFLINE="1")
    assert answer["error"] == "NetworkError" and "HF_HUB_OFFLINE is set" in answer["sentence"]
    first = client()
    hub.log.clear()
    assert client.fresh(HF_HUB_OFFLINE="1") == first and hub.log == []
    (Path(first["path"]) / "model.safetensors").unlink()
    answer = client(offline=True)
    assert answer["error"] == "NetworkError" and "no complete copy" in answer["sentence"]


def test_a_cache_that_cannot_be_written_is_one_sentence(client: Client) -> None:
    client.home.write_text("a file where the cache should be")
    answer = client()
    assert answer["error"] == "FileError" and "set HF_HOME" in answer["sentence"]


def test_a_download_that_the_disk_cannot_hold_is_refused_before_it_begins(hub: Hub, client: Client) -> None:
    listing = hub.listing()
    listing["siblings"][-len(NOT_NEEDED) - 1]["size"] = 10**18  # type: ignore[index]
    hub.listing = lambda: listing  # type: ignore[method-assign]
    answer = client()
    assert answer["error"] == "FileError" and "needs 1,000,000,000,000,0" in answer["sentence"]
    assert hub.asked("GET") == []
