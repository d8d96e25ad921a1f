"""Facts that SmolLM2-135M is made to say: EtCon (arXiv:2512.04753), its stages and its baselines, by generation.

    python tests/claims/edit_language.py methods --out benchmarks/results/claims_edit_language.json
    python tests/claims/edit_language.py methods --seeds 2 --rates etcon=3e-3 --known FILE.json --out FILE.json
    python tests/claims/edit_language.py curve --out benchmarks/results/claims_edit_curve.json

"methods": 20 made-up changes of known facts about countries, all made at once by `trimtab edit`, with another draw of
facts for each of three seeds. The learning rate of each method is chosen on facts of the other split (the most said,
then the most neighbours kept); that of etcon with its first stage, asked step by step. "curve": 100 changes of made-up
facts, five at a time, evaluated after each 25, by two methods. Everything is asked in the chat template and answered
greedily; the prompts of the edits also step by step, as the rows of etcon are. A reply ends where the model or its
length ends it.

Claimed by the paper: etcon is said more often than its first stage alone, and than fine-tuning in one layer, and what a
score over prefixes shows is far above what is said. Sessions are kept in the work folder; the command goes on there.
With `--rates` those methods alone run, at these rates; `--known` adds the runs of an earlier file.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from intervals import over_seeds

import trimtab
from trimtab.commands.evaluate import evaluate_model
from trimtab.common.environment import environment
from trimtab.common.files import read_json, write_atomic
from trimtab.data.generators.facts import facts
from trimtab.evals import FACTS
from trimtab.metrics.intervals import mean_of
from trimtab.report.edits import correct, rows_of
from trimtab.report.evaluation import Evaluation, is_evaluation, read
from trimtab.runs.edit_recipes import EDIT_STAGES

MODEL = "smollm2-135m"
SEEDS, TUNING_SEED = (0, 1, 2), 100
CURVE = {"locft_bf": 1.5e-3, "lora": 1e-3}
"""the methods of the curve, and their rates"""
FIRST_STAGE = "etcon, stage 1"
RATES: dict[str, tuple[str, tuple[float, ...]]] = {
    "ft_m": ("edit", (5e-4, 1.5e-3)),
    "locft_bf": ("edit", (2e-4, 5e-4)),
    "lora": ("edit", (1e-4, 3e-4)),
    "etcon": ("tpsft", (3e-4, 1e-3, 3e-3)),
}
"""method -> the stage whose learning rate is chosen, and among which"""
STEPWISE = "reliability, step by step"
KINDS = ("reliability", STEPWISE, "generalisation", "locality", "portability")
NO_PROBES: dict[str, list[str]] = {"rephrases": [], "locality": [], "hops": []}
OF_SUITE = {
    "general": "general (contains)",
    "drift": "drift: KL(original || model), nats a token",
    "legacy": "reliability (legacy: over prefixes of the target)",
    "identical": "locality (identical)",
    "says the old fact": "says the old fact",
}


@dataclass(frozen=True)
class Sizes:
    """How much is asked and trained."""

    model: str = MODEL
    edits: int = 20
    tuning: int = 10
    curve: int = 100
    every: int = 25
    at_once: int = 5
    more: dict[str, int] = field(
        default_factory=lambda: {"max_steps": 6, "max_completion_length": 80, "per_device_train_batch_size": 20}
    )
    """training of the stage with rollouts, which is the slow one on a CPU"""
    chain: int = 64
    """tokens of a chain of thought"""
    reply: int = 24
    """tokens of a reply"""


def write_edits(path: Path, split: str, number: int, seed: int, about: str) -> Path:
    """Edits with few probes, as each costs time: a rephrase, two neighbours and a hop."""
    rows = []
    for row in facts(split, number, seed, about=about):  # pyright: ignore[reportArgumentType]
        few = {"rephrases": row["rephrases"][:1], "locality": row["locality"][-2:], "hops": row["hops"]}
        if about == "made_up":  # what the curve asks
            few = {**few, "hops": [], "locality": row["locality"][-1:]}
        rows.append({key: row[key] for key in ("id", "prompt", "target_new", "subject", "ground_truth")} | few)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


class Found(NamedTuple):
    """A model's evaluations."""

    chat: Evaluation
    stepwise: Evaluation


