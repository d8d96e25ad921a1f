"""Distil with outputs/loss.py, and measure the student on practice.bin: python3 train.py [SEED]"""

import sys
from functools import partial
from pathlib import Path

import torch
from distil import STEPS, CountingTeacher, distilled, loss_of, read

from serve import gradient

sys.path.insert(0, "outputs")
from loss import loss


def main() -> None:
    torch.set_num_threads(1)
    teacher = CountingTeacher(read(Path("teacher.bin")))
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    student = distilled(teacher, read(Path("student.bin")), partial(gradient, loss, steps=STEPS), seed)
    practice = read(Path("practice.bin"))
    theirs, ours = loss_of(teacher.logits, practice), loss_of(student, practice)
    print(f"loss of the teacher {theirs:.4f}, of the student {ours:.4f}: gap {ours - theirs:.4f}")


if __name__ == "__main__":
    main()
