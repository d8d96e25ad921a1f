"""What does the attribution term of AD-KD cost over plain distillation?

One whole update of a student of three layers with a teacher of six, both of MiniLM, in training mode, float32, on the
CPU: forward of both, backward, clipping, AdamW. Contestants:

  kd             AD-KD without maps (beta 0): no gradient at the embeddings
  ad_kd          two classes, one step: one gradient of the teacher, one double backward of the student
  ad_kd, m = 4   four points of the path in one pass
  ad_kd, 3 views three classes, so three maps

And of a student of 15 layers with SmolLM2-135M as its teacher, on rows of which the first half is the prompt:

  kd, language       AD-KD of models that generate without maps: the loss of kd
  ad_kd, language    the map of the answer: one gradient of the teacher, one double backward of the student
  ad_kd, 4 views     two next tokens at each of two positions
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig

from common import (
    PATIENCE,
    Target,
    Timing,
    alternate,
    in_fresh_process,
    parser,
    ratio,
    signature,
    table,
    tell,
    unjudged,
    write,
)
from trimtab.core import IGNORE, Labels
from trimtab.methods import ad_kd_language
from trimtab.methods.ad_kd import Config, build
from trimtab.models.classifier import load_classifier, settings_of, twice_differentiable
from trimtab.models.forward import add_objective_forward
from trimtab.models.loading import load_model
from trimtab.models.student import evenly_spaced, keep_layers
from trimtab.signals.base import call_plan
from trimtab.signals.classifier import FrozenClassifier, call_on_labels
from trimtab.signals.frozen import FrozenModel

LIMIT = 2.2
TINY = "tiny"
"""A random model for --quick, in place of one that must be loaded."""
CONTESTANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "kd": (2, {"beta": 0.0}),
    "ad_kd": (2, {"beta": 10.0}),
    "ad_kd, m = 4": (2, {"beta": 10.0, "steps": 4}),
    "ad_kd, 3 views": (3, {"beta": 10.0}),
}
"""name -> classes and options"""
LANGUAGE: dict[str, dict[str, Any]] = {
    "kd, language": {"beta": 0.0},
    "ad_kd, language": {"beta": 10.0},
    "ad_kd, 4 views": {"beta": 10.0, "positions": 2, "candidates": 2},
}
"""name -> options, of models that generate"""


def teacher_of(model: str, classes: int) -> Any:
    labels = Labels(tuple(f"LABEL_{number}" for number in range(classes)))
    if model != TINY:
        return load_classifier(model, labels)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=24, **settings_of(labels)
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch_of(rows: int, length: int, classes: int) -> dict[str, torch.Tensor]:
    """Random rows of half to all of the length."""
    torch.manual_seed(0)
    ids = torch.randint(1000, 20000, (rows, length))
    lengths = torch.linspace(length // 2, length, rows).long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    labels = torch.arange(rows) % classes
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "row_id": torch.arange(rows)}


def update_of(model: str, rows: int, length: int, classes: int, options: dict[str, Any]) -> Callable[[], None]:
    teacher = teacher_of(model, classes)
    student = keep_layers(teacher, [0, 2, 5]).requires_grad_(True).train()
    if options["beta"]:
        twice_differentiable(student)
    plan = build(Config(**options), student, FrozenClassifier(teacher))
    inputs = batch_of(rows, length, classes)
    return updating(student, lambda: call_on_labels(plan, student, inputs))


def updating(student: Any, call: Callable[[], Any]) -> Callable[[], None]:
    """A whole update of a student, whose loss is that of `call`."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.0)

    def update() -> None:
        loss = call().loss
        assert loss is not None
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def check(model: str, rows: int, length: int) -> None:
    """Without maps the loss is the one written by hand on the models' logits."""
    teacher = teacher_of(model, 2)
    student = keep_layers(teacher, [0, 2, 5])
    inputs = batch_of(rows, length, 2)
    found = call_on_labels(build(Config(beta=0), student, FrozenClassifier(teacher)), student, inputs).loss
    read = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    ours, theirs = student(**read).logits, teacher(**read).logits
    soft = nn.functional.cross_entropy(ours / 2, (theirs / 2).softmax(-1))
    wanted = 0.2 * nn.functional.cross_entropy(ours, inputs["labels"]) + 0.8 * soft
    if found is None or abs(found.item() - wanted.item()) > 1e-5:
        sys.exit(f"error: the loss of kd is {found}, and by hand {wanted}")


def clock(model: str, rows: int, length: int, repeats: int, patience: float) -> dict[str, Timing]:
    check(model, rows, length)
    steps = {name: update_of(model, rows, length, *how) for name, how in CONTESTANTS.items()}
    return judged_first(steps, ("kd", "ad_kd"), repeats, patience)


