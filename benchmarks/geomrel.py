"""How many labelled items of GeomRel a second, by the number of chained constructions."""

import time
from itertools import islice

from common import Target, parser, signature, table, tell, write
from trimtab.data.generators.geometry import items

LIMIT = 1 / 200
SIZES = {1: 600, 2: 600, 3: 300, 4: 200, 5: 100}


def seconds_a_row(depth: int, number: int, seed: int) -> float:
    """On one core, without the oracle's memory of an earlier run."""
    items.forget()
    start = time.process_time()
    made = sum(1 for _ in islice(items.generate(seed, (depth,)), number))
    return (time.process_time() - start) / made


def machine() -> float:
    """Seconds for five million additions, by which to judge how busy the machine was."""
    start, total = time.process_time(), 0
    for i in range(5_000_000):
        total += i
    return time.process_time() - start


def main() -> None:
    args = parser(__doc__).parse_args()
    repeats = args.repeats or (1 if args.quick else 3)
    cells = []
    for depth, size in SIZES.items():
        tell(f"depth {depth}")
        number = 3 if args.quick else size
        rounds = sorted(seconds_a_row(depth, number, seed) for seed in range(repeats))
        middle = rounds[len(rounds) // 2]
        cells.append({"depth": depth, "rows": number, "rows_a_second": 1 / middle, "seconds_a_row": rounds})
    about = {**signature(), "five_million_additions": round(machine(), 3)}
    found = None if args.quick else sorted(cells[1]["seconds_a_row"])[repeats // 2]
    target = Target("geomrel: seconds of one core for a labelled item of depth 2", LIMIT, found)
    path = write("geomrel", args, {"signature": about, "cells": cells}, [target])
    print(table(["depth", "items a second", "ms an item"], [
        [str(cell["depth"]), cell["rows_a_second"], 1000 / cell["rows_a_second"]] for cell in cells
    ]))  # fmt: skip
    print(f"\n{target}\n{path.name}")


if __name__ == "__main__":
    main()
