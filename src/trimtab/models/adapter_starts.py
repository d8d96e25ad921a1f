"""Whether a policy with its adapter disabled is the initial policy."""

from typing import Any

import torch
from torch import Tensor

from trimtab.models.probing import probe_logits, restored


@torch.no_grad()
def stays_initial(policy: Any, initial: Tensor) -> bool:
    """Whether the policy without its adapter stays the initial policy, whatever training does.

    Found by trying: everything that is trained is changed, the adapter is disabled, and the logits must be the same.
    PiSSA and OLoRA take a part out of the model's own weights; `bias` trains the model's own.

    Args:
        initial: `probe_logits` of the model before it got adapters.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    with restored(trained):
        for parameter in trained:
            parameter.add_(1.0)
        return base_is_unchanged(policy, initial)


@torch.no_grad()
def base_is_unchanged(policy: Any, initial: Tensor) -> bool:
    """Whether a newly added adapter has left the model's own weights unchanged; `initial` as in `stays_initial`."""
    with policy.disable_adapter():
        found = probe_logits(policy)
    spread = initial.float().std().clamp(min=1e-6).item()
    return torch.allclose(found.float(), initial.float(), rtol=1e-4, atol=1e-4 * spread)