def judged_first(
    steps: dict[str, Callable[[], None]], judged: Sequence[str], repeats: int, patience: float
) -> dict[str, Timing]:
    """Those that are judged by turns, so that more rounds fit, and then the others."""
    first = {name: steps.pop(name) for name in judged}
    return {**alternate(first, repeats, patience), **alternate(steps, min(repeats, 2), 0.0)}


def language_teacher(model: str) -> Any:
    if model != TINY:
        return load_model("smollm2-135m")
    config = LlamaConfig(
        vocab_size=20000, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24
    )
    return AutoModelForCausalLM.from_config(config).eval()


def language_student(teacher: Any) -> Any:
    layers = teacher.config.num_hidden_layers
    student = keep_layers(teacher, evenly_spaced(layers, layers // 2)).requires_grad_(True)
    add_objective_forward(student)
    return student.train()


def language_batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    batch = batch_of(rows, length, 2)
    answer = torch.arange(length) >= length // 4  # of the shortest row half is prompt
    return {**batch, "labels": batch["input_ids"].masked_fill(~(answer & (batch["attention_mask"] > 0)), IGNORE)}


def language_update(model: str, rows: int, length: int, options: dict[str, Any]) -> Callable[[], None]:
    teacher = language_teacher(model)
    student = language_student(teacher)
    if options["beta"]:
        twice_differentiable(student)
    plan = ad_kd_language.build(ad_kd_language.Config(**options), student, FrozenModel(teacher))
    inputs = language_batch(rows, length)
    return updating(student, lambda: call_plan(plan, student, inputs))


def check_language(model: str, rows: int, length: int) -> None:
    """Without maps the loss is the one written by hand on both models' logits."""
    teacher = language_teacher(model)
    student, inputs = language_student(teacher).eval(), language_batch(rows, length)
    plan = ad_kd_language.build(ad_kd_language.Config(beta=0), student, FrozenModel(teacher))
    found = call_plan(plan, student, inputs).loss
    read = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    answer = inputs["labels"][:, 1:] != IGNORE
    with torch.no_grad():
        ours, theirs = (one(**read).logits[:, :-1][answer] for one in (student, teacher))
    soft = nn.functional.kl_div((ours / 2).log_softmax(-1), (theirs / 2).softmax(-1), reduction="batchmean")
    wanted = 0.2 * nn.functional.cross_entropy(ours, inputs["labels"][:, 1:][answer]) + 0.8 * soft
    if found is None or abs(found.item() - wanted.item()) > 1e-3 * abs(wanted.item()):
        sys.exit(f"error: the loss of kd is {found}, and by hand {wanted}")


def clock_language(model: str, rows: int, length: int, repeats: int, patience: float) -> dict[str, Timing]:
    check_language(model, rows, length)
    steps = {name: language_update(model, rows, length, options) for name, options in LANGUAGE.items()}
    return judged_first(steps, ("kd, language", "ad_kd, language"), repeats, patience)


def main() -> None:
    args = parser(__doc__).parse_args()
    args.repeats = args.repeats or (1 if args.quick else 5)
    model = TINY if args.quick else "minilm-l6"
    rows, length = (2, 8) if args.quick else (16, 64)
    patience = 0.0 if args.quick else PATIENCE
    tell("updates of kd and ad_kd")
    timings = in_fresh_process(clock, model, rows, length, args.repeats, patience)
    tell("updates of kd and ad_kd_language")
    few = (2, 8) if args.quick else (4, 64)
    timings |= in_fresh_process(clock_language, model, *few, args.repeats, patience)
    seconds = {name: timing.median for name, timing in timings.items()}
    over = {"ad_kd": ratio(seconds["ad_kd"], seconds["kd"])}
    over["ad_kd, language"] = ratio(seconds["ad_kd, language"], seconds["kd, language"])
    targets = [Target(f"{name}: time of an update over kd's", LIMIT, found) for name, found in over.items()]
    targets = unjudged(targets) if args.quick else targets
    setting = {"teacher": model, "student": "layers 0, 2, 5", "rows": rows, "length": length, "dtype": "float32"}
    other = TINY if args.quick else "smollm2-135m"
    language = {"teacher": other, "student": "half of its layers", "rows": few[0], "length": few[1], "dtype": "float32"}
    updates = {name: timing.record() for name, timing in timings.items()}
    facts = {"signature": signature(), "setting": setting, "language": language, "updates": updates}
    path = write("ad_kd", args, facts, targets)
    base = {name: seconds["kd, language" if name in LANGUAGE else "kd"] for name in seconds}
    lines = [[name, value, ratio(value, base[name])] for name, value in seconds.items()]
    print(table(["update", "s", "over kd"], lines), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
