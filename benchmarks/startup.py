"""How long does a user wait for `--help`: trimtab against TRL's command line."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from common import Target, alternate, parser, ratio, signature, table, write

LIMIT = 0.6
REPEATS = 9


def show_help(command: str) -> None:
    """Run `COMMAND --help` of this environment.

    Raises:
        RuntimeError: if it fails or prints no help.
    """
    words = [str(Path(sys.executable).parent / command), "--help"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0 or "usage" not in done.stdout.lower():
        raise RuntimeError(f"{command} --help ended with code {done.returncode} and printed no usage: {done.stderr}")


def main() -> None:
    args = parser(__doc__).parse_args()
    about = signature()
    repeats = args.repeats or (1 if args.quick else REPEATS)
    timings = alternate({name: partial(show_help, name) for name in ("trimtab", "trl")}, repeats, patience=0)
    compared = ratio(timings["trimtab"].median, timings["trl"].median)
    target = Target("startup: `trimtab --help` over `trl --help`", LIMIT, None if args.quick else compared)
    cells = [
        {"contestant": name, "seconds": timing.median, "rounds": timing.seconds} for name, timing in timings.items()
    ]
    path = write("startup", args, {"signature": about, "cells": cells, "ratio": compared}, [target])
    print(table(["command", "seconds", "ratio"], [
        ["trimtab --help", timings["trimtab"].median, compared],
        ["trl --help", timings["trl"].median, 1.0],
    ]))  # fmt: skip
    print(f"\n{target}\n{path.name}")


if __name__ == "__main__":
    main()
