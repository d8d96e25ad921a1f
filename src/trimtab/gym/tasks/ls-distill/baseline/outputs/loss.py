"""Plain distillation: KL from the teacher to the student."""

import torch.nn.functional as F


def loss(student_logits, teacher_logits, targets, step, steps):
    """Loss of an update.

    Args:
        student_logits, teacher_logits: [N, 256] of the same N tokens.
        targets: [N] words that really follow.
        step: from 0 to `steps` - 1.
    """
    student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")
