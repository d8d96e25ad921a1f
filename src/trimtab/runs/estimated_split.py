"""How the processes of a launch divide what a trained model takes, in bytes of each device.

Frozen models are whole on each device, unless the recipe splits them. Sizes follow torch 2.13's `fully_shard`,
accelerate 1.15 and DeepSpeed 0.19.8; weights and optimizer states of FSDP2 are held against real shards by the tests,
DeepSpeed's by arithmetic alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.common import processes
from trimtab.models.footprint import Footprint, Weight
from trimtab.models.quantised import QuantisedError
from trimtab.runs.memory_parts import BOTH_PASSES, MemoryPart, always, during

ZERO_ALIGNMENT = 2
"""numbers to a multiple of which DeepSpeed pads the partition of a process"""
ZERO_BUCKET = 500_000_000
"""numbers of DeepSpeed's buffer for gradients (`reduce_bucket_size`), which is made in full in each backward pass"""


IN_LAYERS = ("backward", "rollouts", "evaluation")
"""phases whose peak is while layers are computed"""


@dataclass(frozen=True)
class Split:
    """Where an estimate is for."""

    number: int = 1
    """devices, each with a process"""
    kind: str = "none"
    """in the words of `trimtab.train.wrapping.Wrapping.kind`: none, DDP, FSDP2 or ZeRO-2"""
    device: str | None = None
    """the type of device; that of this machine if not given"""

    def __str__(self) -> str:
        return f"{self.number} devices, {self.kind}" if self.number > 1 else ""


