"""Reference trajectories of the suite `tools`: from sources, folders of ToolBench's answers, and ToolAlpaca's files."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.common.files import read_json
from trimtab.data.sources import load_rows
from trimtab.data.tool_alpaca import is_tool_alpaca, of_tool_alpaca
from trimtab.data.trajectories import Trajectory, trajectory
from trimtab.evals import SuiteError


class ToolReference(NamedTuple):
    """A trajectory, and where it comes from."""

    split: str
    id: str
    found: Trajectory
    row: Mapping[str, Any]
    """as it was read, of rows that hold one trajectory"""


def references(files: Sequence[str], rows: int | None, only: str, without: str) -> list[ToolReference]:
    """All trajectories, each under an id of its own.

    Args:
        rows: at most, of each file.
        only, without: files of ids, see `ids_of`.

    Raises:
        DataError: naming the row that is no trajectory.
        SuiteError: if none is left.
    """
    wanted, unwanted = (ids_of(only, "tools.only") if only else None), ids_of(without, "tools.without")
    found: list[ToolReference] = []
    seen: Counter[str] = Counter()
    for file in files:
        split, kept = split_of(file), 0
        for number, (one, row) in enumerate(_read(file), start=1):
            if rows is not None and kept == rows:
                break
            if (wanted is not None and one.id not in wanted) or (one.id and one.id in unwanted):
                continue
            kept += 1
            name = f"{split}/{one.id or number}"
            seen[name] += 1
            found.append(ToolReference(split, f"{name}#{seen[name]}" if seen[name] > 1 else name, one, row))
    if not found:
        raise SuiteError(f"tools.file: no trajectory is left of {', '.join(files)} with these ids")
    return found


def split_of(file: str) -> str:
    """How the rows of a source are called: of `trimtab:tools/heldout?rows=9` heldout, of a file or folder its name."""
    if file.startswith("trimtab:"):
        return file.partition("?")[0].rpartition("/")[2]
    return Path(re.sub(r"\[[\d%:]*\]$", "", file)).name.partition(".")[0]


def _read(file: str) -> Iterator[tuple[Trajectory, Mapping[str, Any]]]:
    folder = Path(file).expanduser()
    if folder.is_dir():
        yield from ((one, {}) for one in _of_folder(folder))
        return
    for number, row in enumerate(load_rows(file), start=1):
        where = f"{file}: row {number}"
        if is_tool_alpaca(row):
            yield from ((one, {}) for one in of_tool_alpaca(row, where))
        else:
            yield trajectory(row, where), row


def _of_folder(folder: Path) -> Iterator[Trajectory]:
    """A file for each query, ToolBench's `answer/G1_answer/7_DFS_woFilter_w2.json`; the query's id begins its name."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise SuiteError(
            f"tools.file: the folder {folder} holds no .json files; ToolBench's answers are one file a query"
        )
    for file in files:
        row = read_json(file)
        yield trajectory({**row, "id": row.get("id") or file.stem.partition("_")[0]}, str(file))


def ids_of(file: str, key: str) -> frozenset[str]:
    """Ids in a file: a JSON list, the keys of a JSON mapping as ToolBench's `test_query_ids` are, or one a line; of a
    folder those of all its files."""
    if not file:
        return frozenset()
    path = Path(file).expanduser()
    if path.is_dir():
        return frozenset().union(*(ids_of(str(one), key) for one in sorted(path.glob("*.json"))))
    if not path.is_file():
        raise SuiteError(f"{key}: there is no file {file}; it holds ids, as a JSON list or one a line")
    text = path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except ValueError:
        found = text.split()
    if not isinstance(found, list | dict):
        found = text.split()
    return frozenset(str(one) for one in found)
