"""Items of a suite as documents of lm-evaluation-harness, whose task files name these functions.

Each takes the metadata of a task (its version, and what `--metadata` and `--model_args` were given), of which only the
settings under the suite's name are read, as in {"geomrel": {"depths": [1]}}.
"""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from trimtab.evals import suites
from trimtab.evals.suite import SuiteError


def geomrel(**metadata: Any) -> dict[str, Dataset]:
    return documents("geomrel", metadata)


def socialbench(**metadata: Any) -> dict[str, Dataset]:
    """Without memory, which has no options, and rows with several right letters, which earn a share of the point."""
    return documents("socialbench", metadata, several=False)


def multiple_choice(**metadata: Any) -> dict[str, Dataset]:
    return documents("multiple_choice", metadata)


def documents(name: str, metadata: Mapping[str, Any], several: bool = True) -> dict[str, Dataset]:
    """{"test": a row for each item with options}, in their order.

    A row has `id`, `prompt` (the message of the suite's default prompt), `choices` (the letters) and `target`, the
    indices of the right ones.

    Args:
        name: of the suite.
        metadata: its settings under its name, and what does not concern it.
        several: keep items with several right letters.

    Raises:
        SuiteError: for settings that the suite does not know, or if no item is left.
    """
    suite = suites.load(name)
    (step,) = next(iter(suite.prompts.values()))
    rows = []
    for item in suite.items(suites.check(name, metadata.get(name, {}))):
        if item.options and (several or len(item.target) == 1):
            (message,) = step(item, ())
            letters = list(item.options)
            target = [letters.index(letter) for letter in item.target]
            rows.append({"id": item.id, "prompt": message["content"], "choices": letters, "target": target})
    if not rows:
        raise SuiteError(f"{name}: no item with these settings has options to compare")
    return {"test": Dataset.from_list(rows)}
