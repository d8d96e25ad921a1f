"""Tables of cases that one test goes through, where hundreds of items would each cost more than their case does."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pytest
import torch

FAMILIES = ("llama_tied", "qwen2", "gemma2", "gpt2")
"""tied weights and nothing else; biases and windows in some layers; capped logits, norms behind each block and an
embedding that is scaled; learned positions and weights that lie the other way round"""


def families(cases: Iterable[str] | Mapping[str, Any], fast: Collection[str] = FAMILIES) -> list[Any]:
    """Model families for `pytest.mark.parametrize`; those that are not in `fast` are slow."""
    named = cases if isinstance(cases, Mapping) else {case: case for case in cases}
    assert named.keys() >= set(fast), f"{set(fast) - named.keys()} is no family here"
    return [pytest.param(case, id=name, marks=() if name in fast else pytest.mark.slow) for name, case in named.items()]


def table(names: str | tuple[str, ...], cases: Iterable[Any], **_: Any) -> Callable[[Callable], Callable]:
    """As `pytest.mark.parametrize`, but one item. All cases are tried, each with the same draws; every failure names
    its own. The test is skipped if all of them are."""
    names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names
    rows = [case if len(names) > 1 else (case,) for case in cases]
    assert rows, "a table without a case tests nothing"

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def all_cases(**fixtures: Any) -> None:
            failed, skipped = [], []
            for row in rows:
                values = dict(zip(names, row, strict=True))
                torch.manual_seed(0)
                try:
                    test(**fixtures, **values)
                except pytest.skip.Exception as reason:
                    skipped.append(reason)
                except Exception as error:
                    error.add_note(f"where {', '.join(f'{name}={value!r}' for name, value in values.items())}")
                    failed.append(error)
            if len(failed) == 1:
                raise failed[0]
            if failed:
                raise ExceptionGroup(f"{len(failed)} of {len(rows)} cases", failed)
            if len(skipped) == len(rows):
                raise skipped[0]

        signature = inspect.signature(test)
        kept = [one for name, one in signature.parameters.items() if name not in names]
        all_cases.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return all_cases

    return decorate
