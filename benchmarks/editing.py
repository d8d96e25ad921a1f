"""What does it cost to make an edit by each method, and to evaluate edits in batches with a cache against one prompt at
a time without?

Each method makes eight edits of `trimtab:facts` at once, with the settings of `trimtab edit`, in a process of its own:
seconds an update of each stage (the median), seconds an edit with loading, chains and saving, and memory. The first
stage of etcon is also run with cross-entropy in place of its objective.

For evaluation: the toolkits for editing generate one prompt at a time with `use_cache=False`. Both sides ask
SmolLM2-135M the same probes of `trimtab:facts` (of each edit six: as it was made, in other words, a neighbour, two
hops, a negation, a paragraph), greedily and with as many new tokens. All verdicts must be equal, but for near ties that
rounding in another batch may turn (at most one in fifty). The slow side is timed on some of the edits; ours on those
and on all.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

import trimtab
from common import (
    MIB,
    Different,
    Target,
    alternate,
    in_fresh_process,
    parser,
    peak_bytes,
    ratio,
    signature,
    table,
    tell,
    unjudged,
    write,
)
from trimtab.data.tokens import prompt_ids
from trimtab.evals import suites
from trimtab.evals.models import HFModel
from trimtab.evals.runner import EvalSpec, ask
from trimtab.evals.suite import Item
from trimtab.models.ends import end_tokens
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.runs.edit_recipes import EDIT_STAGES, EditMethod

NAME, EDITS, FEW, NEW, BATCH, LIMIT = "smollm2-135m", 100, 10, 16, 32, 1.5
PROBES = ("reliability", "generalisation", "locality", "portability", "negation", "longform")
OURS, PEER = "trimtab", "one at a time, no cache"
MADE, STAGE_LIMIT = 8, 1.5
SHORT_ROLLOUTS = ("consolidate.training.max_steps=4", "consolidate.training.max_completion_length=64")
"""a rollout is what a CPU is slow at; the seconds of an update say what a longer stage costs"""


QUICK_ROLLOUTS = tuple(
    f"consolidate.training.{key}"
    for key in ("max_completion_length=4", "num_generations=2", "per_device_train_batch_size=2")
)
QUICK_NAME = "characters-1m"
SAME = "cross-entropy on the same rows and weights"


def probes(edits: int) -> list[Item]:
    """The first probe of each kind of each edit."""
    suite = suites.load("edit")
    settings = {"file": f"trimtab:facts/train?rows={edits}", "general": 0}
    first: dict[tuple[str, str], Item] = {}
    for item in suite.items(suites.check("edit", settings)):
        if item.groups["probe"] in PROBES:
            first.setdefault((item.data["edit"], item.groups["probe"]), item)
    return list(first.values())


def verdicts(answers: dict[str, str], items: Sequence[Item]) -> dict[str, Any]:
    suite = suites.load("edit")
    return {item.id: {name: v.value for name, v in suite.score(item, answers[item.id]).items()} for item in items}


def ours(items: Sequence[Item], model: Any, tokenizer: Any, new: int) -> dict[str, str]:
    spec = EvalSpec(suites.load("edit"), items, "edit", max_new_tokens=new)
    return {one.item.id: one.answers[-1] for one in ask(spec, HFModel(model, tokenizer, batch=BATCH))}


@torch.no_grad()
def peer(items: Sequence[Item], model: Any, tokenizer: Any, new: int) -> dict[str, str]:
    """As the toolkits do it, but for their stop strings, which cut answers."""
    (step,) = suites.load("edit").prompts["edit"]
    found = {}
    for item in items:
        ids = torch.tensor([prompt_ids(tokenizer, step(item, ()), item.id)])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, use_cache=False,
            eos_token_id=end_tokens(tokenizer, model), pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        found[item.id] = tokenizer.decode(output[0, ids.size(1) :], skip_special_tokens=True)
    return found


def made(method: EditMethod, number: int, quick: bool) -> dict[str, Any]:
    """What it costs to make so many edits at once."""
    names = EDIT_STAGES[method]
    model, more = NAME, SHORT_ROLLOUTS if method == "etcon" else ()
    if quick:
        model, more = QUICK_NAME, tuple(f"{stage}.training.max_steps=2" for stage in names)
        more += QUICK_ROLLOUTS if method == "etcon" else ()
    with tempfile.TemporaryDirectory() as place:
        out, edits = Path(place) / "edits", f"trimtab:facts/train?rows={number}"
        how: dict[str, Any] = {"method": method, "overrides": more, "no_eval": True, "max_new_tokens": 64}
        start = time.perf_counter()
        peak = peak_bytes(lambda: trimtab.edit(edits, model, out=out, **how))
        seconds = time.perf_counter() - start
        step = out / "steps" / "0001"
        stages = {stage: _updates(step / stage) for stage in names}
        if method == "etcon":
            stages[SAME] = _updates(_with_cross_entropy(step / "tpsft", Path(place) / "same"))
    return {"edits": number, "seconds_an_edit": seconds / number, "peak_mib": peak / MIB, "stages": stages}


def _with_cross_entropy(run: Path, output: Path) -> Path:
    """The run of the first stage again, with the objective of ft_m on the same rows and weights."""
    tree = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe = output.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump({**tree, "method": "sft", "options": {}, "output": str(output)}), encoding="utf-8")
    return trimtab.train(recipe).folder


def _updates(folder: Path) -> dict[str, float]:
    """Number of updates, and the median seconds of one."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    at = [line["seconds"] for line in lines if line["event"] == "train"]
    apart = [after - before for before, after in itertools.pairwise(at)]
    return {"updates": len(at), "seconds_an_update": statistics.median(apart or at)}