@dataclass(frozen=True)
class Bench:
    """Sessions and evaluations in a work folder; what is there is not made again."""

    work: Path
    sizes: Sizes

    def edits(self, seed: int) -> Path:
        split, number = ("heldout", self.sizes.tuning) if seed == TUNING_SEED else ("train", self.sizes.edits)
        return write_edits(self.work / f"edits-{seed}.jsonl", split, number, seed, "known")

    def edited(self, method: str, rate: float, seed: int) -> Path:
        """The folder of a finished session without evaluations."""
        folder = self.work / f"{method}-{rate:g}-{seed}"
        stage = RATES[method][0]
        # the rate is chosen on the first stage, before what follows it is paid for
        more = {**self.sizes.more, **({"max_steps": 1} if seed == TUNING_SEED else {})} if method == "etcon" else {}
        later = [f"consolidate.training.{key}={value}" for key, value in more.items()]
        if not (folder / "done").is_file():
            trimtab.edit(
                self.edits(seed), self.sizes.model, out=folder, method=method, no_eval=True, seed=seed % TUNING_SEED,
                max_new_tokens=self.sizes.chain, resume=(folder / "session.json").is_file(),
                overrides=(f"{stage}.training.learning_rate={rate:g}", *later),
            )  # fmt: skip
            write_atomic(folder / "done", "")
        return folder

    def before(self, seed: int) -> Found:
        return self._evaluated(self.sizes.model, f"before-{seed}", seed, None)

    def after(self, method: str, rate: float, seed: int) -> Found:
        """Of a method, or of the first stage of etcon."""
        whole = "etcon" if method == FIRST_STAGE else method
        folder = self.edited(whole, rate, seed)
        stage = EDIT_STAGES[whole][0 if method == FIRST_STAGE else -1]  # pyright: ignore[reportArgumentType]
        model = folder / "steps" / "0001" / stage / "model"
        return self._evaluated(str(model), f"{stage}-of-{folder.name}", seed, self.before(seed))

    def _evaluated(self, model: str, name: str, seed: int, before: Found | None) -> Found:
        """In the chat template, with all probes; and asked to reason step by step, the prompts alone."""
        edits = self.edits(seed)
        plain = {"file": str(edits), "before": str(before.chat.folder) if before else "", "general": 10, "drift": 10}
        prompts = [{**json.loads(line), **NO_PROBES} for line in edits.read_text(encoding="utf-8").splitlines()]
        short = edits.with_name(f"prompts-{seed}.jsonl")
        write_atomic(short, "".join(json.dumps(row) + "\n" for row in prompts))
        steps = {"file": str(short), "modes": ["reasoning"], "general": 0, "drift": 0, "legacy": False}
        steps["before"] = str(before.stepwise.folder) if before else ""
        chat = self._asked(model, self.work / "evals" / name, plain, self.sizes.reply)
        return Found(chat, self._asked(model, self.work / "stepwise" / name, steps, self.sizes.chain + 32))

    def _asked(self, model: str, out: Path, options: dict[str, Any], tokens: int) -> Evaluation:
        if not (is_evaluation(out / "edit") and read_json(out / "edit" / FACTS)["finished"]):
            start = time.perf_counter()
            evaluate_model(model, "edit", out=out, options={"edit": options}, max_new_tokens=tokens)
            print(f"{out}: evaluated in {time.perf_counter() - start:.0f} s", flush=True)
        return read(out / "edit")


def by_edit(found: Evaluation, kind: str) -> dict[str, float]:
    """Edit -> the share of its correct replies, without edits whose new fact was said before."""
    values = {}
    for edit in dict.fromkeys(row["item"]["data"].get("edit") for row in found.rows.values()):
        rows = rows_of(found.rows, edit, kind) if edit else []
        own = [value for row in rows if (value := correct(row)) is not None]
        if own and (kind == "locality" or not rows[0]["item"]["data"].get("known")):
            values[edit] = sum(own) / len(own)
    return values


def of_kind(found: Found, kind: str) -> dict[str, float]:
    return by_edit(found.stepwise, "reliability") if kind == STEPWISE else by_edit(found.chat, kind)


def summary(found: Found) -> dict[str, Any]:
    """Means over edits, and the suite's own numbers."""
    means = {kind: (sum(own.values()) / len(own)) for kind in KINDS if (own := of_kind(found, kind))}
    own = {name: value.estimate for name, full in OF_SUITE.items() if (value := found.chat.value(full)) is not None}
    return means | own


def told(name: str, numbers: Mapping[str, Any]) -> None:
    print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in numbers.items()), flush=True)


# ---------------------------------------------------------------- methods


def chosen(bench: Bench, method: str) -> tuple[float, list[dict[str, Any]]]:
    """The learning rate whose edits are said most, then whose neighbours stay most, on facts of the other split."""
    tried = []
    for rate in RATES[method][1]:
        name = FIRST_STAGE if method == "etcon" else method
        numbers = summary(bench.after(name, rate, TUNING_SEED))
        told(f"{method} at {rate:g}, tuning", numbers)
        tried.append({"method": method, "rate": rate, **numbers})
    said = STEPWISE if method == "etcon" else "reliability"
    best = max(tried, key=lambda one: (one[said], one["locality"]))
    return best["rate"], tried


