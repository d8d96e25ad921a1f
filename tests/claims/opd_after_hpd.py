"""On-policy distillation after HPD and after SFT (arXiv:2604.20244), on a model of 0.8 million weights.

    trimtab train tiny_grpo  # its stages tiny_policy and tiny_imitator are the teacher and the first student
    python tests/claims/opd_after_hpd.py --policy runs/tiny_imitator/model --teacher runs/tiny_policy/model

The teacher solves small tasks; the student is the same model after it learnt solutions of which half hold an error. It
is distilled on right solutions, by SFT or by HPD, with the same rows, updates and rate; then both go on with the same
on-policy distillation. Held-out tasks are answered a few times at each station.

Claimed, over seeds (Student's t, paired): after OPD the student of HPD is right more often than that of SFT, and nearer
to the teacher on its own answers (KL(student || teacher), nats a token). Settings were tried on seed 100 alone.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from intervals import over_seeds
from own_answers import DATA, carried_out

from trimtab.common.environment import environment
from trimtab.report.reading import load

SHARED = {"save_strategy": "no", "max_grad_norm": 1.0, "bf16": False, "gradient_checkpointing": False}
KEPT = ("pass_at_1", "reverse_kl", "entropy")


def distilled(method: str, seed: int, args: argparse.Namespace, folder: Path) -> Path:
    """The student after the first station."""
    roles = {"teacher": args.teacher} if method == "hpd" else {}
    tree = {
        "method": method,
        "models": {"policy": args.policy, **roles},
        "data": {"train": f"{DATA}/train?rows={64 * args.first_steps}&level=small&seed={2000 + seed}"},
        "training": {
            "per_device_train_batch_size": 64, "max_steps": args.first_steps, "learning_rate": args.first_rate,
            "warmup_steps": 5, "lr_scheduler_type": "constant_with_warmup", "max_length": 128, **SHARED,
        },
        "seed": seed,
        "output": str(folder / f"{method}-{seed}"),
    }  # fmt: skip
    return carried_out(f"{method}-{seed}", tree) / "model"


def on_policy(name: str, policy: Path | str, seed: int, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Held-out measures of the student before, during and after OPD."""
    tree = {
        "method": "opd",
        "models": {"policy": str(policy), "teacher": args.teacher},
        "data": {
            "train": f"{DATA}/train?rows=4000&level=small&seed={1000 + seed}",
            "heldout": f"{DATA}/heldout?rows={args.tasks}&level=small",
        },
        "reward": "exact",
        "training": {
            "per_device_train_batch_size": 64, "num_generations": 8, "max_completion_length": 40,
            "max_steps": args.steps, "learning_rate": args.rate, "lr_scheduler_type": "constant", **SHARED,
        },
        "eval": {"answers": 4, "batch_size": 256, "every": args.every},
        "seed": seed,
        "output": str(folder / f"opd-{name}-{seed}"),
    }  # fmt: skip
    found = load(carried_out(name, tree)).evals
    return [{"step": one["step"], **{key: round(one[key], 4) for key in KEPT}} for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--first-steps", type=int, default=20, help="updates of SFT or HPD")
    parser.add_argument("--first-rate", type=float, default=3e-4)
    parser.add_argument("--steps", type=int, default=40, help="updates of OPD")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--every", type=int, default=20, help="updates of OPD between measurements")
    parser.add_argument("--tasks", type=int, default=200, help="held out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start, paths = time.time(), {"sft": [], "hpd": [], "neither": []}
    with tempfile.TemporaryDirectory() as place:
        for seed in args.seeds:
            for name, own in paths.items():
                policy = args.policy if name == "neither" else distilled(name, seed, args, Path(place))
                own.append(on_policy(name, policy, seed, args, Path(place)))
                print(f"seed {seed}, {name}, {time.time() - start:.0f} s so far:", *own[-1], sep="\n  ", flush=True)
    claims = {}
    for key, sign in (("pass_at_1", 1), ("reverse_kl", -1)):
        for station, which in (("before OPD", 0), ("after OPD", -1)):
            gain = over_seeds([sign * (h[which][key] - s[which][key]) for h, s in zip(paths["hpd"], paths["sft"])])
            verdict = "reproduced" if gain.low > 0 else "did not reproduce"
            claims[f"{key}, {station}: how much better hpd is"] = [verdict, list(gain)]
            print(f"{verdict}: {key}, {station}: hpd is better by {gain}")
    if args.out:
        settings = {key: value for key, value in vars(args).items() if key not in ("out", "policy", "teacher")}
        result = {"settings": settings, "environment": environment(), "paths": paths, "claims": claims}
        args.out.write_text(json.dumps({**result, "seconds": round(time.time() - start)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
