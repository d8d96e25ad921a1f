"""Rows from Arrow (parquet, datasets of the hub) as plain Python values, without the nulls that schemas add."""

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from trimtab.common.files import DataError


def parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file; a DataError if it is none, or a column holds what is neither text nor number."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read()  # read_table would also read the names of folders
        names = table.column_names
        columns = [_as_objects(table.column(place)) for place in range(len(names))]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no parquet file: {error}") from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path} has several columns of the name {twice[0]!r}; rename or remove all but one")
    rows = (dict(zip(names, cells)) for cells in zip(*columns))
    return plain_rows(rows, str(path))


def _as_objects(column: Any) -> list[Any]:
    """The cells of a column; maps are lists of pairs in Arrow and become objects where their keys are texts."""
    cells = column.to_pylist()
    return [_mapped(cell, column.type) for cell in cells] if "map<" in str(column.type) else cells


def _mapped(value: Any, kind: Any) -> Any:
    import pyarrow.types as types

    if value is None:
        return None
    if types.is_map(kind):
        pairs = [(key, _mapped(one, kind.item_type)) for key, one in value]
        return dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else [list(pair) for pair in pairs]
    if types.is_struct(kind):
        return {field.name: _mapped(value.get(field.name), field.type) for field in kind}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_mapped(one, kind.value_type) for one in value]
    return value


def plain_rows(rows: Iterable[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """Rows of JSON values whose objects have no key without a value.

    Arrow gives every object of a column the keys of all of them: the arguments {"city": "Rome"} of one call also get
    the other call's "zone", as null. Columns themselves may be null, and so may members of lists.

    Raises:
        DataError: naming row and column of what JSON does not hold.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        found.append({name: _plain(value, f"{where}: row {number}: {name}") for name, value in row.items()})
    return found


_PLAIN = {str, int, float, bool, type(None)}
"""lists of these are copied as they are: columns of numbers for each token are long"""


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one, where) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return list(value) if _PLAIN.issuperset(map(type, value)) else [_plain(one, where) for one in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes):  # as some writers store texts
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise DataError(f"{where} holds bytes that are no text; take the column out") from None
    if hasattr(value, "tolist"):  # numpy
        return _plain(value.tolist(), where)
    raise DataError(
        f"{where} holds {type(value).__name__}; rows are made of texts, numbers, lists and objects: take the column out"
    )


def _number(value: Decimal) -> Any:
    """A decimal as the number that JSON would write; as a text where that loses digits."""
    if value.is_finite() and value == value.to_integral_value():
        return int(value)
    near = float(value)
    return near if not math.isfinite(near) or Decimal(repr(near)) == value else str(value)
