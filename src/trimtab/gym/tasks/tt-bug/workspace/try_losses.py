"""The losses of `outputs/losses.py` on a random batch: `python3 try_losses.py`."""

import sys

import torch

sys.path.insert(0, "outputs")
import losses

torch.manual_seed(0)
logits, others = torch.randn(4, 8, 11, requires_grad=True), torch.randn(4, 8, 11)
labels = torch.randint(11, (4, 8))
labels[:, :3] = losses.IGNORE
labels[1::2, 6:] = losses.IGNORE
for name, loss in {
    "sft": losses.sft(logits, labels, 16),
    "distil": losses.distil(logits, others, labels, 16, 2.0),
    "dpo": losses.dpo(logits, others, labels, 0.1),
}.items():
    (gradient,) = torch.autograd.grad(loss, logits)
    print(f"{name}: {loss.item():.6f}, gradient of length {gradient.norm().item():.6f}")
