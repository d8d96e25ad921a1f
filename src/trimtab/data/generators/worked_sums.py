"""Additions with several rationales each, as a teacher would work them out in different ways."""

from collections.abc import Iterator
from random import Random
from typing import Any

from trimtab.data.generators.solutions import check_split


def units_first(a: int, b: int) -> str:
    units, carry = a % 10 + b % 10, (a % 10 + b % 10) // 10
    tens = f"{a // 10}+{b // 10}{'+1' * carry}={a // 10 + b // 10 + carry}"
    return f"{a % 10}+{b % 10}={units}, carry {carry}. {tens}."


def tens_first(a: int, b: int) -> str:
    tens, units = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return f"{a // 10 * 10}+{b // 10 * 10}={tens}. {a % 10}+{b % 10}={units}."


def one_after_the_other(a: int, b: int) -> str:
    return f"{a}+{b // 10 * 10}={a + b // 10 * 10}. Then {b % 10} more."


WAYS = (units_first, tens_first, one_after_the_other)


def worked_sums(split: str, rows: int = 400, seed: int = 0, ways: int = 2) -> Iterator[dict[str, Any]]:
    """Sums of two numbers of two digits: `prompt`, `rationales` and `answer`.

    The numbers decide the split (one sum in ten is held out). Rows may repeat among themselves.

    Args:
        split: train or heldout.
        rows: how many.
        seed: of all draws.
        ways: how many rationales a row has, 1 to 3: the units first, the tens first, one number after the other.

    Raises:
        ValueError: for another split or number of ways.
    """
    check_split(split)
    if not 1 <= ways <= len(WAYS):
        raise ValueError(f"ways is {ways}; expected 1 to {len(WAYS)}")
    return _made(split == "heldout", rows, Random(f"worked_sums-{split}-{seed}"), ways)


def _made(heldout: bool, rows: int, drawn: Random, ways: int) -> Iterator[dict[str, Any]]:
    made = 0
    while made < rows:
        a, b = drawn.randint(10, 99), drawn.randint(10, 99)
        if ((31 * a + 17 * b) % 10 == 0) != heldout:
            continue
        made += 1
        rationales = [f"{way(a, b)} The answer is {a + b}" for way in WAYS[:ways]]
        yield {"prompt": f"{a}+{b}=?", "rationales": rationales, "answer": str(a + b)}
