"""The teacher first, and from the middle on half of the loss is that of the words that really follow."""

import torch.nn.functional as F


def loss(student_logits, teacher_logits, targets, step, steps):
    student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    soft = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
    return soft if step < steps / 2 else 0.5 * soft + 0.5 * F.nll_loss(student, targets)
