"""How much faster do two workers of Ray score the same answers than one?

Each worker has one core and one thread, and a cluster of its own for each turn; turns alternate. The time runs from the
second value that comes back to the last: starting Ray and loading the model stay outside, and are given besides. All
scores must be those of this process without Ray. The share of the machine that others use is measured before each turn:
where it is above a tenth, nothing is said about the target.

    pip install 'trimtab[ray]'
    python benchmarks/on_ray.py
"""

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import transformers

from common import Different, Target, in_fresh_process, parser, signature, table, tell, unjudged, write
from trimtab.common import fingerprint, on_ray
from trimtab.data.sources import load_rows
from trimtab.evals.scored import read
from trimtab.evals.scoring import Encoded, encode, score_batch, scorer, shards
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.scalar_head import with_scalar_head
from trimtab.models.student import evenly_spaced, keep_layers
from trimtab.signals.reward_model import ScoreSpec, load_reward_model

transformers.logging.disable_progress_bar()
NAME, LAYERS, ROWS, BATCH = "smollm2-135m", 6, 96, 4
SOURCE = "trimtab:brevity/heldout"
LIMIT = 1 / 1.6
QUIET = 0.1


def lay_out(folder: Path, layers: int) -> None:
    """A reward model with a scalar head in a folder."""
    whole = load_model(NAME)
    model = with_scalar_head(keep_layers(whole, evenly_spaced(whole.config.num_hidden_layers, layers)), seed=0)
    model.save_pretrained(folder)
    ScoreSpec("scalar", "mean", 1.0, False, method="q_rm").write(folder)
    load_tokenizer(NAME).save_pretrained(folder)


def work(rows: int) -> list[list[Encoded]]:
    found, _ = encode(read(load_rows(SOURCE)[:rows], SOURCE), load_tokenizer(NAME), 4096, SOURCE)
    return list(shards(found, BATCH))


def without(folder: Path, rows: int) -> dict[str, Any]:
    """Scores of one process, and the time from the second batch on."""
    import torch

    torch.set_num_threads(1)
    model, jobs = load_reward_model(str(folder)), work(rows)
    function, scores = partial(score_batch, model, SOURCE), {}
    for number, job in enumerate(jobs):
        if number == 1:
            start = time.perf_counter()
        scores |= {one.id: one.scores for one in function(job)}
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "scores": scores, "fingerprint": fingerprint.of_model(model.model)}


def with_workers(number: int, folder: Path, rows: int, printed: str) -> dict[str, Any]:
    """Scores of this many workers, the time from the second value on, and that before it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    jobs, busy, scores = work(rows), psutil.cpu_percent(1.0) / 100, {}
    start = time.perf_counter()
    ray.init(address="local", num_cpus=number, include_dashboard=False, log_to_driver=False)
    with on_ray.cluster(on_ray.LOCAL) as cluster:
        assert cluster is not None
        for place, batch in enumerate(cluster.map(partial(scorer, str(folder), printed, SOURCE), jobs)):
            scores |= {one.id: one.scores for one in batch}
            if place == 1:
                begun = time.perf_counter()
    seconds = time.perf_counter() - begun
    ray.shutdown()
    return {"seconds": seconds, "before": begun - start, "busy": busy, "scores": scores}


def main() -> None:
    args = parser(__doc__).parse_args()
    layers, rows = (1, 4) if args.quick else (LAYERS, ROWS)
    repeats = args.repeats or (1 if args.quick else 3)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        in_fresh_process(lay_out, folder, layers)
        alone = in_fresh_process(without, folder, rows)
        turns: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for turn in range(repeats):
            for number in (1, 2) if turn % 2 == 0 else (2, 1):
                tell(f"turn {turn + 1} of {repeats}: {number} of 2 workers")
                found = in_fresh_process(with_workers, number, folder, rows, alone["fingerprint"])
                if found.pop("scores") != alone["scores"]:
                    raise Different(f"{number} workers do not give the scores of one process")
                turns[number].append(found)
    seconds = {number: statistics.median(one["seconds"] for one in own) for number, own in turns.items()}
    busy = statistics.mean(one["busy"] for own in turns.values() for one in own)
    target = Target("on_ray: time of two workers over that of one", LIMIT, seconds[2] / seconds[1])
    if args.quick or busy > QUIET:
        why = (
            "tiny sizes"
            if args.quick
            else f"others used {busy:.0%} of the machine; the ratio seen was {target.found:.3f}"
        )
        target = Target(target.what, LIMIT, None, why)
    setting = {"model": NAME, "layers": layers, "source": SOURCE, "answers": len(alone["scores"]), "batch": BATCH}
    cells = {"one process": {"seconds": alone["seconds"]}, **{f"{n} workers": own for n, own in turns.items()}}
    result = {"signature": signature(), "setting": setting, "busy": busy, "cells": cells}
    path = write("on_ray", args, result, unjudged([target]) if args.quick else [target])
    rows_of = [["without Ray", alone["seconds"], None]]
    rows_of += [[n, seconds[n], statistics.median(one["before"] for one in own)] for n, own in turns.items()]
    print(table(["workers", "seconds", "seconds before"], rows_of), "", target, path.name, sep="\n")


if __name__ == "__main__":
    main()
