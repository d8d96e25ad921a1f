"""What does the attribution term of AD-KD cost over plain distillation?

One whole update of a student of three layers with a teacher of six, both of MiniLM, in training mode, float32, on the
CPU: forward of both, backward, clipping, AdamW. Contestants:

  kd             AD-KD without maps (beta 0): no gradient at the embeddings
  ad_kd          two classes, one step: one gradient of the teacher, one double backward of the student
  ad_kd, m = 4   four points of the path in one pass
  ad_kd, 3 views three classes, so three maps
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

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
from trimtab.core import Labels
from trimtab.methods.ad_kd import Config, build
from trimtab.models.classifier import load_classifier, settings_of, twice_differentiable
from trimtab.models.student import keep_layers
from trimtab.signals.classifier import FrozenClassifier, call_on_labels

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
    optimizer, inputs = torch.optim.AdamW(student.parameters(), lr=0.0), batch_of(rows, length, classes)

    def update() -> None:
        output = call_on_labels(plan, student, inputs)
        assert output.loss is not None
        output.loss.backward()
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
    judged = {name: steps.pop(name) for name in ("kd", "ad_kd")}  # by turns, so that more rounds fit
    return {**alternate(judged, repeats, patience), **alternate(steps, min(repeats, 2), 0.0)}


def main() -> None:
    args = parser(__doc__).parse_args()
    args.repeats = args.repeats or (1 if args.quick else 5)
    model = TINY if args.quick else "minilm-l6"
    rows, length = (2, 8) if args.quick else (16, 64)
    tell("updates of kd and ad_kd")
    timings = in_fresh_process(clock, model, rows, length, args.repeats, 0.0 if args.quick else PATIENCE)
    seconds = {name: timing.median for name, timing in timings.items()}
    targets = [Target("ad_kd: time of an update over kd's", LIMIT, ratio(seconds["ad_kd"], seconds["kd"]))]
    targets = unjudged(targets) if args.quick else targets
    setting = {"teacher": model, "student": "layers 0, 2, 5", "rows": rows, "length": length, "dtype": "float32"}
    updates = {name: timing.record() for name, timing in timings.items()}
    path = write("ad_kd", args, {"signature": signature(), "setting": setting, "updates": updates}, targets)
    lines = [[name, value, ratio(value, seconds["kd"])] for name, value in seconds.items()]
    print(table(["update", "s", "over kd"], lines), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
