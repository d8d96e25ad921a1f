"""GLPFT (alpha-UMi, arXiv:2401.07324) against its baselines, on the small worlds of `trimtab:tools`.

    python tests/claims/agent_tools.py --out benchmarks/results/claims_agent_tools.json
    python tests/claims/agent_tools.py --seeds 0 --work FOLDER --out FILE.json
    python tests/claims/agent_tools.py --policy pieces-3m --whole --updates 600 --rows 4000 --out FILE.json

SmolLM2-135M with a LoRA adapter, or another policy with all its weights, makes as many updates of as many samples in
each arm: `single`, one model on whole trajectories; `one stage`, planner, caller and summariser, each from the
original; `multi-task`, one model asked as each of the three; `GLPFT`, a backbone for most of the updates, which is
merged, then the three roles from it. Learning rates are those of the recipe `tiny_agent`; none is chosen here.

Each arm then answers the suite `tools`: held-out tasks, tasks with tools that no training row offers, and tasks of
other shapes, each turn after the reference's, and the agent on its own with its final state checked. Intervals are
Student's t over seeds, paired by seed. Claimed by the paper: GLPFT is above single, one stage and multi-task in plan
accuracy and argument F1, with fewer hallucinations; one stage is below single in action EM.

Finished trainings and evaluations in the work folder are kept; the command goes on there.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from intervals import over_seeds

import trimtab
from trimtab.agents.making import make_roles
from trimtab.common.environment import environment
from trimtab.common.files import read_json, write_atomic
from trimtab.evals import FACTS
from trimtab.report.evaluation import Evaluation, is_evaluation, read

SPLITS = ("heldout", "unseen_tools", "unseen_templates")
ROLES = ("planner", "caller", "summarizer")
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
GLPFT = "GLPFT"
ARMS: dict[str, dict[str, str]] = {
    "single": {"backbone": "single"},
    "one stage": {role: f"one_stage_{role}" for role in ROLES},
    "multi-task": {"all": "multi_task"},
    GLPFT: {role: f"glpft_{role}" for role in ROLES},
}
"""arm -> the stage that trains each of its roles"""
MEASURES = (
    "plan accuracy", "action EM", "hallucination, per turn", "hallucination, per call", "argument F1", "ROUGE-L",
    "task success", "final state right",
)  # fmt: skip


def shares(updates: int, parts: Sequence[float]) -> list[int]:
    """Updates of each part; they add up to all."""
    found = [round(updates * part) for part in parts[:-1]]
    return [*found, updates - sum(found)]


def stages(updates: int, policy: str, lora: dict[str, Any] | None = LORA) -> list[dict[str, Any]]:
    """Of all arms; without `lora` all weights are trained."""

    def stage(name: str, agent: str, steps: int, rate: float = 1e-3, start: str = policy) -> dict[str, Any]:
        training = {"max_steps": steps, "learning_rate": rate, "warmup_steps": min(4, max(1, steps // 10))}
        models = {"policy": start, **({"lora": lora} if lora else {})}
        return {"name": name, "models": models, "data": {"agent": agent}, "training": training}

    backbone, *local = shares(updates, (0.6, 0.13, 0.17, 0.1))
    alone = shares(updates, (0.4, 0.4, 0.2))
    return [
        stage("backbone", "backbone", backbone),
        *(stage(f"glpft_{role}", role, steps, 5e-4, "@backbone") for role, steps in zip(ROLES, local, strict=True)),
        stage("single", "backbone", updates),
        *(stage(f"one_stage_{role}", role, steps) for role, steps in zip(ROLES, alone, strict=True)),
        stage("multi_task", "all", updates),
    ]


def recipe(seed: int, args: argparse.Namespace, folder: Path) -> Path:
    """All arms as stages of one run."""
    tree = {
        "method": "sft",
        "models": {"policy": args.policy},
        "data": {"train": f"trimtab:tools/train?rows={args.rows}&seed={seed}"},
        "training": {
            "per_device_train_batch_size": args.batch, "max_grad_norm": 1.0, "lr_scheduler_type": "cosine",
            "max_length": 1024, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no",
            "logging_steps": 5, "train_sampling_strategy": "sequential", "share_prefixes": True,
        },
        "stages": stages(args.updates, args.policy, None if args.whole else LORA),
        "seed": seed,
        "output": str(folder / "runs"),
    }  # fmt: skip
    path = folder / "agent.yaml"
    write_atomic(path, yaml.safe_dump(tree, sort_keys=False))
    return path


def evaluated(name: str, folder: Path, args: argparse.Namespace) -> Evaluation:
    """The suite `tools` of an arm, in the text format of the paper."""
    roles, out = folder / "roles" / name, folder / "evals" / name
    if not roles.exists():
        make_roles(roles, {role: str(folder / "runs" / stage) for role, stage in ARMS[name].items()})
    if not (is_evaluation(out / "tools") and read_json(out / "tools" / FACTS)["finished"]):
        files = [f"trimtab:tools/{split}?rows={args.tasks}" for split in SPLITS]
        options = {"file": files, "run": True, "max_steps": 8}
        trimtab.evaluate(str(roles), "tools", out=out, options={"tools": options}, max_new_tokens=args.tokens)
    return read(out / "tools")


def of_seed(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Arm -> split -> measure -> value."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "agent.yaml"
    if not (folder / "trained").is_file():
        start = time.perf_counter()
        trimtab.train(recipe(seed, args, folder) if not path.exists() else path, resume=(folder / "runs").exists())
        write_atomic(folder / "trained", f"{time.perf_counter() - start:.0f} s\n")
    found = {}
    for arm in ARMS:
        found[arm] = numbers(evaluated(arm, folder, args))
        for split, values in found[arm].items():
            print(f"seed {seed}  {arm:12s} {split:17s} {told(values)}", flush=True)
    return found


def numbers(found: Evaluation) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for one in found.measures:
        group = one.group.removeprefix("split=")
        if one.name in MEASURES and group in ("all", *SPLITS):
            table.setdefault(group, {})[one.name] = one.value.estimate
    return table


def told(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {values[name]:.3f}" for name in MEASURES if name in values)


def compared(seeds: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """GLPFT less each baseline, and one stage less single; paired by seed, with their intervals."""
    pairs = [(GLPFT, arm) for arm in ARMS if arm != GLPFT] + [("one stage", "single")]
    claims = {}
    for one, other in pairs:
        for split in ("all", *SPLITS):
            for measure in MEASURES:
                told_in = [seed for seed in seeds if all(measure in seed[arm].get(split, {}) for arm in (one, other))]
                differences = [seed[one][split][measure] - seed[other][split][measure] for seed in told_in]
                if differences:
                    claims[f"{measure}, {split}: {one} minus {other}"] = list(over_seeds(differences))
    return claims


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=90, help="of each arm, over all its models")
    parser.add_argument("--policy", default="smollm2-135m")
    parser.add_argument("--whole", action="store_true", help="train all weights, not an adapter")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rows", type=int, default=400, help="trajectories to learn from")
    parser.add_argument("--tasks", type=int, default=15, help="of each split")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer at most")
    parser.add_argument("--smoke", action="store_true", help="one seed and a few updates: nothing is learnt")
    parser.add_argument("--work", type=Path, help="folder whose finished parts are kept")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    if args.smoke:
        args.seeds, args.updates, args.batch, args.rows, args.tasks, args.tokens = [0], 10, 1, 4, 1, 4
        args.policy = "pieces-3m"
    start = time.time()
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        found = [of_seed(seed, args, work / f"seed-{seed}") for seed in args.seeds]
    claims = compared(found)
    for name, (estimate, low, high) in claims.items():
        print(f"{name}: {estimate:+.3f} [{low:+.3f}, {high:+.3f}]")
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "work")}
    result = {"settings": settings, "environment": environment(), "seeds": found, "claims": claims}
    result["seconds"] = round(time.time() - start)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
