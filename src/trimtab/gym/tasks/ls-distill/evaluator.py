"""The student is trained here. Step by step a sandbox gets logits and targets, and returns a gradient by the logits;
it sees no weight, and no window of words, as tokens come in a random order.

It may return any gradient, whether a loss has it or not: what counts is the student's loss on texts that are made here.
"""

import base64
import binascii
from typing import Any

import torch
from torch import Tensor

from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.talking import Talk

HELD_OUT = 120_000
"""words of each split"""
SECONDS = 180.0


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/loss.py", 200_000)
    torch.set_num_threads(1)
    made, language = submitted.module("workspace/distil.py"), submitted.module("hidden/language.py")
    key = (submitted.hidden / "key.txt").read_text().strip()
    place = submitted.task / "workspace"
    teacher = made.CountingTeacher(made.read(place / "teacher.bin"))
    text = made.read(place / "student.bin")
    with submitted.talk(["python3", "serve.py"], SECONDS, {"serve.py": place / "serve.py"}) as talk:

        def gradient(student: Tensor, teachers: Tensor, targets: Tensor, step: int) -> Tensor:
            return asked(talk, student, teachers, targets, step, made.STEPS)

        student = made.distilled(teacher, text, gradient, submitted.seed)
    results = {}
    for split in ("public", "private"):
        held_out = torch.tensor(list(language.text(f"{key} {split} {submitted.seed}", HELD_OUT)))
        gap = made.loss_of(student, held_out) - made.loss_of(teacher.logits, held_out)
        results[split] = [{"name": "gap", "value": gap}]
    return results


def asked(talk: Talk, student: Tensor, teacher: Tensor, targets: Tensor, step: int, steps: int) -> Tensor:
    """The gradient that the sandbox returns."""
    both = {"student": as_text(student), "teacher": as_text(teacher)}
    return as_gradient(talk.ask({**both, "targets": targets.tolist(), "step": step, "steps": steps}), student)


def as_text(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()


def as_gradient(said: Any, like: Tensor) -> Tensor:
    """Finite numbers in the shape of the logits."""
    try:
        data = base64.b64decode(said) if isinstance(said, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != 4 * like.numel():
        raise Rejected(f"outputs/loss.py gave no gradient of {like.numel()} numbers")
    found = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(like.shape)
    if not found.isfinite().all():
        raise Rejected("the gradient of outputs/loss.py by the student's logits holds numbers that are not finite")
    return found.clamp(-1e6, 1e6)
