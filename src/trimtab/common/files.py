"""Text files: one reader and one writer for JSON lines, JSON and plain lines (CSV: `csv_text`).

Input may come from Windows (a byte order mark, CRLF), may lack its last newline, and may be gzipped. Lines end
at "\\n" alone: `str.splitlines` and universal newlines also cut at U+2028, U+2029, U+0085 and others, which are part of
a text. Output is written so that every reader splits and decodes it alike.
"""

import gzip
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.common.disk import writing_to
from trimtab.common.errors import UserError, looked_in


class DataError(UserError):
    """Data that cannot be used as it is; the message names the place and how to fix it."""


# ---------------------------------------------------------------- texts


def read_text(path: Path) -> str:
    """A UTF-8 text without its byte order mark, with any line endings; `-` is standard input, .gz is decompressed."""
    try:
        if str(path) == "-":
            given = getattr(sys.stdin, "buffer", None)
            data = sys.stdin.read().encode("utf-8", "surrogatepass") if given is None else given.read()
            return decoded(data, "standard input")
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}{looked_in(path)}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return decoded(data, str(path))


_MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def decoded(data: bytes, where: str) -> str:
    """The text of a file's bytes, which must be UTF-8 without NUL bytes."""
    name = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if name is None and data[:2].count(0) == data[2:4].count(0) == 1:  # the byte order mark may be missing
        name = "UTF-16"
    if name is not None:
        said = ' (which Windows calls "Unicode")' if name == "UTF-16" else ""
        raise DataError(f"{where} is {name} text{said}; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}: line {line} is not UTF-8 text ({error.reason}, byte {error.start} of the file); save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{where}: line {line} holds a NUL byte, so the file is binary or damaged")
    return text


def split_lines(text: str) -> list[str]:
    """Lines of a text without their line endings, which are "\\n" or "\\r\\n" only."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


_HALF = re.compile("[\ud800-\udfff]")


def half_character(value: Any, at: str = "") -> tuple[str, str] | None:
    """The place and code of the first lone surrogate in a JSON value; None if there is none."""
    if isinstance(value, str):
        found = None if value.isascii() else _HALF.search(value)
        return (at, f"\\u{ord(found[0]):04x}") if found else None
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        inner = ((f"{at}.{key}" if at else str(key), one) for key, one in value.items())
        if named := next((found for key in value if (found := half_character(key, at))), None):
            return named
    elif isinstance(value, (list, tuple)):
        inner = ((f"{at}[{number}]", one) for number, one in enumerate(value))
    return next((found for place, one in inner if (found := half_character(one, place))), None)


def check_whole(value: Any, where: str) -> None:
    """Raise a DataError for a lone surrogate, naming its place in the value."""
    if found := half_character(value):
        at, half = found
        named = f" under {ascii(at)[1:-1]}" if at else ""
        raise DataError(
            f"{where} holds half of a character{named}: {half} without the other half; fix the text, or remove it"
        )


# ---------------------------------------------------------------- JSON


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise _Twice(twice)
    return found


class _Twice(ValueError):
    """A duplicate key in an object: some JSON readers take the first value and some the last."""


def loads(text: str, where: str, hint: str = "", line: int | None = None) -> Any:
    """Parse a JSON value without duplicate keys. NaN and Infinity, which Python writes, are read as numbers.

    Args:
        where: the file, for messages.
        hint: added to the message if there is more than one value.
        line: number of the line that `text` is; None for the whole file.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        extra = hint if error.msg == "Extra data" else ""
        number = error.lineno if line is None else line
        message = f"line {number} is not valid JSON: {error.msg} at column {error.colno}{extra}"
        raise DataError(f"{where}: {message}") from error
    except (_Twice, RecursionError) as error:
        twice = f"has an object with the key {error.args[0]!r} twice; keep one of them"
        fault = twice if isinstance(error, _Twice) else "is nested too deeply"
        raise DataError(f"{where if line is None else f'{where}: line {line}'} {fault}") from error


def read_json(path: Path, hint: str = "") -> Any:
    """The one value of a JSON file."""
    return loads(read_text(path), str(path), hint)


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number, from 1, and value of each non-empty line."""
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if line.strip(" \t\r"):
            yield number, loads(line, str(path), line=number)


class RecordError(ValueError):
    """An unreadable line in a file that trimtab wrote; the caller says what to do about it."""

    def __init__(self, line: int):
        super().__init__(f"line {line}")
        self.line = line


def records(data: bytes, *keys: str) -> Iterator[dict[str, Any]]:
    """The objects in the lines of a file that trimtab wrote; a RecordError at a line without these keys."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except ValueError as error:
            raise RecordError(number) from error
        if not isinstance(row, dict) or not row.keys() >= set(keys):
            raise RecordError(number)
        yield row


_CUT = re.compile("[\u0085\u2028\u2029\ud800-\udfff]")


def dumps(value: Any, **options: Any) -> str:
    """JSON without ASCII escapes, except for characters that some readers take for a line ending, and for lone
    surrogates, which UTF-8 lacks; options are those of `json.dumps`."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _CUT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_line(value: Any, **options: Any) -> str:
    """A value as a line of a file."""
    return f"{dumps(value, **options)}\n"


def append_lines(path: Path, values: Iterable[Any]) -> None:
    """Append lines to a file in one write; if it fails, the file is unchanged."""
    data = "".join(map(json_line, values)).encode()
    before = path.stat().st_size if path.exists() else None
    try:
        with writing_to(path), path.open("ab") as out:
            out.write(data)
    except OSError:
        if before is None:
            path.unlink(missing_ok=True)
        elif path.stat().st_size > before:
            os.truncate(path, before)
        raise


def drop_torn_line(path: Path) -> None:
    """Cut off a partial last line left by a kill."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        if file.read() in (b"", b"\n"):
            return
    end = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, end)


class JsonLines:
    """An append-only file of JSON objects, one per line. A torn last line is cut off.

    Args:
        keys: required in each line.
        what: name of the lines, for messages.
        error: raised for any other line that is not such an object.
    """

    def __init__(self, path: Path, *keys: str, what: str = "lines", error: type[UserError] = DataError):
        self.path, self.what = path, what
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            drop_torn_line(path)
            try:
                self.rows = list(records(path.read_bytes(), *keys))
            except RecordError as failed:
                raise error(f"{path}, line {failed.line}: not a row; repair or delete the line") from None

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        append_lines(self.path, rows)
        self.rows += map(dict, rows)


def write_atomic(path: Path, text: str | Iterable[str]) -> Path:
    """Write or replace a file atomically."""
    return write_together({path: text})


def write_together(texts: Mapping[Path, str | Iterable[str]]) -> Path:
    """Write files that belong together, so that none is ever beside one of another write; returns the first path."""
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing_to(path), parts[path].open("wb") as out:
                pieces = [text] if isinstance(text, str) else text
                out.writelines(piece.encode(errors="backslashreplace") for piece in pieces)  # for lone surrogates
        for path in list(parts)[1:]:
            path.unlink(missing_ok=True)
        for path, part in parts.items():
            with writing_to(path):
                part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return next(iter(parts))
