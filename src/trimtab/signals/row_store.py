"""What a frozen model gave for rows, found again by their content: in memory, or in shards on disk."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trimtab.common import fingerprint, processes
from trimtab.common.count import count
from trimtab.common.disk import writing_to
from trimtab.common.errors import UserError
from trimtab.common.files import DataError, read_json, write_atomic

SHARD_BYTES = 64 << 20
"""of rows that wait to be written together"""
SHARD_SECONDS = 30.0
"""after which they are written although they are fewer"""
INDEX = "index"
"""index.json of the main process, index-1.json of the next: each writes shards of its own"""
KEY_BYTES = 16
READERS = 4
"""shards that are compared with their digests at a time"""
NAMED = frozenset({"file", "rows", "tokens", "bytes", "sha256", "sums"})
"""what an index says of each shard"""

Fields = dict[str, Tensor]
"""name -> [n, ...], one entry for each answer token of a row"""


class StoreError(UserError):
    """A store that cannot be read: a shard is torn or gone."""


def row_key(ids: Tensor, labels: Tensor) -> bytes:
    """A row by its content: token ids and labels, [T] each, without padding."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for one in (ids, labels):
        digest.update(one.to("cpu", torch.int32).contiguous().numpy().tobytes())
    return digest.digest()


def rows_of(inputs: Mapping[str, Tensor]) -> Iterator[tuple[bytes, dict[str, Tensor]]]:
    """Each row of a batch with its key, [1, T] without padding."""
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = {key: inputs[key][i : i + 1, :length] for key in ("input_ids", "attention_mask", "labels")}
        yield row_key(alone["input_ids"][0], alone["labels"][0]), alone


