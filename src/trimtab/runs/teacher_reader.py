"""What a teacher gives for batches of rows: in this process, or where a worker runs."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.common import fingerprint
from trimtab.common.errors import UserError
from trimtab.core import answer_mask
from trimtab.core.topk import left_out, top_k
from trimtab.core.vocab import BLOCK_TOKENS
from trimtab.models import loading
from trimtab.models.forward import crop_to, resolve_head
from trimtab.runs.cached_teacher import COVERED_MASS, LEFT_OUT
from trimtab.runs.policy import how_loaded
from trimtab.runs.recipe import Recipe
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import Fields, rows_of


class TeacherError(UserError):
    """A recipe whose teacher cannot be asked beforehand."""


Given = list[tuple[bytes, Fields, dict[str, float]]]
"""key, fields and counted numbers of each row"""
Give = Callable[[Sequence[Mapping[str, Tensor]]], Iterator[Given]]


def load_teacher(recipe: Recipe) -> PreTrainedModel:
    """The recipe's teacher, frozen, on the CPU."""
    models, how = recipe.models, how_loaded(recipe, "teacher")
    return loading.load_model(
        str(models.teacher), dtype=models.frozen_dtype, trust_remote_code=models.trust_remote_code, **how
    )


def giver(
    recipe: Recipe, model: PreTrainedModel, vocab: int, k: int | None, dtype: torch.dtype
) -> Callable[[Mapping[str, Tensor]], Given]:
    """What gives the rows of a batch, on the device that the model is on."""
    if k is not None:
        crop_to(model, vocab)
    signal = FrozenModel(model)

    def give(batch: Mapping[str, Tensor]) -> Given:
        return list(given(signal, {key: value.to(model.device) for key, value in batch.items()}, k, dtype))

    return give


def loaded_giver(
    recipe: Recipe, expected: str, vocab: int, k: int | None, dtype: torch.dtype
) -> Callable[[Mapping[str, Tensor]], Given]:
    """The same with a teacher that is loaded now, where a worker runs; it has to be the one of the command."""
    model = load_teacher(recipe)
    fingerprint.check_model(model, expected, str(recipe.models.teacher), TeacherError)
    return giver(recipe, model.to(device_of(recipe)), vocab, k, dtype)  # type: ignore[arg-type]


def device_of(recipe: Recipe) -> torch.device:
    """Where the recipe's models run, of the processes of a launch each on its own."""
    kind = "cpu" if recipe.training.get("use_cpu") else loading.device()
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)


def given(
    signal: FrozenModel, inputs: Mapping[str, Tensor], k: int | None, dtype: torch.dtype
) -> Iterator[tuple[bytes, Fields, dict[str, float]]]:
    """Key, fields and counted numbers of each row of a batch."""
    hidden = signal.hidden(inputs)
    fields, counted = ({"hidden": hidden.to(dtype)}, {}) if k is None else _most_likely(signal, hidden, inputs, k)
    lengths = answer_mask(inputs["labels"]).sum(dim=1).tolist()
    split, counts = ({name: value.cpu().split(lengths) for name, value in one.items()} for one in (fields, counted))
    for i, (key, _) in enumerate(rows_of(inputs)):
        row = {name: parts[i] for name, parts in split.items()}
        yield key, row, {name: float(parts[i].double().sum()) for name, parts in counts.items()}


@torch.no_grad()
def _most_likely(signal: FrozenModel, hidden: Tensor, inputs: Mapping[str, Tensor], k: int) -> tuple[Fields, Fields]:
    """What is stored of each token, and what is counted."""
    targets = inputs["labels"][:, 1:][answer_mask(inputs["labels"])]
    parts, counts = [], []
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, max(len(hidden), 1), BLOCK_TOKENS):
            part = slice(start, start + BLOCK_TOKENS)
            logits = resolve_head(signal.model)(hidden[part])
            found = top_k(logits, k, targets[part])
            stored = {"ids": found.ids.int(), "logprobs": found.logprobs, "rest": found.rest}
            parts.append({**stored, "label_logprobs": found.label_logprobs})
            counts.append({COVERED_MASS: -found.rest.expm1(), LEFT_OUT: left_out(logits, found)})
    joined = ({name: torch.cat([part[name] for part in several]) for name in several[0]} for several in (parts, counts))
    fields, counted = joined
    return fields, counted