def making(quick: bool) -> tuple[dict[str, Any], list[list[Any]], list[Target]]:
    """All methods, a table, and what was promised."""
    found = {}
    for method in get_args(EditMethod):
        tell(f"making edits: {method}")
        found[method] = in_fresh_process(made, method, 2 if quick else MADE, quick)
    rows = [
        [method, stage, one["updates"], one["seconds_an_update"], cost["seconds_an_edit"], cost["peak_mib"]]
        for method, cost in found.items() for stage, one in cost["stages"].items()
    ]  # fmt: skip
    of = {stage: one["seconds_an_update"] for stage, one in found["etcon"]["stages"].items()}
    plain = found["ft_m"]["stages"]["edit"]["seconds_an_update"]
    longer = "its rows are chains and not targets, and its gradient passes all layers but the first few"
    promised = [
        Target(f"an update of etcon's first stage over {SAME}", STAGE_LIMIT, ratio(of["tpsft"], of[SAME])),
        Target("an update of etcon's first stage over one of ft_m", STAGE_LIMIT, ratio(of["tpsft"], plain), longer),
    ]
    return found, rows, promised


def main() -> None:
    args = parser(__doc__).parse_args()
    making_, made_rows, promised = making(args.quick)
    about, new = signature(), 2 if args.quick else NEW
    write("editing", args, {"signature": about, "making": making_, "complete": False}, promised)  # what follows is slow
    few, all_ = (1, 2) if args.quick else (FEW, EDITS)
    model, tokenizer = load_model(NAME).eval(), load_tokenizer(NAME)
    some, every, answers = probes(few), probes(all_), {}

    def asked(name: str, function: Any) -> None:
        answers[name] = function(some, model, tokenizer, new)

    tell(f"{few} edits, {len(some)} probes")
    steps = {OURS: lambda: asked(OURS, ours), PEER: lambda: asked(PEER, peer)}
    timings = alternate(steps, args.repeats or 1, patience=0)
    mine, theirs = (verdicts(answers[name], some) for name in (OURS, PEER))
    same = sum(mine[key] == theirs[key] for key in mine) / len(mine)
    if same < 0.98:
        raise Different(f"{OURS} gives the verdicts of {PEER!r} to only {same:.1%} of the probes")
    tell(f"{all_} edits, {len(every)} probes")
    start = time.perf_counter()
    ours(every, model, tokenizer, new)
    seconds = time.perf_counter() - start
    rows = [[name, few, len(some), timing.median, len(some) / timing.median] for name, timing in timings.items()]
    rows.append([OURS, all_, len(every), seconds, len(every) / seconds])
    faster = ratio(timings[OURS].median, timings[PEER].median)
    targets = [Target(f"evaluation of edits: {OURS}, seconds over {PEER!r}", 1 / LIMIT, faster), *promised]
    targets = unjudged(targets) if args.quick else targets
    cells = [dict(zip(("contestant", "edits", "probes", "seconds", "a_second"), row, strict=True)) for row in rows]
    found = {"tokens": new, "batch": BATCH, "same_verdicts": same, "evaluation": cells, "making": making_}
    path = write("editing", args, {"signature": about, **found}, targets)
    heads = ["method", "stage", "updates", "seconds an update", "seconds an edit", "peak MiB"]
    print(table(heads, made_rows), "", sep="\n")
    print(table(["contestant", "edits", "probes", "seconds", "probes a second"], rows))
    print(f"\nequal verdicts: {same:.1%}", *targets, Path(path).name, sep="\n")


if __name__ == "__main__":
    main()
