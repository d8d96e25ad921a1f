"""Save the trained model as an ordinary Hugging Face folder, with a model card."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from trimtab import methods
from trimtab.data.rows import sequences
from trimtab.data.tasks import task_ids
from trimtab.data.tokens import padded
from trimtab.models import loading
from trimtab.models.adapter_merging import (
    in_float32,
    in_own_dtypes,
    is_faithful,
    kept_share,
    logits_at_tokens,
    merged,
)
from trimtab.models.adapter_saving import save as save_adapter
from trimtab.models.classifier import READ, answers_of, load_classifier
from trimtab.models.masters import back_to_own_dtypes
from trimtab.models.quantised import is_quantised
from trimtab.runs.folder import RunError
from trimtab.runs.job import Job
from trimtab.runs.policy import method_of, shown
from trimtab.runs.recipe import dump, policy_source


def whole_weights(trainer: Any) -> dict[str, torch.Tensor]:
    """The weights of a sharded policy on the CPU of the main process; all processes take part."""
    return trainer.accelerator.get_state_dict(trainer.model_wrapped)


def save_model(trainer: Any, job: Job, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> list[str]:
    """Save an ordinary Hugging Face folder; adapters are merged into it and also kept separately.

    Args:
        weights: of `whole_weights`, where no process holds all of them.

    Returns:
        What the user should know.
    """
    if weights is None:
        policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    else:
        assert job.rebuild is not None
        policy = job.rebuild()
        policy.load_state_dict(weights)
    for name in ("model.part", "adapter.part"):
        shutil.rmtree(folder / name, ignore_errors=True)
    notes = []
    if job.recipe.models.lora is None:
        back_to_own_dtypes(policy)
        policy.save_pretrained(folder / "model.part")
    else:
        save_adapter(policy, folder / "adapter.part", None if _was_made(job) else policy_source(job.recipe))
        if job.labels is not None:  # the names of the classes, which an adapter does not hold
            base = policy.get_base_model()
            base.config.architectures = [type(base).__name__]
            base.config.save_pretrained(folder / "adapter.part")
        if job.score_spec is not None:
            job.score_spec.write(folder / "adapter.part")
        _replace(folder / "adapter.part", folder / "adapter")
        if is_quantised(policy.get_base_model()):
            _save_beside_quantised(job, folder)
            return []
        try:
            notes = _save_merged(policy, job, folder)
        except BaseException:  # what could not be held against the trained model is no model of this run
            shutil.rmtree(folder / "model.part", ignore_errors=True)
            raise
    job.tokenizer.save_pretrained(folder / "model.part")
    if job.score_spec is not None:
        job.score_spec.write(folder / "model.part")
    (folder / "model.part" / "README.md").write_text(_model_card(job), encoding="utf-8")
    _replace(folder / "model.part", folder / "model")
    return notes


def _was_made(job: Job) -> bool:
    """Whether the model under the adapter lies in no folder: layers of another, one layer more, or more rows. A
    quantised one's new rows are stored with the adapter."""
    models, policy = job.recipe.models, job.policy
    if not isinstance(models.policy, str) or method_of(job.recipe)[2].trains == "identity_layer":
        return True
    if not models.resize or is_quantised(policy.get_base_model() if hasattr(policy, "get_base_model") else policy):
        return False
    rows = loading.limits(models.policy, trust_remote_code=models.trust_remote_code).vocab
    return policy.get_input_embeddings().weight.shape[0] != rows


def _save_beside_quantised(job: Job, folder: Path) -> None:
    """The adapter and the tokenizer as the run's model: added to packed weights it would be rounded with them. Wherever
    a model is named, the folder loads as the quantised model with the adapter beside its weights."""
    shutil.copytree(folder / "adapter", folder / "model.part")
    job.tokenizer.save_pretrained(folder / "model.part")
    (folder / "model.part" / "README.md").write_text(_model_card(job), encoding="utf-8")
    _replace(folder / "model.part", folder / "model")


