"""Rows that were read once: found by content, in memory and on disk, and torn shards are told."""

import json

import pytest
import torch

from trimtab.common import processes
from trimtab.signals import row_store
from trimtab.signals.row_store import RowStore, StoreError, row_key, rows_of


def fields(length: int, start: float) -> dict:
    states = start + torch.arange(3.0 * length).view(length, 3)
    return {"hidden": states.bfloat16(), "rest": states[:, 0]}


def key(number: int) -> bytes:
    return row_key(torch.tensor([1, number]), torch.tensor([-100, number]))


def filled(folder=None, numbers=range(4), each=2):
    store = RowStore(folder)
    for number in numbers:
        store.put(key(number), fields(number % 3, 10.0 * number), mass=float(number))
        if number % each == each - 1:
            store.flush()
    store.flush()
    return store


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("disk", [False, True])
def test_rows_come_back_bit_by_bit_with_their_dtype_whatever_they_are_kept_in(tmp_path, disk):
    store = filled(tmp_path / "new" if disk else None)
    again = RowStore(tmp_path / "new") if disk else store
    assert len(again) == 4
    assert again.num_tokens == sum(number % 3 for number in range(4))
    assert again.sums == {"mass": 6.0}
    for number in range(4):
        assert same(again.get(key(number)), fields(number % 3, 10.0 * number))
    assert again.get(key(9)) is None
    assert key(9) not in again


def test_a_row_is_known_by_ids_and_labels_without_padding():
    ids, labels = torch.tensor([[5, 6, 7, 0], [5, 6, 0, 0]]), torch.tensor([[-100, 6, 7, -100], [-100, 6, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    found = [key for key, _ in rows_of({"input_ids": ids, "labels": labels, "attention_mask": mask})]
    assert found == [row_key(ids[0, :3], labels[0, :3]), row_key(ids[1, :2], labels[1, :2])]
    assert len({*found, row_key(ids[0, :3], torch.tensor([-100, -100, 7])), row_key(labels[0, :3], ids[0, :3])}) == 4


def test_rows_that_wait_are_written_when_there_are_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(row_store, "SHARD_BYTES", 50)
    store = RowStore(tmp_path)
    for number in range(1, 9):
        store.put(key(number), fields(2, number))
    assert 1 < len(list(tmp_path.glob("*.safetensors"))) < 8
    store.flush()
    assert len(RowStore(tmp_path)) == 8


def test_more_rows_extend_a_folder(tmp_path):
    filled(tmp_path, range(3))
    filled(tmp_path, range(3, 6))
    store = RowStore(tmp_path)
    assert len(store) == 6
    assert same(store.get(key(5)), fields(2, 50.0))


def test_each_process_writes_shards_of_its_own_and_all_are_read(tmp_path, monkeypatch):
    filled(tmp_path, range(0, 6, 2))
    monkeypatch.setattr(processes, "rank", lambda: 1)
    filled(tmp_path, range(1, 6, 2))
    assert {path.name for path in tmp_path.glob("index*")} == {"index.json", "index-1.json"}
    assert all(key(number) in RowStore(tmp_path) for number in range(6))


@pytest.mark.parametrize(("harm", "said"), [("cut", "torn"), ("gone", "gone"), ("a bit", "damaged: its bytes are not")])
def test_a_torn_shard_is_refused_and_can_be_written_anew(tmp_path, harm, said):
    filled(tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    data = shard.read_bytes()
    if harm == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[: len(data) // 2] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match=rf"{shard.name} is {said}.*; .* 2 rows anew"):
        RowStore(tmp_path)
    mended = RowStore(tmp_path, mend=True)
    assert (len(mended), mended.torn) == (2, [shard.name])
    for number in range(2):
        mended.put(key(number), fields(number % 3, 10.0 * number), mass=float(number))
    mended.flush()
    assert (len(RowStore(tmp_path)), RowStore(tmp_path).sums) == (4, {"mass": 6.0})


def test_a_shard_of_a_process_that_died_before_the_index_named_it_is_written_over(tmp_path):
    filled(tmp_path, range(2))
    (tmp_path / "rows-0-00001.safetensors").write_bytes(b"half a shard")
    (tmp_path / ".rows-0-00001.safetensors.part").write_bytes(b"half")
    filled(tmp_path, range(2, 4))
    assert len(RowStore(tmp_path)) == 4
    assert len(json.loads((tmp_path / "index.json").read_text())["shards"]) == 2
    assert not list(tmp_path.glob(".*.part"))


def test_a_disk_that_is_full_leaves_what_was_whole(tmp_path, monkeypatch):
    store = filled(tmp_path, range(2))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_store, "save_file", full)
    store.put(key(7), fields(2, 0.0))
    with pytest.raises(OSError, match="No space left"):
        store.flush()
    assert (len(store), len(RowStore(tmp_path))) == (2, 2)
    monkeypatch.undo()
    store.flush()
    assert len(RowStore(tmp_path)) == 3


@pytest.mark.parametrize("text", ["", "[]", "not json", '{"shards": [{"file": "rows-0-00000.safetensors"}]}'])
def test_an_index_that_says_too_little_is_refused_by_its_name(tmp_path, text):
    filled(tmp_path)
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(StoreError, match=r"index.json is no index of a teacher cache; delete .* and compute it again"):
        RowStore(tmp_path)


def test_a_torn_shard_of_a_process_that_is_no_more_is_forgotten_by_one_that_is(tmp_path, monkeypatch):
    for rank in range(4):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        filled(tmp_path, [rank])
    monkeypatch.setattr(processes, "launched", lambda: 2)
    (tmp_path / "rows-3-00000.safetensors").unlink()
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert RowStore(tmp_path, mend=True).torn == ["rows-3-00000.safetensors"]
    assert len(RowStore(tmp_path)) == 3
