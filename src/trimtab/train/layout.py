"""How rollouts are laid out as rows, and how signals of their tokens travel with these rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from trimtab.common import collectives
from trimtab.core import IGNORE, Candidates, TokenBatch, answer_mask


def laid_out(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """TRL's prompts, padded on the left, and completions, padded on the right, as rows that are padded on the right.

    Args:
        output: `prompt_ids`, `prompt_mask` [B, P], `completion_ids`, `completion_mask` [B, C], and `tool_mask` [B, C]
            where some tokens are not the policy's, and `sampling_per_token_logps` [B, C] from an engine.

    Returns:
        `input_ids`, `attention_mask`, `labels` [B, T] with T the longest of prompt and completion together; and what
        the engine said of each completion token, `sampled`, 0 elsewhere.
    """
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1).bool()
    own = output["completion_mask"].bool()
    if "tool_mask" in output:
        own = own & output["tool_mask"].bool()
    learnt = torch.cat([torch.zeros_like(output["prompt_mask"]).bool(), own], dim=1)
    order = (~mask).int().argsort(dim=1, stable=True)
    ids, mask, learnt = (one.gather(1, order) for one in (ids, mask, learnt))
    rows = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~learnt, IGNORE)}
    if "sampling_per_token_logps" in output:
        said = output["sampling_per_token_logps"]
        sampled = torch.cat([said.new_zeros(output["prompt_ids"].shape), said], dim=1).gather(1, order)
        rows["sampled"] = sampled.masked_fill(rows["labels"] == IGNORE, 0.0)
    return cropped(rows)


def cropped(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the columns that are padding in every row."""
    width = int(rows["attention_mask"].sum(dim=1).max())
    return {key: value[:, :width] if value.dim() > 1 else value for key, value in rows.items()}


def of_all(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of all processes, by rank; each has as many, padded to its own longest one."""
    width = max(collectives.objects(rows["labels"].size(1)))
    wide = {
        key: pad(value, (0, width - value.size(1)), value=IGNORE if key == "labels" else 0)
        if value.dim() > 1
        else value
        for key, value in rows.items()
    }
    return {key: collectives.gathered(value) for key, value in wide.items()}


FIELDS = ("ids", "logprobs", "advantages", "mask")
PACKED = "signal."


def packed(name: str, value: Tensor | Candidates, batch: TokenBatch) -> dict[str, Tensor]:
    """A signal of the tokens as tables [B, T, ...] by row and position, so that rows can be shuffled and split."""
    if isinstance(value, Candidates):
        parts = {f"{PACKED}{name}.{field}": getattr(value, field) for field in FIELDS}
    else:
        parts = {f"{PACKED}{name}": value}
    return {key: batch.table(one) for key, one in parts.items() if one is not None}


def unpacked(rows: Mapping[str, Tensor]) -> dict[str, Any]:
    """The signals of `packed`, flattened over the answer tokens of these rows."""
    lengths = answer_mask(rows["labels"]).sum(dim=1)
    found: dict[str, Any] = {}
    for key, value in rows.items():
        if key.startswith(PACKED):
            filled = torch.arange(value.size(1), device=value.device) < lengths[:, None]
            found[key.removeprefix(PACKED)] = value[filled]
    whole = {key: value for key, value in found.items() if "." not in key}
    for name in {key.partition(".")[0] for key in found if "." in key}:
        whole[name] = Candidates(**{field: found.get(f"{name}.{field}") for field in FIELDS})  # type: ignore[arg-type]
    return whole
