"""Prepared rows in a file, for the next start: numbers in safetensors, with a digest of all of them."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

DIGEST, FACTS, KEYS = "digest", "facts", "keys"
LENGTHS = ".lengths"
MOST = 4 << 30
"""bytes of a folder of such files; beyond that the ones that were used least recently go"""


@dataclass(frozen=True)
class KeptRows:
    """Rows with numbers or lists of numbers under the same keys, and what else is known of them."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    """as JSON holds them"""


def save(path: Path, kept: KeptRows) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: where it cannot be written.
    """
    arrays = {}
    for key, first in kept.rows[0].items():
        values = [row[key] for row in kept.rows]
        if isinstance(first, list):
            arrays[key + LENGTHS] = np.array([len(value) for value in values], dtype=np.int64)
            values = [number for value in values for number in value]
        arrays[key] = np.array(values, dtype=_dtype(values))
    metadata = {FACTS: json.dumps(kept.facts), KEYS: json.dumps(list(kept.rows[0]))}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save_file(arrays, part, {**metadata, DIGEST: _digest(arrays, metadata)})
        Path(part).replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        Path(part).unlink(missing_ok=True)
    _make_room(path.parent, path)


def load(path: Path) -> KeptRows | None:
    """What `save` wrote; None where no file is, or one that is not as it was written."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.pop(DIGEST, None) != _digest(arrays, metadata):
            return None
        keys, facts = json.loads(metadata[KEYS]), json.loads(metadata[FACTS])
        columns = {key: _column(arrays, key) for key in keys}
        os.utime(path)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return KeptRows([dict(zip(keys, values)) for values in zip(*columns.values(), strict=True)], facts)


def _dtype(values: Sequence[Any]) -> type:
    if not all(type(value) is int for value in values):
        return np.float64
    return np.int32 if all(-(2**31) <= value < 2**31 for value in values) else np.int64


def _column(arrays: dict[str, np.ndarray], key: str) -> list[Any]:
    numbers = arrays[key].tolist()
    if key + LENGTHS not in arrays:
        return numbers
    ends = np.cumsum(arrays[key + LENGTHS]).tolist()
    return [numbers[start:end] for start, end in zip([0, *ends], ends)]


def _digest(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    digest = hashlib.blake2b(json.dumps(sorted(metadata.items())).encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _make_room(folder: Path, but: Path) -> None:
    """Delete the files that were used least recently until the rest fits."""
    files = sorted((path for path in folder.glob("*.safetensors") if path != but), key=lambda p: p.stat().st_mtime)
    total = sum(path.stat().st_size for path in [*files, but])
    for path in files:
        if total <= MOST:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
