"""How long do a training step and decoding take on a machine that nobody else uses, and beside one busy process?

Contestants are the ways in which OpenMP's threads wait for work, each in a process of its own, because OpenMP reads the
environment once:

  trimtab    what `import trimtab` sets where the user said nothing
  spinning   GNU OpenMP's own: 300,000 rounds awake
  passive    OMP_WAIT_POLICY=PASSIVE: sleep at once

The step is one of `distill_step.py` (forward of both models, KL, backward); decoding writes greedily.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

from common import Target, alternate, parser, ratio, signature, table, tell, write

WAITING = {
    "trimtab": {},
    "spinning": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
IDLE_LIMIT, BUSY_LIMIT = 1.05, 2.5
TASKS = ("step", "decoding")


def tasks(quick: bool) -> dict[str, Callable[[], object]]:
    import torch

    import distill_step

    pair = distill_step.Pair.make(distill_step.TINY if quick else "smollm2-135m", 3 if quick else 15)
    vocab = pair.student.config.vocab_size
    inputs = distill_step.make_inputs(vocab, 1, 32 if quick else 512)
    model, prompts, written = pair.teacher.model, inputs["input_ids"][:, :16].repeat(4, 1), 4 if quick else 32

    @torch.no_grad()
    def decode() -> None:
        mask, length = torch.ones_like(prompts), {"max_new_tokens": written, "min_new_tokens": written}
        model.generate(prompts, attention_mask=mask, do_sample=False, **length)

    return {"step": lambda: distill_step.step("trimtab", pair, inputs), "decoding": decode}


def inside(quick: bool, repeats: int) -> None:
    """What a process of one contestant does: its medians go to stdout as JSON."""
    import torch

    timings = alternate(tasks(quick), repeats, patience=0)
    spins = os.environ.get("GOMP_SPINCOUNT")
    medians = {name: round(statistics.median(timing.seconds), 4) for name, timing in timings.items()}
    print(json.dumps({"spins": spins, "threads": torch.get_num_threads(), "seconds": medians}))


def outside(name: str, args) -> dict:
    """One contestant in a fresh process."""
    left = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    words = [sys.executable, __file__, "--inside", "--repeats", str(args.repeats), *(["--quick"] if args.quick else [])]
    done = subprocess.run(words, env={**left, **WAITING[name]}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args) -> dict[str, dict[str, dict]]:
    """By situation and contestant."""
    found: dict[str, dict[str, dict]] = {"idle": {}, "busy": {}}
    for situation, by_name in found.items():
        other = None
        if situation == "busy":
            other = subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"])
        try:
            for name in WAITING:
                tell(f"{name}, {situation}")
                by_name[name] = outside(name, args)
        finally:
            if other is not None:
                other.kill()
                other.wait()
    return found


def judge(found: dict[str, dict[str, dict]], quick: bool) -> list[Target]:
    idle, busy = found["idle"], found["busy"]
    made = []
    for task in TASKS:
        ours = idle["trimtab"]["seconds"][task]
        slower = None if quick else ratio(ours, idle["spinning"]["seconds"][task])
        made.append(Target(f"shared_cores: {task}, idle, over spinning", IDLE_LIMIT, slower))
        shared = None if quick else ratio(busy["trimtab"]["seconds"][task], ours)
        made.append(Target(f"shared_cores: {task}, beside a busy process over idle", BUSY_LIMIT, shared))
    return made


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--inside", action="store_true", help="measure in this process, as it is")
    args = made.parse_args()
    args.repeats = args.repeats or (1 if args.quick else 5)
    if args.inside:
        inside(args.quick, args.repeats)
        return
    about = signature()
    found = measure(args)
    targets = judge(found, args.quick)
    path = write("shared_cores", args, {"signature": about, "cells": found}, targets)
    lines = [
        [name, *(found[situation][name]["seconds"][task] for task in TASKS for situation in found)] for name in WAITING
    ]
    print(table(["waiting", *(f"{task}, {situation}" for task in TASKS for situation in found)], lines))
    print("\n".join(["", *map(str, targets), path.name]))


if __name__ == "__main__":
    main()
