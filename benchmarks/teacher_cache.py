"""What does a cached teacher cost, and how far is what it gives from the full divergence?

Epoch time of kd with a live teacher, its cached hidden states, and its 64 most likely tokens, by turns, for a large and
a small student: what a cache saves is the teacher's forward, so the speed-up is bounded by its share; bytes an answer
token; and for forward KL the mean error of the value, and of the gradient at the student's logits relative to the norm
of the full one:

  full            hidden states, float32 or bfloat16: D numbers a token
  top-k + tail    the K most likely tokens and the rest as one class
  top-k renorm.   the K tokens renormalised, which is not a divergence of the two models
  sampled         K tokens drawn from the teacher: unbiased, with variance
  student-k       the student's K most likely tokens and the rest: needs the live teacher
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from common import Target, Timing, alternate, parser, shown, signature, table, tell, unjudged, write
from trimtab.core import TokenBatch, class_logprobs
from trimtab.data.collate import Collator
from trimtab.methods import kd
from trimtab.models import loading
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.divergence import forward_kl
from trimtab.runs.cached_teacher import cache_facts, open_cache
from trimtab.runs.parse import load_recipe
from trimtab.runs.policy import Shared, make_policy, policy_tokenizer, policy_vocab
from trimtab.runs.recipe import Recipe
from trimtab.runs.rows import prepare_source
from trimtab.runs.teacher_pass import cache_teacher
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel

SIZES = (8, 64, 512)
FASTER = 1.8


def gradient(student: Tensor, value) -> tuple[Tensor, Tensor]:
    """Values [N] and the gradient at the student's logits [N, V]."""
    student = student.detach().requires_grad_()
    values = value(student)
    (grad,) = torch.autograd.grad(values.sum(), student)
    return values.detach(), grad