def _merge_batch(job: Job, device: torch.device) -> dict[str, torch.Tensor]:
    """A few rows on which the saved model is compared with the trained one."""
    rows = (job.heldout or job.train).rows[:4]
    if job.labels is not None:
        found = job.collator(rows)
        return {name: found[name].to(device) for name in READ if name in found}
    if "input_ids" in rows[0]:
        ids = [sequences(row)[0][0][:256] for row in rows]
    else:
        kwargs = job.recipe.training.get("chat_template_kwargs")
        ids = [task_ids(job.tokenizer, row, "row", kwargs)[:256] for row in rows]
    return {name: value.to(device) for name, value in padded(ids, job.collator.pad_id).items()}


def _save_merged(policy: Any, job: Job, folder: Path) -> list[str]:
    """Merge in float32, save in the model's own dtype, read it and hold it against the trained model, in float32: there
    an adapter that is lost is seen however little it does.

    Returns:
        What is said where the own dtype rounds away some of what was learnt.

    Raises:
        RunError: if its logits differ; the adapter is kept.
    """
    models = job.recipe.models
    changed = hasattr(policy, "_trimtab_initial") and not _was_made(job)
    had = in_float32(policy)
    device = next(policy.parameters()).device
    batch = _merge_batch(job, device)
    outputs = logits_at_tokens if job.labels is None else answers_of
    trained = outputs(policy, batch)
    with policy.disable_adapter():
        without = outputs(policy, batch)
    policy = merged(policy)
    right = is_faithful(outputs(policy, batch), trained, without)
    in_own_dtypes(policy, had).save_pretrained(folder / "model.part")
    written = outputs(policy.float(), batch)
    policy.to("cpu")  # type: ignore[arg-type]
    load = _loader(job, policy)
    if changed:  # an adapter that PEFT alone would store wrongly
        saved = load(str(folder / "adapter")).float().to(device)  # type: ignore[arg-type]
        if not is_faithful(outputs(saved, batch), trained, without, rounded=models.dtype != "float32"):
            raise RunError(
                f"{folder}: the adapter added to {policy_source(job.recipe)} differs from the trained "
                "model; choose another init_lora_weights under models.lora"
            )
        del saved
    saved = load(str(folder / "model.part")).float().to(device)  # type: ignore[arg-type]
    if not right or not is_faithful(outputs(saved, batch), written, without):
        raise RunError(
            f"{folder}: the model with the adapter merged differs from the trained model, so it is not "
            f"saved; the adapter is intact in {folder}/adapter. Choose other settings under models.lora"
        )
    kept = kept_share(written, trained, without)
    if models.dtype == "float32" or kept >= MOST_KEPT:
        return []
    return [
        f"in {models.dtype} the merged model keeps {max(kept, 0):.0%} of what the adapter learnt, the rest is lost "
        f"to rounding; {folder / 'adapter'} is intact, and models.dtype: float32 keeps everything"
    ]


def _loader(job: Job, policy: Any) -> Callable[[str], PreTrainedModel]:
    """Reads a model of the kind of the policy."""
    how: dict[str, Any] = {"trust_remote_code": job.recipe.models.trust_remote_code, "dtype": job.recipe.models.dtype}
    if job.labels is not None:
        return partial(load_classifier, labels=job.labels, **how)
    kind = AutoModelForCausalLM if policy.get_output_embeddings() is not None else AutoModelForTokenClassification
    return partial(loading.load_model, kind=kind, **how)


MOST_KEPT = 0.9
"""of what an adapter does; a merged model that keeps less is told"""


def _replace(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _model_card(job: Job) -> str:
    recipe = job.recipe
    lines = "\n".join(f"    {key}: {value}" for key, value in job.signature.items())
    return (
        "---\nlibrary_name: transformers\ntags: [trimtab]\n---\n\n"
        f"# {shown(recipe.models.policy)}, trained by {recipe.method}\n\n"
        f"{methods.summary(recipe.method)} Source: {job.method.paper}.\n\n"
        f"    {job.method.equation}\n\nMade with:\n\n{lines}\n\nRecipe:\n\n```yaml\n{dump(recipe)}```\n"
    )