class RowStore:
    """Rows by key, each with the same fields.

    In a folder they are in safetensors shards. A shard is renamed to its name when it is whole, and then named in the
    index of its process with the digest of its bytes; what a killed process left besides is written over.

    Args:
        folder: None keeps everything in memory.
        mend: forget shards that are not what was written, whose rows are then missing, instead of refusing the folder.
        verify: read all shards once, to compare their bytes with the digests.

    Raises:
        StoreError: for a shard that is not what was written.
    """

    what = "rows"

    def __init__(self, folder: Path | None = None, mend: bool = False, verify: bool = True):
        self.folder = folder
        self.torn: list[str] = []
        self._rows: dict[bytes, Fields] = {}  # all, or those that wait to be written
        self._places: dict[bytes, tuple[str, int, int]] = {}  # shard, first and last token
        self._open: dict[str, Any] = {}
        self._shards: list[dict[str, Any]] = []  # of this process
        self._waiting, self._since = 0, time.monotonic()
        self.num_tokens = self.num_shards = 0
        self.sums: dict[str, float] = {}
        """what was counted along with the rows, summed over all of them"""
        self._counted: dict[str, float] = {}
        if folder is not None:
            rank = processes.rank()
            self.path = folder / (f"{INDEX}-{rank}.json" if rank else f"{INDEX}.json")
            indexes = {path: _shards_of(path) for path in sorted(folder.glob(f"{INDEX}*.json"))}
            faults = _faults(folder, [shard for shards in indexes.values() for shard in shards], verify)
            for path, shards in indexes.items():
                self._read(path, shards, faults, mend)

    def _read(self, path: Path, shards: list[dict[str, Any]], faults: Mapping[str, str], mend: bool) -> None:
        assert self.folder is not None
        for shard in shards:
            fault = faults.get(shard["file"]) or self._add(shard)
            if fault and not mend:
                raise StoreError(
                    f"{self.folder / shard['file']} is {fault}; run the command that wrote it again, which computes "
                    f"{count(shard['rows'], 'row')} anew"
                )
            if fault:
                self.torn.append(shard["file"])
            elif path == self.path:
                self._shards.append(shard)
        whole = [shard for shard in shards if shard["file"] not in self.torn]
        number = int(path.stem.partition("-")[2] or 0)
        if len(whole) < len(shards) and number % processes.launched() == processes.rank():
            write_atomic(path, json.dumps({"shards": whole}, indent=1) + "\n")

    def _add(self, shard: Mapping[str, Any]) -> str:
        """Take up a shard; or what is wrong with it."""
        assert self.folder is not None
        try:
            opened = safe_open(self.folder / shard["file"], framework="pt")
            keys, lengths = opened.get_tensor("keys"), opened.get_tensor("lengths").tolist()
        except SafetensorError:
            return "torn"
        start, raw = 0, keys.numpy().tobytes()
        for i, length in enumerate(lengths):
            self._places[raw[KEY_BYTES * i : KEY_BYTES * (i + 1)]] = (shard["file"], start, start + length)
            start += length
        self.num_tokens, self.num_shards = self.num_tokens + start, self.num_shards + 1
        for name, number in shard["sums"].items():
            self.sums[name] = self.sums.get(name, 0.0) + number
        return ""

    def __len__(self) -> int:
        """Rows that are kept: those on disk, if there is a folder."""
        return len(self._rows) if self.folder is None else len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows or key in self._places

    @property
    def num_bytes(self) -> int:
        """Of everything in the folder."""
        assert self.folder is not None
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def get(self, key: bytes) -> Fields | None:
        """The fields of a row, on the CPU."""
        if key in self._rows:
            return self._rows[key]
        if key not in self._places:
            return None
        assert self.folder is not None
        name, start, stop = self._places[key]
        if name not in self._open:
            self._open[name] = safe_open(self.folder / name, framework="pt")
        opened = self._open[name]
        fields = (field for field in opened.keys() if field not in ("keys", "lengths"))  # noqa: SIM118
        return {field: opened.get_slice(field)[start:stop] for field in fields}

    def any_row(self) -> Fields:
        """The fields of some row of a store that is not empty."""
        found = self.get(next(iter({**self._rows, **self._places})))
        assert found is not None
        return found

    def put(self, key: bytes, fields: Fields, **counted: float) -> None:
        """Keep a row. In a folder it is written with those around it, and when `flush` is called.

        Args:
            counted: numbers of the row, see `sums`.
        """
        if key in self:
            return
        self._rows[key] = {name: value.detach().cpu().clone() for name, value in fields.items()}
        self.num_tokens += len(next(iter(fields.values())))
        for name, number in counted.items():
            self.sums[name] = self.sums.get(name, 0.0) + number
            self._counted[name] = self._counted.get(name, 0.0) + number
        if self.folder is None:
            return
        self._waiting += sum(value.nbytes for value in fields.values())
        if self._waiting >= SHARD_BYTES or time.monotonic() - self._since >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait, if any, as a shard."""
        if self.folder is None or not self._rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"rows-{processes.rank()}-{self._next():05d}.safetensors"
        keys, rows = list(self._rows), list(self._rows.values())
        lengths = [len(next(iter(row.values()))) for row in rows]
        table = {field: torch.cat([row[field] for row in rows]) for field in rows[0]}
        table["keys"] = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8)
        table["lengths"] = torch.tensor(lengths, dtype=torch.int64)
        size = write_tensors(self.folder / name, table)
        facts = {"bytes": size, "sha256": fingerprint.sha256(self.folder / name), "sums": self._counted}
        shard = {"file": name, "rows": len(keys), "tokens": sum(lengths), **facts}
        write_atomic(self.path, json.dumps({"shards": [*self._shards, shard]}, indent=1) + "\n")
        self._shards.append(shard)
        self.num_shards += 1
        start = 0
        for key, length in zip(keys, lengths, strict=True):
            self._places[key] = (name, start, start + length)
            start += length
        self._rows, self._counted, self._waiting, self._since = {}, {}, 0, time.monotonic()

    def _next(self) -> int:
        """The number of the next shard of this process; a torn one is written over."""
        used = {int(shard["file"].split("-")[2].split(".")[0]) for shard in self._shards}
        return next(number for number in range(len(used) + 1) if number not in used)


def _shards_of(index: Path) -> list[dict[str, Any]]:
    """What the index of a process names."""
    try:
        found = read_json(index)
    except DataError:
        found = None
    shards = found.get("shards") if isinstance(found, dict) else None
    if not isinstance(shards, list) or not all(isinstance(one, dict) and one.keys() >= NAMED for one in shards):
        raise StoreError(f"{index} is no index of a teacher cache; delete {index.parent} and compute it again")
    return shards


def _faults(folder: Path, shards: list[dict[str, Any]], verify: bool) -> dict[str, str]:
    """Name -> what is wrong, of shards that are not what was written."""
    found = {}
    for shard in shards:
        path = folder / shard["file"]
        if not path.is_file():
            found[shard["file"]] = "gone"
        elif path.stat().st_size != shard["bytes"]:
            found[shard["file"]] = "torn"
    rest = [shard for shard in shards if verify and shard["file"] not in found]
    with ThreadPoolExecutor(READERS) as pool:  # hashing runs beside Python
        digests = pool.map(lambda shard: fingerprint.sha256(folder / shard["file"]), rest)
    return found | {
        shard["file"]: "damaged: its bytes are not those that were written"
        for shard, digest in zip(rest, digests, strict=True)
        if digest != shard["sha256"]
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> int:
    """A safetensors file that is there whole or not at all; returns its bytes."""
    part = path.with_name(f".{path.name}.part")
    try:
        with writing_to(path):
            save_file(dict(tensors), part, metadata)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def missing(store: RowStore, keys: Iterable[bytes]) -> list[int]:
    """Places, from 0, of the keys that a store lacks."""
    return [number for number, key in enumerate(keys) if key not in store]
