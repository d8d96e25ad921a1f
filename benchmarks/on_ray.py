"""How much faster do two workers of Ray score the same answers than one?

Each worker has one core and one thread, and a cluster of its own for each turn; turns alternate. Workers note when they
begin and end each batch: the rate is that of the batches begun after all workers were ready. Starting Ray and loading
the model stay outside; the time of the whole is given besides. All scores must be those of this process without Ray.
The share of the machine that others use is measured before each turn: where it is above a tenth, nothing is said about
the target.

    pip install 'trimtab[ray]'
    python benchmarks/on_ray.py
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
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
NAME, LAYERS, ROWS, BATCH = "smollm2-135m", 12, 200, 4
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


def timed(make: Callable[[], Callable[[Any], Any]]) -> Callable[[], Callable[[Any], Any]]:
    """What is made also says in which process and when it began and ended."""

    def load() -> Callable[[Any], Any]:
        function = make()

        def run(job: Any) -> Any:
            begun = time.time()
            return function(job), os.getpid(), begun, time.time()

        return run

    return load


def rate(values: list[Any], jobs: list[list[Encoded]]) -> float:
    """Tokens a second of all workers together, once all of them are at work."""
    ready = max(
        min(begun for _, pid, begun, _ in values if pid == worker) for worker in {pid for _, pid, _, _ in values}
    )
    inside = [number for number, (_, _, begun, _) in enumerate(values) if begun >= ready]
    tokens = sum(len(one.row["input_ids"]) for number in inside for one in jobs[number])
    return tokens / (max(ended for *_, ended in values) - ready)


def without(folder: Path, rows: int) -> dict[str, Any]:
    """Scores of one process, and its rate."""
    import torch

    torch.set_num_threads(1)
    model, jobs = load_reward_model(str(folder)), work(rows)
    values = list(map(timed(lambda: partial(score_batch, model, SOURCE))(), jobs))
    printed = fingerprint.of_model(model.model)
    return {"tokens_a_second": rate(values, jobs), "scores": scores_of(values), "fingerprint": printed}


def scores_of(values: list[Any]) -> dict[str, list[float]]:
    return {one.id: one.scores for batch, *_ in values for one in batch}


def with_workers(number: int, folder: Path, rows: int, printed: str) -> dict[str, Any]:
    """Scores of this many workers, their rate, and the time of the whole."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    jobs, busy = work(rows), psutil.cpu_percent(1.0) / 100
    start = time.perf_counter()
    ray.init(address="local", num_cpus=number, include_dashboard=False, log_to_driver=False)
    with on_ray.cluster(on_ray.LOCAL) as cluster:
        assert cluster is not None
        values = list(cluster.map(timed(partial(scorer, str(folder), printed, SOURCE)), jobs))
    seconds = time.perf_counter() - start
    ray.shutdown()
    used = len({pid for _, pid, _, _ in values})
    return {
        "tokens_a_second": rate(values, jobs), "workers": used, "whole_seconds": seconds, "busy": busy,
        "scores": scores_of(values),
    }  # fmt: skip


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
    rates = {number: statistics.median(one["tokens_a_second"] for one in own) for number, own in turns.items()}
    busy = statistics.mean(one["busy"] for own in turns.values() for one in own)
    target = Target("on_ray: time of two workers over that of one", LIMIT, rates[1] / rates[2])
    if args.quick or busy > QUIET:
        why = (
            "tiny sizes"
            if args.quick
            else f"others used {busy:.0%} of the machine; the ratio seen was {target.found:.3f}"
        )
        target = Target(target.what, LIMIT, None, why)
    setting = {"model": NAME, "layers": layers, "source": SOURCE, "answers": len(alone["scores"]), "batch": BATCH}
    cells = {
        "one process": {"tokens_a_second": alone["tokens_a_second"]},
        **{f"{n} workers": own for n, own in turns.items()},
    }
    result = {"signature": signature(), "setting": setting, "busy": busy, "cells": cells}
    path = write("on_ray", args, result, unjudged([target]) if args.quick else [target])
    lines = [["without Ray", alone["tokens_a_second"], None]]
    lines += [[n, rates[n], statistics.median(one["whole_seconds"] for one in own)] for n, own in turns.items()]
    print(table(["workers", "tokens a second", "seconds with Ray's start"], lines), "", target, path.name, sep="\n")


if __name__ == "__main__":
    main()
