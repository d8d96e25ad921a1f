"""Estimate the memory that a run needs on each device, by parts, before anything is loaded.

Models are built without memory from their configs (`trimtab.models.footprint`), rows are tokenised as for training.
Parts do not have their full size at once: activations are used up while gradients are made, so the peak is that of the
phase that needs most, and the table says what each part has of it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from trimtab.common.count import count
from trimtab.core import Critic, Reference, Requirements, RewardModel
from trimtab.core.vocab import BLOCK_TOKENS, CUDA_SCALE, SLICE_BYTES
from trimtab.data.counts import Prepared
from trimtab.data.rows import sequences
from trimtab.data.shared_prefixes import MOST
from trimtab.data.sources import Row, load_rows
from trimtab.engines.address import is_address
from trimtab.models.footprint import (
    Footprint,
    TrainedShape,
    activations_of_maps,
    footprint,
    frozen_bytes,
    frozen_groups,
    kv_bytes,
    num_weights,
)
from trimtab.models.quantised import packing
from trimtab.models.stored_head import head_bytes
from trimtab.runs import scope_key
from trimtab.runs.estimated_maps import known_rows, num_maps
from trimtab.runs.estimated_split import Split, frozen_parts, launched, planned, policy_parts
from trimtab.runs.lengths import lengths
from trimtab.runs.made_models import MadeModel, config_of, made_cache, policy_config, with_origins, written_config
from trimtab.runs.memory_parts import BOTH_PASSES, MemoryEstimate, MemoryPart, always, during
from trimtab.runs.models import kept_in
from trimtab.runs.models_key import FROZEN, SELF_AVERAGE, cache_folder, is_teacher, teachers_of
from trimtab.runs.other_tokenizer import has_own_tokenizer
from trimtab.runs.policy import method_of, policy_tokenizer
from trimtab.runs.recipe import Recipe, Stages, named_models, policy_source
from trimtab.runs.row_bytes import bytes_of
from trimtab.runs.rows import prepare_source
from trimtab.runs.stages import made_by
from trimtab.runs.teacher_pass import MOST_LIKELY, check_sizes
from trimtab.train import settings

OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "lion": 4, "lion_32bit": 4, "rmsprop": 4, "adagrad": 4}
"""of the state of one weight; 8-bit optimizers have 2, Adam and what is like it 8"""
OBJECTIVE_TABLES = 5
"""tables of a slice that an objective makes"""
MAP_TABLES = 6
"""tables of the answers' logits that a map's first and second derivative make"""
MERGE_TABLES = 10
"""float32 tables of logits, or as many bytes, where a merged model is held against the trained one"""
RUNTIME = 64 << 20
"""main memory of threads, product buffers and what the allocator cannot give back"""


def estimates(recipe: Recipe | Stages, split: Split | None = None) -> list[MemoryEstimate]:
    """Of each run that trains; of several seeds once.

    Args:
        split: the devices of a launch; those of this process if not given.

    Raises:
        UserError: where a model or rows are not there, or what they need cannot be told.
    """
    made: dict[str, MadeModel] = {}
    read = lru_cache(maxsize=2)(load_rows)  # stages share their sources
    found = []
    check_sizes(first_seed(recipe))
    for run in first_seed(recipe):
        if run.precompute is None:
            found.append(_estimate(run, made, read, split or launched()))
        else:
            made[made_by(run)] = made_cache(run, made)
    return found


def first_seed(recipe: Recipe | Stages) -> list[Recipe]:
    """Its runs; of several seeds those of one, as the others need the same."""
    runs = recipe.stages if isinstance(recipe, Stages) else [recipe]
    if isinstance(recipe, Stages) and recipe.seeds:
        return [run for run in runs if run.used or run.seed == recipe.seeds[0]]
    return runs


def _estimate(
    recipe: Recipe, made: dict[str, MadeModel], read: Callable[[str], list[Row]], split: Split
) -> MemoryEstimate:
    """Of one run; its model is added to `made`, by the folder that it is written to."""
    models = recipe.models
    method, options, required = method_of(recipe)
    args = settings.build(planned(recipe.training, split), Path(recipe.output), recipe.seed, method.loop)
    device = split.device or args.device.type
    known = with_origins(recipe, made)
    tokenizer = policy_tokenizer(known)
    config = policy_config(recipe, made, tokenizer)
    made[made_by(recipe)] = MadeModel(written_config(config, required.trains == "identity_layer"), policy_source(known))
    outputs = 0
    if method.loop == "classification":
        labelled = known_rows(known, recipe, made)
        train, held, outputs = labelled.train, labelled.heldout, labelled.labels.outputs
    else:
        train = prepare_source(known, "train", tokenizer, refuse=False, read=read)
        held = prepare_source(known, "heldout", tokenizer, refuse=False, read=read) if recipe.data.heldout else None
    rows = args.per_device_train_batch_size * (2 if required.rows in ("pairs", "rationales", "sampled_pairs") else 1)
    longest, answer = lengths(train, args, args.max_completion_length if method.loop == "rollouts" else 0)
    shape = TrainedShape(
        required.trains == "identity_layer", required.trains == "scalar_head", scope_key.asked(recipe), models.lora,
        bool(args.gradient_checkpointing),
        "bfloat16" if args.bf16 else "float16" if args.fp16 else None, outputs, num_maps(required, options, outputs),
        getattr(options, "steps", 1) if outputs else 1,
    )  # fmt: skip
    trust = models.trust_remote_code
    policy = footprint(config, models.dtype, shape, rows, longest, device, trust_remote_code=trust)
    run = _Run(recipe, required, options, args, config, policy, shape, rows, longest, answer, device, made, split)
    parts = [*run.policy_parts(), *run.other_models(), *run.logits(), *run.generation(), *run.saving(held or train)]
    parts += run.rows_in_memory([one for one in (train, held) if one], read)
    return MemoryEstimate(recipe, parts, device, rows, longest, str(split))


@dataclass
class _Run:
    recipe: Recipe
    required: Requirements
    options: Any
    args: Any
    config: Any
    policy: Footprint
    shape: TrainedShape
    rows: int
    length: int
    answer: int
    """tokens of the longest answer"""
    device: str
    made: Mapping[str, MadeModel]
    split: Split

    def policy_parts(self) -> list[MemoryPart]:
        one, lora = self.policy, self.recipe.models.lora is not None
        phases = (*BOTH_PASSES, "saving") if self.device == "cpu" else BOTH_PASSES  # the heap keeps what is freed
        parts = policy_parts(one, self.split, self.args, _state(self.args), _optimizer(self.args), lora)
        name = f"activations of {self.rows} x {self.length} tokens"
        parts.append(MemoryPart(name, one.activations, during(*phases)))
        if self.shape.maps:
            parts += self._of_maps(one.activations)
        if getattr(self.args, "packing", False):  # a byte for each pair of tokens
            mask = self.rows * self.length**2
            parts.append(MemoryPart(f"mask of {self.rows} x {self.length} packed tokens", mask, during(*BOTH_PASSES)))
        if getattr(self.args, "share_prefixes", False):  # and the numbers that it is made from
            pairs = max(1, self.rows // MOST) * (MOST * self.length) ** 2
            name = f"mask of {self.rows} x {self.length} tokens that may be shared"
            parts.append(MemoryPart(name, 5 * pairs, during(*BOTH_PASSES)))
        if self.recipe.method in ("psft", "proxy_align"):
            parts.append(MemoryPart("snapshot of trained weights", 4 * one.trained, always()))
        return parts

    def _of_maps(self, activations: int) -> list[MemoryPart]:
        """What the teacher keeps for its maps. A classifier's stays until both maps are there; a language model's is
        gone before the policy reads, and its answers' logits are not cut into blocks."""
        kept, whole = self._kept_for_maps(self.rows), bool(self.shape.outputs)
        beyond = 1.0 if whole else max(0.0, 1 - activations / kept)
        parts = [MemoryPart("activations of the teacher, for its maps", kept, {"forward": beyond})]
        if not whole:
            tokens = self.rows * (self.options.positions or self.answer)
            size = MAP_TABLES * 4 * tokens * self.policy.vocab
            name = f"logits of maps, {tokens} x {self.policy.vocab:,} tokens"
            parts.append(MemoryPart(name, size, during(*BOTH_PASSES)))
        if self.recipe.data.heldout:
            rows, models = self.recipe.eval.batch_size, self.recipe.models
            ours = footprint(
                self.config, models.dtype, replace(self.shape, maps=0, checkpointing=False), rows, self.length,
                self.device, trust_remote_code=models.trust_remote_code,
            ).activations  # fmt: skip
            theirs = self._kept_for_maps(rows)
            size = ours + theirs if whole else max(ours, theirs)
            name = f"evaluation: activations for maps of {rows} x {self.length} tokens"
            parts.append(MemoryPart(name, size, during("evaluation")))
        return parts

    def _kept_for_maps(self, rows: int) -> int:
        models = self.recipe.models
        config = config_of(str(models.teacher), self.recipe, self.made)
        how: dict[str, Any] = {"trust_remote_code": models.trust_remote_code}
        return activations_of_maps(config, models.frozen_dtype, self.shape, rows, self.length, self.device, **how)

    def other_models(self) -> list[MemoryPart]:
        models, required = self.recipe.models, self.required
        cached, seen = cache_folder(models.teacher), set()
        written = self.made.get(str(models.teacher))
        head = 0 if cached is None else written.head if written and not cached.is_dir() else head_bytes(cached)
        parts = [] if cached is None else [MemoryPart("head of the cached teacher", head, always())]
        for role, name in named_models(self.recipe).items():
            if (is_teacher(role) or role in FROZEN) and name not in seen:
                seen.add(name)
                bits, apart = (models.teacher_bits, models.teacher_device) if is_teacher(role) else (None, None)
                named = f"{role} {_short(name)}, {models.frozen_dtype if bits is None else f'{bits} bits'}"
                if models.split_frozen and self.split.kind == "FSDP2":
                    parts += self._split(named, config_of(name, self.recipe, self.made))
                    continue
                size = self._frozen(config_of(name, self.recipe, self.made), bits)
                here = apart is None or apart == self.device
                parts += [MemoryPart(named, size, always(), host=apart == "cpu")] if here or apart == "cpu" else []
            seen.add(name)
        if models.teacher == SELF_AVERAGE and models.lora is None:
            parts.append(MemoryPart("average of the policy's weights", 4 * self.policy.params, always()))
        copies = self.recipe.eval.kl_to_initial
        initial = {model.initial(models.model_dump()) for model in required.models}
        needs_start = "read" in initial and models.lora is None and required.trains != "identity_layer"
        if copies or needs_start or "copied" in initial:
            why = "reference" if needs_start else "eval.kl_to_initial" if copies else "to initialise the critic"
            parts.append(MemoryPart(f"copy of the initial policy ({why})", self._frozen(self.config), always()))
        if required.model(RewardModel) and models.reward_model:
            config = config_of(models.reward_model, self.recipe, self.made)
            number, read = num_weights(config), self._frozen(config)
            learns = getattr(self.options, "online", "frozen") != "frozen"
            measured = learns or getattr(self.options, "online_loss", None) is not None
            parts.append(MemoryPart("reward model", 4 * number if learns else read, always()))
            if measured:
                parts.append(MemoryPart("reference of the reward model", read, always()))
            if learns:
                parts += _learner("reward model", number)
        if required.model(Critic):
            number = self._plain_weights()
            parts += [MemoryPart("critic", 4 * number, always()), *_learner("critic", number)]
        return parts

    def _split(self, name: str, config: Any) -> list[MemoryPart]:
        models = self.recipe.models
        outside, layers = frozen_groups(config, models.frozen_dtype, trust_remote_code=models.trust_remote_code)
        return frozen_parts(name, outside, layers, self.split.number)

    def _frozen(self, config: Any, bits: int | None = None) -> int:
        """Bytes of a model that is only read."""
        models = self.recipe.models
        if bits is not None:
            config = copy.deepcopy(config)
            config.quantization_config = packing(bits, models.frozen_dtype)
        how: dict[str, Any] = {"trust_remote_code": models.trust_remote_code, "outputs": self.shape.outputs}
        return frozen_bytes(config, models.frozen_dtype, self.device, **how)

    def _plain_weights(self) -> int:
        return num_weights(self.config, trust_remote_code=self.recipe.models.trust_remote_code)

    def logits(self) -> list[MemoryPart]:
        """The tables of the engine: a block of logits of each model, and what an objective makes of a slice."""
        if self.required.trains in ("scalar_head", "classifier"):
            return []
        tokens = min(BLOCK_TOKENS, self.rows * min(self.answer, self.length))
        block = 4 * tokens * self.policy.vocab
        whole = any(getattr(model, "reads", "") == "distribution" for model in self.required.models)
        number = 1 + (1 if whole else 0)
        plain = self.recipe.models.dtype == "float32" and not (self.args.bf16 or self.args.fp16)
        tables = number + (0 if plain else 1)
        scale = 1 if self.device == "cpu" else CUDA_SCALE
        slices = OBJECTIVE_TABLES * min(block, scale * SLICE_BYTES)
        apart = has_own_tokenizer(self.required)
        several = len(teachers_of(self.recipe.models)) * (self.recipe.models.teacher_weights is not None)
        teachers = 0 if apart or not self.recipe.models.teacher else max(1, several)
        read = 1 + teachers + bool(self.recipe.eval.kl_to_initial)
        name = f"logits, blocks of {tokens} x {self.policy.vocab:,} tokens"
        parts = [MemoryPart(name, tables * block + slices, during("forward"))]
        if apart:
            theirs = config_of(str(self.recipe.models.teacher), self.recipe, self.made).get_text_config().vocab_size
            table = 4 * BLOCK_TOKENS * theirs
            name = f"logits of the teacher, blocks of {BLOCK_TOKENS} x {theirs:,} tokens"
            parts.append(MemoryPart(name, 2 * table, during("forward")))
        if self.recipe.data.heldout:
            name = f"logits in evaluation, of {count(read, 'model')}"
            parts.append(MemoryPart(name, read * block + slices, during("evaluation")))
        return parts

    def generation(self) -> list[MemoryPart]:
        """Completions of rollouts, and those of evaluations."""
        each = kv_bytes(self.config, self.recipe.models.dtype) * self.length
        parts: list[MemoryPart] = []
        if self.recipe.reward:
            number = self.args.generation_batch_size // self.split.number
            held = self.recipe.eval.batch_size
            logits = 3 * 4 * self.policy.vocab
            if self.recipe.rollouts.engine == "generate":  # otherwise a server has them
                name = f"KV cache of rollouts, {number} x {self.length} tokens"
                parts = [MemoryPart(name, number * each, during("rollouts"))]
                parts.append(MemoryPart("logits of rollouts", number * logits, during("rollouts")))
            if self.recipe.data.heldout:
                parts.append(
                    MemoryPart(f"KV cache in evaluation, {held} completions", held * each, during("evaluation"))
                )
            return parts
        if self.required.rows == "sampled_pairs":
            number = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
            size = each + kv_bytes(self.config, self.recipe.models.dtype) * self.options.max_new_tokens
            parts.append(MemoryPart(f"KV cache of {number} sampled answers", number * size, during("rollouts")))
        if self.recipe.eval.prompts:
            new = self.recipe.eval.max_new_tokens + 64
            size = kv_bytes(self.config, self.recipe.models.dtype) * new * len(self.recipe.eval.prompts)
            parts.append(MemoryPart("KV cache of eval.prompts", size, during("evaluation")))
        return parts

    def saving(self, prepared: Prepared) -> list[MemoryPart]:
        """An adapter is merged in float32, and the saved model's logits of a few rows are held against the trained
        one's; nothing of that beside packed weights."""
        if self.recipe.models.lora is None or getattr(self.config, "quantization_config", None):
            return []
        some = prepared.prompts[:4] or [sequences(row)[0][0] for row in prepared.rows[:4]]
        if self.shape.outputs:
            return [MemoryPart("saving: the merged model, loaded again", 4 * self.policy.params, during("saving"))]
        tokens = sum(min(256, len(ids)) for ids in some)
        table, merged = 4 * tokens * self.policy.vocab, 4 * self.policy.params
        name = f"saving: logits of {tokens} tokens compared"
        parts = [MemoryPart("saving: the merged model, loaded again", merged, during("saving"))]
        if self.device == "cpu":
            return [*parts, MemoryPart(name, MERGE_TABLES * table, during("saving"))]
        aside = MemoryPart("saving: the trained model, put aside", merged, during("saving"), host=True)
        kept = MemoryPart(name, MERGE_TABLES * table, during("saving"), host=True)
        return [*parts, MemoryPart(name, 2 * table, during("saving")), aside, kept]  # computed there, compared here

    def rows_in_memory(self, prepared: Sequence[Prepared], read: Callable[[str], list[Row]]) -> list[MemoryPart]:
        number = sum(len(one.rows) for one in prepared)
        sources = (self.recipe.data.train, self.recipe.data.heldout)
        size = sum(bytes_of(one, read(str(source))) for one, source in zip(prepared, sources))
        parts = [MemoryPart(f"{count(number, 'row')} as token ids", size, always(), host=True)]
        cached = cache_folder(self.recipe.models.teacher) is not None and self.required.keys <= {"teacher"}
        if kept_in(self.recipe) == "memory" and not cached:
            held = prepared[1:] if self.recipe.models.teacher and "teacher" not in self.required.keys else prepared
            tokens = sum(one.counts.answer_tokens for one in held)
            reference = self.required.model(Reference)
            alone = self.required.keys <= {"reference", "reward_model"}
            labels = alone and reference is not None and reference.reads == "answers"
            each = 4 if labels else 4 * self.policy.width
            if is_address(self.recipe.models.teacher):
                each = 8 * ((self.recipe.models.teacher_k or MOST_LIKELY) + 1)
            parts.append(MemoryPart("teacher cache", tokens * each, always(), host=True))
        parts.append(MemoryPart("threads and buffers", RUNTIME, always(), host=True))
        return parts


def _learner(name: str, number: int) -> list[MemoryPart]:
    return [
        MemoryPart(f"gradients of the {name}", 4 * number, during("update")),
        MemoryPart(f"optimizer state of the {name}", 8 * number, always()),
    ]


def _optimizer(args: Any) -> str:
    return str(getattr(args.optim, "value", args.optim))


def _state(args: Any) -> int:
    name = _optimizer(args)
    if "8bit" in name or ("bnb" in name and "32" not in name):
        return 2
    return OPTIMIZER_BYTES.get(name.removesuffix("_torch"), 8)


def _short(name: str) -> str:
    return Path(name).parent.name if name.endswith("/model") else name
