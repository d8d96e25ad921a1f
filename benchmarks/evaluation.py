"""How many items of a suite are answered a second: our own runner against inspect_ai with its `hf` provider.

The same model, items, prompts and tokens of an answer, greedily, by turns in one process; loading is not counted.
All must give the same answers, but for near ties that rounding in another batch may turn (at most one in ten). Further
contestants: inspect_ai with our provider, and options that are compared instead of written. Scoring is timed alone.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from inspect_ai import eval as inspect_eval
from inspect_ai.model import get_model

from common import Different, Target, alternate, parser, ratio, signature, table, write
from trimtab.evals import harness, suites
from trimtab.evals.answerers import Local
from trimtab.evals.runner import Question, ask, verdicts
from trimtab.models.builtin import builtin_folder
from trimtab.models.loading import load_model, load_tokenizer

SUITE, NAME = "geomrel", "smollm2-135m"
ITEMS, NEW, BATCH, REPEATS = 96, 16, 32, 2
OURS, PEER, HARNESS, COMPARED = "trimtab", "inspect_ai, hf", "inspect_ai, trimtab", "trimtab, options compared"


def main() -> None:
    args = parser(__doc__).parse_args()
    about = signature()
    repeats = args.repeats or (1 if args.quick else REPEATS)
    number, new = (2, 2) if args.quick else (ITEMS, NEW)
    suite = suites.load(SUITE)
    items = list(suite.items(suites.check(SUITE, {})))[:number]
    prompt = next(iter(suite.prompts))
    model, tokenizer = load_model(NAME), load_tokenizer(NAME)
    hf = get_model("hf/local", model_path=str(builtin_folder(NAME)), do_sample=False, batch_size=BATCH, memoize=False)
    own = get_model(f"trimtab/{NAME}", live=(model, tokenizer), batch=BATCH, memoize=False)
    answers: dict[str, dict[str, str]] = {}

    def ours() -> None:
        found = ask(Question(suite, items, prompt, max_new_tokens=new), Local(model, tokenizer, batch=BATCH))
        answers[OURS] = {one.item.id: one.answers[-1] for one in found}

    def compared() -> None:
        ask(Question(suite, items, prompt, read="options"), Local(model, tokenizer, batch=BATCH))

    def harnessed(name: str, served: Any) -> None:
        task = harness.suite_task(SUITE, limit=number, max_new_tokens=new)
        with tempfile.TemporaryDirectory() as logs:
            (log,) = inspect_eval(
                task, model=served, log_dir=logs, display="none", max_connections=BATCH,
                max_samples=BATCH,
            )  # fmt: skip
            assert log.status == "success", log.error  # its samples are read from the file when they are asked for
            answers[name] = {str(sample.id): sample.output.completion for sample in log.samples or ()}

    steps = {
        OURS: ours,
        PEER: lambda: harnessed(PEER, hf),
        HARNESS: lambda: harnessed(HARNESS, own),
        COMPARED: compared,
    }
    timings = alternate(steps, repeats, patience=0)
    same = {}
    for name in (PEER, HARNESS):
        same[name] = sum(answers[name][key].strip() == text.strip() for key, text in answers[OURS].items()) / number
        if same[name] < 0.9:
            raise Different(f"{name} gives the answers of {OURS} to only {same[name]:.0%} of the items")
    start = time.perf_counter()
    for item in items:
        verdicts(suite, item, {"answers": [answers[OURS][item.id]]})
    scoring = (time.perf_counter() - start) / timings[OURS].median
    faster = ratio(timings[OURS].median, timings[PEER].median)
    targets = [
        Target("evaluation: trimtab's seconds over the hf provider's", 1 / 1.5, None if args.quick else faster),
        Target("evaluation: scoring over generation", 0.01, None if args.quick else scoring),
    ]
    cells = [
        {"contestant": name, "a_second": number / timing.median, "time": timing.record()}
        for name, timing in timings.items()
    ]
    path = write(
        "evaluation",
        args,
        {"signature": about, "items": number, "tokens": new, "cells": cells, "same_answers": same},
        targets,
    )
    print(table(["contestant", "seconds", "items a second"], [
        [name, timing.median, number / timing.median] for name, timing in timings.items()
    ]))  # fmt: skip
    print("", *targets, Path(path).name, sep="\n")


if __name__ == "__main__":
    main()
