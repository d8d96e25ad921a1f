"""What of trimtab runs on this machine's GPUs: a list of checks, each a line with its result.

    python scripts/gpu_checks.py                        all, on CUDA, most valuable first
    python scripts/gpu_checks.py --device cpu --tiny    the same list on the CPU: shows that the list itself runs
    python scripts/gpu_checks.py --only kd resume       those whose name holds one of the words

A check that this machine cannot do is "not run", with the reason; anything else that does not hold is FAILED, and makes
the exit code 1. Results are written after each check to `benchmarks/results/<card>/checks.json`.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT / "scripts")]

import torch

import common
from gpu_check_cases import CASES, Context, NotRun


def carried_out(words: Sequence[str], context: Context, path: Path, budget: float) -> list[dict[str, Any]]:
    """The result of each check, written after each."""
    chosen = [(name, case) for name, case in CASES.items() if not words or any(word in name for word in words)]
    found: list[dict[str, Any]] = []
    started = time.monotonic()
    for name, case in chosen:
        since, detail = time.monotonic(), ""
        try:
            if since - started > budget:
                raise NotRun(f"the budget of {budget:.0f} s is spent")
            with tempfile.TemporaryDirectory() as folder:
                detail, result = case(context.within(Path(folder))) or "", "ok"
        except NotRun as reason:
            result, detail = "not run", str(reason)
        except Exception as error:
            result, detail = "FAILED", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            traceback.print_exc(file=sys.stderr)
        seconds = round(time.monotonic() - since, 2)
        found.append({"check": name, "result": result, "detail": detail, "seconds": seconds})
        print(f"{result:>8} {seconds:7.1f} s  {name}{': ' if detail else ''}{detail}", flush=True)
        record = {"signature": common.signature(), "device": str(context.device), "tiny": context.tiny, "checks": found}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Check what of trimtab runs on this machine's GPUs.")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the list itself")
    parser.add_argument("--tiny", action="store_true", help="shorter runs")
    parser.add_argument("--only", nargs="+", default=[], help="words of the names of checks")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds, after which no further check begins")
    parser.add_argument("--results-dir", type=Path, default=common.HERE / "results")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; --device cpu --tiny tries the list on the CPU", file=sys.stderr)
        return 2
    path = args.results_dir / common.card(args.device) / "checks.json"
    found = carried_out(args.only, Context(torch.device(args.device), args.tiny), path, args.budget)
    number = {result: sum(one["result"] == result for one in found) for result in ("ok", "FAILED", "not run")}
    print(f"{number['ok']} ok, {number['FAILED']} failed, {number['not run']} not run; {path}")
    return 1 if number["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
