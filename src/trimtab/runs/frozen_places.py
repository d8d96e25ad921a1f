"""Where a run's frozen models are kept: on the policy's device, or split over all processes."""

import torch

from trimtab.common.processes import ProcessError
from trimtab.models.splitting import split_layers
from trimtab.runs.job import Job
from trimtab.signals.base import models_of
from trimtab.train.wrapping import Wrapping


def place_frozen(job: Job, device: torch.device, shared: Wrapping) -> None:
    """Move frozen models to the policy's device, whole or split by `models.split_frozen`.

    Raises:
        ProcessError: for models that are to be split under another launch than FSDP2.
    """
    if job.recipe.models.split_frozen:
        if shared.kind != "FSDP2":
            raise ProcessError(
                f"models.split_frozen splits frozen models as FSDP2 splits the policy, and this run trains in "
                f"{shared}; start it with trimtab launch --devices N --fsdp, or leave it out"
            )
        for model in _frozen(job):
            split_layers(model, device)
    move_frozen(job, device)


def move_frozen(job: Job, device: torch.device) -> None:
    """Move what is not split to the policy's device."""
    for model in _frozen(job):
        model.to(device)


def _frozen(job: Job) -> list:
    found = models_of([*job.plan.signals, *job.plan.rollout_signals, *job.heldout_signals])
    return [model for model in found if model is not job.policy]