def planned(training: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Training arguments with which transformers builds its config here for devices that this machine may not have.
    float16 and bfloat16 are of one size."""
    if split.device in (None, "cpu") or torch.cuda.is_available():
        return dict(training)
    half = {"bf16": True} if training.get("fp16") else {}
    return {**{key: value for key, value in training.items() if key != "fp16"}, **half, "use_cpu": True}


def launched() -> Split:
    """That of this process: one device, or DDP where a launcher has set a number."""
    number = processes.launched()
    return Split(number, "DDP" if number > 1 else "none")


def shard(shape: Sequence[int], number: int, rank: int = 0) -> int:
    """Numbers of a weight that FSDP2 gives to a process: rows in `number` equal chunks, of which the last ones may be
    short or empty. The first is the largest, and each process takes memory for as much."""
    rows = -(-shape[0] // number)
    return max(0, min(rows, shape[0] - rank * rows)) * math.prod(shape[1:])


def partition(numbers: int, number: int) -> int:
    """Numbers that ZeRO gives to a process: an equal part of all in a row, padded."""
    return -(-numbers // (ZERO_ALIGNMENT * number)) * ZERO_ALIGNMENT


def policy_parts(one: Footprint, split: Split, args: Any, state: int, optimizer: str, lora: bool) -> list[MemoryPart]:
    """Weights, gradients, optimizer state, and buffers of the exchange.

    Args:
        state: bytes of the optimizer's state of one weight.
        optimizer: its name.
        lora: whether adapters are trained.
    """
    if split.kind in ("FSDP2", "ZeRO-2"):
        if one.packed:
            raise QuantisedError(f"a quantised policy is not estimated with {split.kind}; leave it out for DDP")
        make = _fsdp if split.kind == "FSDP2" else _zero
        return make(one, split.number, args, state, optimizer, lora)
    trained, kept = 4 * one.trained, args.gradient_accumulation_steps > 1
    head = 4 * one.head
    gradients = {"forward": 1.0 if kept else head / trained if trained else 0, "update": 1.0}
    gradients["backward"] = 1.0 if kept else min(1.0, 2 * head / trained) if trained else 0
    parts = [
        MemoryPart(f"policy, {one.params / 1e6:,.1f}M weights", one.weights, always()),
        MemoryPart(f"gradients of {one.trained / 1e6:,.1f}M weights", trained, gradients),
        MemoryPart(f"optimizer state, {optimizer}", state * one.trained, always()),
        *_embedding(one, lora),
    ]
    if split.number > 1:
        parts.append(MemoryPart("buffers of gradients between processes", trained, always()))
    return parts


def _embedding(one: Footprint, lora: bool, size: int = 4) -> list[MemoryPart]:
    """That of an embedding which is the head too, until it is added to the head's."""
    if lora or not (one.head and one.tied):
        return []
    return [MemoryPart("gradient of the embedding, computed separately", size * one.head, during("update"))]


def _fsdp(one: Footprint, number: int, args: Any, state: int, optimizer: str, lora: bool) -> list[MemoryPart]:
    """FSDP2 with a group for each layer. Embedding, head and norm are gathered during both passes; of the layers one at
    a time, while the next is on its way. Until the last micro-batch of an update, accelerate keeps gradients whole,
    unless those of each micro-batch are exchanged (`sync_each_batch`)."""
    root, *layers = one.groups
    half = 2 if args.bf16 or args.fp16 else None
    layer = max(layers, key=lambda group: gathered(group, half), default=())
    every = [weight for group in one.groups for weight in group]
    mine = sum(shard(weight.shape, number) for weight in every if weight.trained)
    held = sum(shard(weight.shape, number) * weight.element_size for weight in every)
    whole = gathered([weight for weight in every if weight.trained], half)
    of_root, of_layer = (gathered([weight for weight in group if weight.trained], half) for group in (root, layer))
    head = one.head * (half or 4)
    waits = args.gradient_accumulation_steps > 1 and not syncs_each(args)
    loose = {"forward": head / (2 * of_root), "backward": min(1.0, head / of_root), "update": 1.0} if of_root else {}
    parts = [
        MemoryPart(f"policy, its part of {one.params / 1e6:,.1f}M weights", held, always()),
        MemoryPart("embedding, head and norm, gathered", gathered(root, half), always()),
        MemoryPart("two layers, gathered, and one on its way", 3 * gathered(layer, half), during(*IN_LAYERS)),
        MemoryPart(f"gradients, their part of {one.trained / 1e6:,.1f}M", 4 * mine, _of_parts(args)),
        MemoryPart("gradients of embedding and head, and as exchanged", 2 * of_root, loose),
        MemoryPart("gradients of a layer, and as exchanged", 2 * of_layer, during("backward")),
        MemoryPart(f"optimizer state, its part, {optimizer}", state * mine, always()),
        *_embedding(one, lora, half or 4),
        MemoryPart("saving: the whole policy twice, in the first process", 8 * one.params, during("saving"), host=True),
    ]  # fmt: skip
    if waits:
        name = "gradients, whole until the last micro-batch"
        parts.insert(4, MemoryPart(name, whole, during(*BOTH_PASSES)))
    return parts


def _of_parts(args: Any) -> dict[str, float]:
    """When exchanged gradients are there: before the update, and in both passes if each micro-batch's are exchanged."""
    kept = args.gradient_accumulation_steps > 1 and syncs_each(args)
    return during(*BOTH_PASSES, "update") if kept else during("update")


def frozen_parts(name: str, outside: int, layers: Sequence[Sequence[Weight]], number: int) -> list[MemoryPart]:
    """Of a frozen model whose layers are split (`models.split_frozen`).

    Args:
        outside: bytes of what stays whole.
    """
    held = sum(shard(weight.shape, number) * weight.element_size for layer in layers for weight in layer)
    whole = max((gathered(layer, None) for layer in layers), default=0)
    return [
        MemoryPart(f"{name}, its part", outside + held, always()),
        MemoryPart(f"{name}, a layer, gathered", 2 * whole, during(*IN_LAYERS)),
    ]


def syncs_each(args: Any) -> bool:
    """Whether gradients are exchanged after each micro-batch (`training.accelerator_config`)."""
    settings = getattr(args.accelerator_config, "gradient_accumulation_kwargs", None) or {}
    return bool(settings.get("sync_each_batch", False))


def gathered(group: Sequence[Weight], half: int | None) -> int:
    """Bytes of whole weights, in the dtype of mixed precision."""
    return sum(weight.numel * (half or weight.element_size) for weight in group)


def _zero(one: Footprint, number: int, args: Any, state: int, optimizer: str, lora: bool) -> list[MemoryPart]:
    """ZeRO-2: whole weights in the run's precision; of float32 weights, gradients and states a part."""
    size = 2 if args.bf16 or args.fp16 else 4
    mine, head = partition(one.trained, number), size * one.head
    kept = args.gradient_accumulation_steps > 1
    gradients = during(*BOTH_PASSES, "update") if kept else during("update")
    frozen = one.weights - 4 * one.trained
    return [
        MemoryPart(
            f"policy, {one.params / 1e6:,.1f}M weights, whole",
            size * one.trained + (frozen if size == 4 else size * (one.params - one.trained)), always(),
        ),
        MemoryPart("float32 weights, their part", 4 * mine, always()),
        MemoryPart(f"gradients, their part of {one.trained / 1e6:,.1f}M", size * mine, gradients),
        MemoryPart("gradients in float32, their part", 4 * mine, during("update")),
        MemoryPart("buffer of gradients to exchange (DeepSpeed)", size * ZERO_BUCKET, during("backward")),
        MemoryPart("gradients of the head", 2 * head, {"forward": 0.5, "backward": 1.0}),
        MemoryPart(f"optimizer state, its part, {optimizer}", state * mine, always()),
    ]  # fmt: skip
