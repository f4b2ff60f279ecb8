"""What `resolve` takes for a path, an id or neither, and which files of a repository it needs: without a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import NOT_NEEDED, SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, FileError, InputError
from yanmo.hub import resolve
from yanmo.hubfiles import needed


def test_what_is_on_this_machine_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    (tmp_path / "x.gguf").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("gpt2") == Path("gpt2")
    assert resolve("~/gpt2") == tmp_path / "gpt2"
    assert resolve(tmp_path / "x.gguf") == tmp_path / "x.gguf"
    assert resolve("run") == Path("run/model")


@pytest.mark.parametrize(
    "text", ["./gpt3", "{}/gpt3", "~/gpt3", "a/b/c", "C:\\gpt3", "..", "gpt3/", "~nobody/x", "gpt3.gguf"]
)
def test_what_looks_like_a_path_is_never_asked_of_a_hub(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if text == "..":
        assert resolve(text) == Path("..")
        return
    with pytest.raises(FileError, match="no such file or folder"):
        resolve(text.format(tmp_path))
    if text.startswith("{"):
        with pytest.raises(FileError, match=r"nearest: 'gpt2'"):
            resolve(text.format(tmp_path))


def test_a_path_object_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="no such file or folder"):
        resolve(Path("gpt2"))


@pytest.mark.parametrize("text", ["", "a b", "-x", "a--b", "a/b\0", "owner/", "名", "a" * 5000, "owner/na..me", "a\nb"])
def test_what_is_neither_path_nor_id_is_one_sentence(text: str) -> None:
    with pytest.raises((InputError, FileError)) as caught:
        resolve(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(st.sampled_from([*SMALL, *NOT_NEEDED, "model.safetensors"]) | st.text(max_size=10)))
def test_no_list_of_files_makes_us_fetch_what_is_not_needed(names: list[str]) -> None:
    try:
        chosen = needed(names, "model", "x")
    except Error:
        return
    if "config.json" not in names and any(name.endswith(".gguf") for name in names):
        assert len(set(chosen)) == 1 and chosen[0].endswith(".gguf")
        return
    assert set(chosen) <= {*SMALL, "model.safetensors", "pytorch_model.bin"} | {
        name for name in names if name.endswith((".model", ".spm", ".safetensors")) and "/" not in name
    }


def test_the_hub_is_imported_when_it_is_needed() -> None:
    code = "import sys, yanmo.hub; assert not {'huggingface_hub', 'torch', 'httpx2', 'httpx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