def estimates(student: Tensor, teacher: Tensor, k: int) -> dict:
    """Contestant -> (values, gradient)."""
    log_p = teacher.log_softmax(-1)
    ids = teacher.topk(k).indices
    own = student.topk(k).indices
    drawn = torch.multinomial(log_p.exp(), k, replacement=True, generator=torch.Generator().manual_seed(0))

    def renormalised(logits: Tensor) -> Tensor:
        return forward_kl(logits.gather(1, ids).log_softmax(-1), teacher.gather(1, ids).log_softmax(-1))

    def sampled(logits: Tensor) -> Tensor:
        return (log_p.gather(1, drawn) - logits.log_softmax(-1).gather(1, drawn)).mean(-1)

    def classes(of: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda logits: forward_kl(class_logprobs(logits, of), class_logprobs(teacher, of))

    return {
        f"top-{k} + tail": gradient(student, classes(ids)),
        f"top-{k} renormalised": gradient(student, renormalised),
        f"{k} sampled": gradient(student, sampled),
        f"student's {k} + tail": gradient(student, classes(own)),
    }


def errors(student: Tensor, hidden: Tensor, head) -> list[dict]:
    """One row of the table for each contestant."""
    teacher = head(hidden).float()
    value, grad = gradient(student, lambda x: forward_kl(x.log_softmax(-1), teacher.log_softmax(-1)))
    half = head(hidden.bfloat16().to(hidden.dtype)).float()
    width = hidden.size(1)
    found = {"full, bfloat16 states": gradient(student, lambda x: forward_kl(x.log_softmax(-1), half.log_softmax(-1)))}
    cost = {"full, bfloat16 states": 2 * width}
    for k in (size for size in SIZES if size < student.size(1)):
        made = estimates(student, teacher, k)
        found |= made
        cost |= dict.fromkeys(made, 8 * k + 8)
    rows = []
    for name, (values, grads) in found.items():
        rows.append(
            {
                "what": name,
                "bytes_per_token": cost[name],
                "bias": float((values - value).mean()),
                "error": float((values - value).abs().mean()),
                "gradient_error": float((grads - grad).norm() / grad.norm()),
            }
        )
    return rows


def batches_of(recipe: Recipe) -> list[dict]:
    """All its training rows, four in a batch."""
    tokenizer = policy_tokenizer(recipe)
    rows = prepare_source(recipe, "train", tokenizer).rows
    collator = Collator(0, policy_vocab(recipe, tokenizer))
    return [collator(rows[i : i + 4]) for i in range(0, len(rows), 4)]


def student_of(recipe: Recipe, layers: int) -> Any:
    smaller = recipe.model_copy(deep=True)
    assert not isinstance(smaller.models.policy, str)
    smaller.models.policy.layers = layers
    policy = make_policy(smaller, Shared())
    add_objective_forward(policy)
    return policy


def clock(policy: Any, batches: list[dict], signals: dict[str, Any], repeats: int) -> dict[str, Timing]:
    """An epoch of kd's losses and gradients with each teacher, by turns."""

    def epoch(signal: Any) -> None:
        plan = kd.build(kd.Config.model_validate({}), policy, signal)
        for inputs in batches:
            loss = call_plan(plan, policy, inputs).loss
            assert loss is not None
            loss.backward()
            policy.zero_grad()

    return alternate({name: partial(epoch, signal) for name, signal in signals.items()}, repeats)


def cached(recipe: Recipe, folder: Path, k: int | None) -> tuple[Any, dict[str, Any]]:
    """(a signal that reads what the teacher gave, what it takes on disk)."""
    written = cache_teacher(recipe, folder, "hidden" if k is None else "topk", k=k, console=Console(quiet=True))
    asked = recipe.model_copy(deep=True)
    asked.models.teacher = f"cache:{folder}"
    facts = cache_facts(asked)
    assert facts is not None
    return open_cache(facts), {"bytes_per_token": written.row_bytes / written.tokens, "covered": written.covered}


def main() -> int:
    args = parser(__doc__).parse_args()
    number, layers = (8, (2,)) if args.quick else (16, (20, 4))
    words = [f"data.rows={number}", "data.heldout=null", "models.teacher_cache='off'", "data.max_dropped=1"]
    words += ["training.max_length=128"]
    words += ["models.teacher=characters-1m", f"models.student.layers={layers[0]}"] if args.quick else []
    recipe = load_recipe("tiny_kd", words)
    assert isinstance(recipe, Recipe)
    batches = batches_of(recipe)
    live = FrozenModel(loading.load_model(str(recipe.models.teacher)))
    signals: dict[str, Any] = {"live": live}
    kept, updates, ratios = {}, {}, {}
    with tempfile.TemporaryDirectory() as place:
        for name, k in (("hidden", None), ("topk 64", 64)):
            tell(f"{name}: the teacher reads the rows")
            signals[name], kept[name] = cached(recipe, Path(place) / name, k)
        for depth in layers:
            tell(f"student of {depth} layers")
            timings = clock(student_of(recipe, depth), batches, signals, args.repeats or (1 if args.quick else 3))
            updates[depth] = {name: timing.record() for name, timing in timings.items()}
            ratios[depth] = {name: timings["live"].median / one.median for name, one in timings.items()}
            lines = [[name, shown(one.median), shown(ratios[depth][name])] for name, one in timings.items()]
            print(table([f"teacher of a student of {depth} layers", "s an epoch", "times as fast"], lines), "\n")
    inputs = batches[0]
    hidden = live.hidden(inputs)
    with torch.no_grad():
        logits = student_of(recipe, layers[0])(**{k: inputs[k] for k in ("input_ids", "attention_mask")}).logits
    compared = errors(TokenBatch.align(logits, inputs["labels"]).logits().float(), hidden, live._project)
    print(table(list(compared[0]), [[f"{v:.3g}" if isinstance(v, float) else v for v in r.values()] for r in compared]))
    what = "seconds of an epoch with a cache over one with the live teacher"
    targets = [
        Target(what, 1 / FASTER, 1 / ratios[depth][name], f"{name}, student of {depth} layers")
        for depth in layers
        for name in kept
    ]
    targets = unjudged(targets) if args.quick else targets
    result = {"signature": signature(), "rows": number, "on_disk": kept, "epochs": updates, "speed_up": ratios}
    path = write("teacher_cache", args, {**result, "errors": compared}, targets)
    print(*targets, path.name, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
