"""The authors' files, read from the user's folder: they carry no licence and do not come with trimtab."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.data.sources import DataError, load_rows

HOW = (
    "clone the authors' repository of GeomRel (arXiv:2501.13773) at a commit that still has its data folder, "
    "and give the folder that holds data/basic and data/advanced"
)
OPTION = re.compile(r"([A-E])\.\s*(.+?)(?=\s+[A-E]\.\s|\s*\.?$)")
STEMS = ("question", "problem", "prompt")


def load(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of all .jsonl files in the folder and below it, in the order of their paths.

    Returns:
        rows with question, text (without options), options, answer, relation, level and source (the file's stem).

    Raises:
        DataError: naming the file, the row and the key, and how to get the files.
    """
    folder = Path(folder).expanduser()
    files = sorted(path for path in folder.rglob("*.jsonl") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no .jsonl file of GeomRel; {HOW}")
    return [
        _official(row, f"{path}: row {n}", path.stem) for path in files for n, row in enumerate(load_rows(str(path)), 1)
    ]


def _official(row: Mapping[str, Any], where: str, stem: str) -> dict[str, Any]:
    key = next((key for key in STEMS if isinstance(row.get(key), str)), None)
    if key is None:
        raise DataError(f"{where} has no text under question, problem or prompt, but the keys {', '.join(row)}; {HOW}")
    text, _, choices = row[key].partition("Answer choices:")
    options = {letter: option.strip() for letter, option in OPTION.findall(" ".join(choices.split()))}
    if not options:
        raise DataError(f'{where}: {key} has no options after "Answer choices:"; {HOW}')
    answer = row.get("answer", row.get("gold"))
    if not isinstance(answer, str) or answer.strip()[:1] not in options:
        raise DataError(f"{where}: answer is {answer!r}, which is none of the options {', '.join(options)}; {HOW}")
    source = str(row.get("source", stem))
    return {
        "question": row[key],
        "text": text.strip(),
        "options": options,
        "answer": answer.strip()[0],
        "relation": str(row.get("relation", "unknown")),
        "level": "basic" if source.endswith("base") else "advanced",
        "source": source,
    }
