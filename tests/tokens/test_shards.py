"""Token shards: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yanmo.errors import Error, FileError, InputError
from yanmo.tokens.shards import TokenShards, is_shards, open_shards, start_and_end, write_shards

DOCUMENTS = [[5, 6, 7], [], [8], [9] * 10]


def shards(folder: Path, documents: list[list[int]] = DOCUMENTS, **options: int) -> TokenShards:
    values = {"vocab_size": 20, "n_bytes": 30, "start_id": 1, "end_id": 2} | options
    return write_shards(documents, folder, tokenizer_hash="a" * 64, **values)  # type: ignore[arg-type]


def test_documents_come_back_with_their_end(tmp_path: Path) -> None:
    written = shards(tmp_path / "s")
    read = open_shards(tmp_path / "s", "a" * 64)
    assert [read.document(i).tolist() for i in range(4)] == [[*document, 2] for document in DOCUMENTS]
    assert (read.n_documents, read.n_tokens, read.n_bytes, read.start_id, read.end_id) == (4, 18, 30, 1, 2)
    assert read.sha256 == written.sha256 and is_shards(tmp_path / "s") and not is_shards(tmp_path)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_ids_take_two_bytes_where_the_vocabulary_fits(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    last = vocab_size - 1
    read = shards(tmp_path / "s", [[last]], vocab_size=vocab_size)
    assert read.ids.dtype == dtype and read.document(0).tolist() == [last, 2]


def test_bytes_may_be_counted_while_documents_stream(tmp_path: Path) -> None:
    seen: list[int] = []

    def documents():  # type: ignore[no-untyped-def]
        for size in (3, 4):
            seen.append(size)
            yield [5] * size

    read = write_shards(
        documents(), tmp_path / "s", tokenizer_hash="", vocab_size=9, n_bytes=lambda: sum(seen), start_id=0, end_id=0
    )
    assert read.n_bytes == 7


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    shards(tmp_path / "s")
    with pytest.raises(FileError, match="come from the tokenizer aaaaaaaaaaaa, not from bbbbbbbbbbbb"):
        open_shards(tmp_path / "s", "b" * 64)


@pytest.mark.parametrize("document", [[20], [-1]])
def test_an_id_outside_the_vocabulary_is_refused_and_nothing_is_written(tmp_path: Path, document: list[int]) -> None:
    with pytest.raises(InputError, match="document 1 has the id"):
        shards(tmp_path / "s", [[5], document])
    assert list(tmp_path.iterdir()) == []


def test_a_failing_reader_leaves_the_old_shards_as_they_were(tmp_path: Path) -> None:
    shards(tmp_path / "s")

    def documents():  # type: ignore[no-untyped-def]
        yield [5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(documents(), tmp_path / "s", tokenizer_hash="", vocab_size=9, n_bytes=1, start_id=0, end_id=0)
    assert open_shards(tmp_path / "s").n_documents == 4 and len(list(tmp_path.iterdir())) == 1


def test_start_and_end_fall_back_on_each_other() -> None:
    assert start_and_end(1, 2) == (1, 2)
    assert start_and_end(None, 2) == (2, 2) and start_and_end(1, None) == (1, 1)
    with pytest.raises(InputError, match="neither a bos nor an eos"):
        start_and_end(None, None)


def test_a_flipped_id_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    shards(tmp_path / "s")
    path = tmp_path / "s" / "ids.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match="not what was written"):
        open_shards(tmp_path / "s")


@pytest.mark.parametrize("name", ["ids.bin", "bounds.bin"])
@pytest.mark.parametrize("more", [-2, -1, 1, 8])
def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path: Path, name: str, more: int) -> None:
    shards(tmp_path / "s")
    path = tmp_path / "s" / name
    path.write_bytes(path.read_bytes()[:more] if more < 0 else path.read_bytes() + bytes(more))
    with pytest.raises(FileError, match="are promised by meta.json"):
        open_shards(tmp_path / "s", verify=False)


def test_boundaries_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    shards(tmp_path / "s")
    path = tmp_path / "s" / "bounds.bin"
    bounds = np.fromfile(path, "<i8")
    bounds[1], bounds[2] = bounds[2], bounds[1]
    bounds.tofile(path)
    with pytest.raises(FileError, match="do not ascend"):
        open_shards(tmp_path / "s", verify=False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_ends_in_an_error_of_ours_or_in_valid_ids(tmp_path: Path, data: st.DataObject) -> None:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    shards(tmp_path / "s")
    path = tmp_path / "s" / data.draw(st.sampled_from(["ids.bin", "bounds.bin", "meta.json"]))
    content = bytearray(path.read_bytes())
    if path.suffix == ".json" and data.draw(st.booleans()):
        meta = json.loads(content)
        key = data.draw(st.sampled_from(sorted(meta)))
        meta[key] = data.draw(st.none() | st.integers() | st.text(max_size=4) | st.just([]) | st.just({}))
        path.write_text(json.dumps(meta))
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        cut = data.draw(st.booleans())
        content[place:] = b"" if cut else bytes([data.draw(st.integers(0, 255))]) + content[place + 1 :]
        path.write_bytes(content)
    try:
        read = open_shards(tmp_path / "s")
    except Error as error:
        assert "\n" not in str(error)
    else:
        assert all(int(read.document(i).max()) < read.vocab_size for i in range(read.n_documents))


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        open_shards(tmp_path / "absent")