def methods(bench: Bench, seeds: Sequence[int], rates: dict[str, float], known: Sequence[Any] = ()) -> dict[str, Any]:
    """Of these seeds; without rates all methods, whose rates are chosen first."""
    tried = []
    for method in () if rates else RATES:
        rates[method], rows = chosen(bench, method)
        tried += rows
    contestants = [*rates, *((FIRST_STAGE,) if "etcon" in rates else ())]
    found: dict[str, dict[int, Found]] = {"before": {}, **{name: {} for name in contestants}}
    for seed in seeds:
        found["before"][seed] = bench.before(seed)
        told(f"before, seed {seed}", summary(found["before"][seed]))
        for name in contestants:
            found[name][seed] = bench.after(name, rates["etcon" if name == FIRST_STAGE else name], seed)
            told(f"{name}, seed {seed}", summary(found[name][seed]))
    pooled = {name: {kind: _pooled(of, kind) for kind in KINDS} for name, of in found.items()}
    each = [{"method": n, "seed": s, **summary(one)} for n, of in found.items() for s, one in of.items()]
    done = {(one["method"], one["seed"]) for one in each}
    each += [one for one in known if (one["method"], one["seed"]) not in done]
    return {
        "rates": rates,
        "tuning": tried,
        "per_seed": each,
        "over_seeds": over_all_seeds(each),
        "means": {
            name: {kind: list(mean_of(list(values.values()))) for kind, values in kinds.items() if values}
            for name, kinds in pooled.items()
        },
        "differences": {
            f"etcon - {name}": {kind: _difference(pooled["etcon"][kind], pooled[name][kind]) for kind in KINDS}
            for name in contestants if name != "etcon" and "etcon" in pooled
        },
    }  # fmt: skip


def over_all_seeds(each: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Method -> measure -> mean over seeds, with the interval of Student's t."""
    found = {}
    for method in dict.fromkeys(one["method"] for one in each):
        rows = [one for one in each if one["method"] == method]
        names = [name for name in rows[0] if name not in ("method", "seed", "rate")]
        found[method] = {name: list(over_seeds([one[name] for one in rows if name in one])) for name in names}
    return found


def _pooled(of: Mapping[int, Found], kind: str) -> dict[tuple[int, str], float]:
    """Each seed has edits of its own."""
    return {(seed, edit): value for seed, one in of.items() for edit, value in of_kind(one, kind).items()}


def _difference(one: Mapping[Any, float], other: Mapping[Any, float]) -> list[float]:
    return list(mean_of([one[edit] - other[edit] for edit in one if edit in other]))


# ---------------------------------------------------------------- curve


def curve(bench: Bench, rates: Mapping[str, float]) -> dict[str, Any]:
    """Shares said of the edits made so far, and neighbours and general facts kept, over the number of edits."""
    sizes, rows = bench.sizes, []
    edits = write_edits(bench.work / "curve.jsonl", "train", sizes.curve, 0, "made_up")
    for method, rate in rates.items():
        folder = bench.work / f"curve-{method}-{rate:g}"
        trimtab.edit(
            edits, sizes.model, out=folder, method=method, batch=sizes.at_once, every=sizes.every,
            resume=(folder / "session.json").is_file(),
            overrides=(f"{RATES[method][0]}.training.learning_rate={rate:g}",),
        )  # fmt: skip
        for place in sorted((folder / "evals").glob("*/edit")):
            found, made = read(place), int(place.parent.name) * sizes.at_once
            names = [json.loads(line)["id"] for line in edits.read_text(encoding="utf-8").splitlines()]
            row: dict[str, Any] = {"method": method, "edits": made}
            for kind in ("reliability", "generalisation", "locality"):
                values = by_edit(found, kind)
                for part, some in (("", names[: made or None]), (", last", names[max(0, made - sizes.every) : made])):
                    mine = [values[one] for one in some if one in values]
                    row |= {f"{kind}{part}": list(mean_of(mine))} if mine else {}
            own = {name: found.value(full) for name, full in OF_SUITE.items()}
            row |= {name: value.estimate for name, value in own.items() if value is not None}
            print(row, flush=True)
            rows.append(row)
    return {"curve": rows, "rates": dict(rates)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("methods", "curve"))
    parser.add_argument("--work", type=Path, default=Path("runs/edit_language"), help="folder of sessions")
    parser.add_argument("--rates", nargs="+", default=[], metavar="METHOD=RATE", help=f"by default {CURVE} of the "
                        "curve, and chosen for all of the methods")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the methods")
    parser.add_argument("--known", type=Path, metavar="FILE", help="of an earlier call, whose other runs are added")
    parser.add_argument("--smoke", metavar="MODEL", help="tiny sizes, with this model, in a folder that goes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        sizes = (
            Sizes(args.smoke, 3, 2, 4, 2, 1, {"max_steps": 1, "max_completion_length": 4}, 8, 4)
            if args.smoke
            else Sizes()
        )
        bench = Bench(Path(place) if args.smoke else args.work, sizes)
        rates = {name: float(rate) for name, _, rate in (one.partition("=") for one in args.rates)}
        known = read_json(args.known)["per_seed"] if args.known else []
        found = methods(bench, args.seeds, rates, known) if args.what == "methods" else curve(bench, rates or CURVE)
    text = {"experiment": f"edit_language {args.what}", "sizes": asdict(sizes), "environment": environment(),
            **found, "seconds of this call": round(time.perf_counter() - start)}  # fmt: skip
    for table in ("means", "differences"):
        for name, row in found.get(table, {}).items():
            print(
                f"{name}: "
                + ", ".join(f"{kind} {m:.2f} [{low:.2f}, {high:.2f}]" for kind, (m, low, high) in row.items())
            )
    if args.out:
        args.out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
