"""ProcessBench (arXiv:2412.06559): solutions of mathematical problems, and the first wrong step of each."""

from pathlib import Path
from typing import Any

from trimtab.data.sources import DataError, Row, load_rows

SPLITS = ("gsm8k", "math", "olympiadbench", "omnimath")


def processbench(folder: str | Path) -> list[Row]:
    """Rows of the official files gsm8k.json, math.json, olympiadbench.json and omnimath.json, in this order.

    Args:
        folder: with the four files of the dataset Qwen/ProcessBench on the Hugging Face hub, as they are.

    Returns:
        TRL's stepwise rows: `prompt` (one message of the user), `completions` (the steps) and `labels` (true before the
        first incorrect step, else false: the annotators did not judge what follows it), `first_error` (its index
        from 0, or -1) and `split`.

    Raises:
        DataError: naming the file that is missing or the row that makes no sense.
    """
    get = f"get the files of Qwen/ProcessBench: hf download Qwen/ProcessBench --repo-type dataset --local-dir {folder}"
    rows = []
    for split in SPLITS:
        path = Path(folder).expanduser() / f"{split}.json"
        if not path.is_file():
            raise DataError(f"{path.parent} has no {path.name}; {get}")
        for number, row in enumerate(load_rows(str(path)), 1):
            missing = [key for key in ("problem", "steps", "label") if key not in row]
            if missing:
                raise DataError(f"{path}: row {number} has no key {missing[0]!r}; {get}")
            rows.append({**_stepwise(row, f"{path}: row {number} ({row.get('id', 'no id')})"), "split": split})
    return rows


def _stepwise(row: dict[str, Any], where: str) -> Row:
    problem, steps, label = row["problem"], row["steps"], row["label"]
    if not isinstance(problem, str):
        raise DataError(f"{where}: expected a text under 'problem', found {type(problem).__name__}")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise DataError(f"{where}: expected a list of texts under 'steps'")
    if type(label) is not int or not -1 <= label < len(steps):
        raise DataError(f"{where} has the label {label!r} and {len(steps)} steps; expected -1 to {len(steps) - 1}")
    return {
        "prompt": [{"role": "user", "content": problem}],
        "completions": steps,
        "labels": [label < 0 or index < label for index in range(len(steps))],
        "first_error": label,
    }
