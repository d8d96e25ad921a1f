"""Runs that train a classifier: their rows, their models, and what is measured on held-out rows."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from trimtab import __version__
from trimtab.common import fingerprint, processes, user_code
from trimtab.common.count import count
from trimtab.common.environment import environment
from trimtab.common.terminal import say
from trimtab.core import Labels, Plan, Teacher
from trimtab.data import labelled
from trimtab.data.collate import length_sorted
from trimtab.data.counts import Prepared, check_dropped
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.metrics.classified import of_classes, of_numbers
from trimtab.models import loading
from trimtab.models.classifier import (
    is_causal,
    pad_alike,
    plain,
    stored_labels,
    twice_differentiable,
)
from trimtab.models.masters import train_in_float32
from trimtab.report import short
from trimtab.runs.alike import check_same_recipe
from trimtab.runs.classifier_models import (
    check_classifier_plan,
    classifier_to_train,
    scope_of_classifier,
    shared_classifier,
    with_lora,
)
from trimtab.runs.evaluation import SHOWN_MAPS
from trimtab.runs.folder import RunError
from trimtab.runs.job import Job
from trimtab.runs.models_key import one_teacher
from trimtab.runs.policy import Shared, method_of, policy_tokenizer, shown
from trimtab.runs.recipe import Recipe, policy_source
from trimtab.runs.signature import dtypes, own_code
from trimtab.runs.teacher_key import second_derivative_rules
from trimtab.signals.classifier import FrozenClassifier
from trimtab.train import classification, settings
from trimtab.train.epochs import epoch_of, updates_asked
from trimtab.train.events import EventLog
from trimtab.train.together import joined, share

COMPARED = 32
"""rows that the tokenizers of policy and teacher must split alike"""


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a recipe as token ids, with the labels that all its models share."""

    train: Prepared
    heldout: Prepared | None
    labels: Labels
    tokenizer: PreTrainedTokenizerBase
    notes: list[str]


def check_recipe(recipe: Recipe) -> None:
    """Refuse keys of a recipe that mean nothing for a classifier, or that are not built for one.

    Raises:
        RunError: naming the key.
    """
    models, data, asked = recipe.models, recipe.data, recipe.eval
    idle = {
        "eval.prompts": (asked.prompts, "a classifier generates nothing"),
        "eval.suites": (asked.suites, "a classifier generates nothing"),
        "eval.kl_to_initial": (asked.kl_to_initial, "a classifier has no next token"),
        "data.chat": (data.chat, "texts are read without a chat template"),
        "data.turns": (data.turns != "auto", "texts have no turns"),
        "models.resize": (models.resize, "the embedding of a classifier is not extended"),
        "data.teacher_prompt": (data.teacher_prompt, "a teacher reads the text that the policy reads"),
        "models.teacher_cache": (models.teacher_cache != "off", "a teacher's maps are made with each batch"),
        "models.teacher_device": (models.teacher_device, "a teacher's maps are made beside the policy's"),
        "models.teacher_bits": (models.teacher_bits, "a teacher's maps need gradients through its weights as they are"),
    }
    for key, (given, why) in idle.items():
        if given:
            raise RunError(f"{key}: {why} (method {recipe.method}); leave it out")
    for wrong, why in second_derivative_rules(recipe.training):
        if wrong:
            raise RunError(f"{why}; leave it out")
    if models.teacher is not None and method_of(recipe)[2].model(Teacher) is None:
        raise RunError(f"models.teacher: method {recipe.method} has none; leave it out")


def labels_of_models(recipe: Recipe) -> Labels | None:
    """The labels that the recipe's models were trained on; None if none of them was.

    Raises:
        RunError: if they differ, with the first difference, or the teacher has none.
    """
    models, trust = recipe.models, {"trust_remote_code": recipe.models.trust_remote_code}
    ours = stored_labels(policy_source(recipe), **trust)
    if (teacher := one_teacher(models)) is None:
        return ours
    theirs = stored_labels(teacher, **trust)
    if theirs is None:
        raise RunError(
            f"models.teacher: {models.teacher} has no head for a task; fine-tune it first, as with method classify"
        )
    if ours is not None and ours != theirs:
        named = zip_longest(ours.names, theirs.names, fillvalue="missing")
        pairs = ((number, one, other) for number, (one, other) in enumerate(named) if one != other)
        number, one, other = next(pairs)
        raise RunError(
            f"the labels of {policy_source(recipe)} and of its teacher {models.teacher} differ: label {number} is "
            f"{one} and {other}; choose a student without a head, or one of the same task"
        )
    return theirs


def labelled_rows(recipe: Recipe, *, refuse: bool = True, only: str | None = None) -> LabelledRows:
    """The rows of a recipe, checked against its models' labels and tokenizers; no weights are loaded.

    Args:
        refuse: whether too many rows that are cut are an error.
        only: "train" or "heldout", to prepare one split alone.
    """
    known, tokenizer = labels_of_models(recipe), policy_tokenizer(recipe)
    data, task = recipe.data, recipe.options.get("task", "auto")
    sources = {"train": (data.train, data.rows), "heldout": (data.heldout, data.heldout_rows)}
    raw: dict[str, tuple[str, list[Row], list[Any]]] = {}
    for split, (source, limit) in sources.items():
        if source is not None:
            rows = load_rows(source)[:limit]
            raw[split] = (source, rows, labelled.labels_of(rows, source))
    source, _, of_train = raw["train"]
    every = [label for _, _, found in raw.values() for label in found]
    regression = labelled.task_of(every if known is None else of_train, source, task, known)
    for where, _, found in raw.values():
        labelled.task_of(found, where, "regression" if regression else task, known)
    labels = known or labelled.labels_from(every, source, regression)
    limit, limited_by = _longest(recipe, tokenizer)
    prepared, notes = {}, []
    for split, (where, rows, found) in raw.items():
        if only not in (None, split):
            continue
        numbers = labelled.numbered(found, where, labels)
        made = labelled.tokenised(rows, numbers, tokenizer, where, limit)
        made.limited_by = limited_by
        if refuse:
            check_dropped(made, data.max_dropped)
        notes.append(f"{where}: labels {labelled.counted(numbers, labels)}")
        if split == "train" and not regression and (absent := labelled.missing_classes(numbers, labels, where)):
            notes.append(absent)
        prepared[split] = made
    some = next(iter(prepared.values()))
    _check_tokenizers(recipe, tokenizer, raw[only or "train"][1], list(prepared.values()))
    return LabelledRows(prepared.get("train", some), prepared.get("heldout"), labels, tokenizer, notes)


def _longest(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[int, str]:
    """Most tokens of a row, and what they come from: also the tables of positions of all models."""
    found = (recipe.training.get("max_length") or 128, "training.max_length")
    models = recipe.models
    for role, name in {"policy": policy_source(recipe), "teacher": one_teacher(models)}.items():
        if name is None:
            continue
        config = loading.load_config(name, trust_remote_code=models.trust_remote_code)
        places = getattr(config, "max_position_embeddings", None)
        if isinstance(places, int) and places > 0:
            places -= (config.pad_token_id or 0) + 1 if config.model_type in PADDED_POSITIONS else 0
            found = min(found, (places, f"the position embeddings of the {role}"))
    return found


PADDED_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "data2vec-text",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
)
"""model types whose positions begin behind the padding's id"""


def _check_tokenizers(recipe: Recipe, tokenizer: Any, rows: list[Row], prepared: list[Prepared]) -> None:
    """Refuse a teacher that splits texts otherwise: maps are compared token by token; and ids that a model lacks."""
    models, trust = recipe.models, recipe.models.trust_remote_code
    vocab = loading.load_config(policy_source(recipe), trust_remote_code=trust).get_text_config().vocab_size
    if (teacher := one_teacher(models)) is not None:
        size, _ = loading.check_vocabulary(tokenizer, vocab, teacher, "teacher", trust_remote_code=trust)
        vocab = min(vocab, size)
        other = loading.load_tokenizer(teacher, trust_remote_code=trust)
        form = labelled.form_of(rows, recipe.data.train)
        texts: Any = [[row[column] for row in rows[:COMPARED]] for column in form]
        pairs = zip(tokenizer(*texts)["input_ids"], other(*texts)["input_ids"])
        for number, (ours, theirs) in enumerate(pairs, start=1):
            if ours != theirs:
                raise RunError(
                    f"policy and teacher split row {number} into different tokens, so their maps cannot be compared; "
                    "choose a student with the teacher's tokenizer"
                )
    for one in prepared:
        for row in one.rows:
            if max(row["input_ids"]) >= vocab:
                raise DataError(
                    f"{one.source}: row {one.number(row)} has the token id {max(row['input_ids'])}, and the models "
                    f"hold {vocab}; use the model's own tokenizer"
                )


def load_classification_job(recipe: Recipe, shared: Shared, console: Console) -> Job:
    """As `load_job`, for a method that trains a classifier."""
    method, options, required = method_of(recipe)
    check_recipe(recipe)
    args = settings.build(recipe.training, Path(recipe.output), recipe.seed, method.loop)
    processes.check_group(args.world_size)
    check_same_recipe(recipe)
    rows = labelled_rows(recipe)
    notes = list(rows.notes)
    epoch = epoch_of(args, method.loop, len(rows.train.rows))
    signals: dict[str, FrozenClassifier] = {}
    prints: dict[str, str] = {}
    teacher = None
    if required.model(Teacher) is not None:
        named = one_teacher(recipe.models)
        assert named is not None
        teacher = shared_classifier(recipe, shared, named, rows.labels)
        prints["teacher"] = fingerprint.of_model(teacher)
        signals["teacher"] = FrozenClassifier(teacher)
    policy: Any = classifier_to_train(recipe, teacher, rows.labels)
    pad_id = pad_alike([policy, *([] if teacher is None else [teacher])], rows.tokenizer)
    if is_causal(plain(policy)) and (ending := sum(row["input_ids"][-1] == pad_id for row in rows.train.rows)):
        notes.append(
            f"{count(ending, 'row')} of {rows.train.source} {'ends' if ending == 1 else 'end'} with "
            f"{rows.tokenizer.pad_token}, which also pads: the answer is read at the token before it"
        )
    notes += [*([epoch.note] if epoch.note else []), *loading.notes(policy)]
    trained = fingerprint.of_model(policy)
    scope, said = scope_of_classifier(recipe, policy)
    notes += said
    plan = method.build(options, policy, **signals)
    check_classifier_plan(recipe, plan, [policy, *([teacher] if teacher is not None else [])])
    if getattr(plan.objective, "steps", 0):
        twice_differentiable(policy)
    policy = with_lora(policy, recipe, scope)
    if train_in_float32(policy):
        notes.append(
            f"trainable weights are kept in float32 and computations run in models.dtype, {recipe.models.dtype}; "
            "model/ is rounded to it at the end"
        )
    for note in notes:
        say(console, note)
    signature = _signature(recipe, rows, plan, args, policy, trained, prints, user_code.described(
        own_code(recipe, [], {}, (policy, *([teacher] if teacher is not None else [])))
    ))  # fmt: skip
    sink = rows.tokenizer.bos_token_id if is_causal(plain(policy)) else None
    collator: Any = labelled.LabelledCollator(pad_id, rows.labels.regression, sink)  # type: ignore[arg-type]
    return Job(
        recipe, method, plan, policy, rows.tokenizer, rows.train, rows.heldout, [], collator, signature, notes, None,
        epoch, updates_asked(args, epoch), args=args, labels=rows.labels,
        rebuild=lambda: with_lora(classifier_to_train(recipe, teacher, rows.labels), recipe, scope),
    )  # fmt: skip


def _signature(
    recipe: Recipe, rows: LabelledRows, plan: Plan, args: Any, policy: Any, trained: str, prints: dict[str, str],
    code: str | None,
) -> dict[str, str]:  # fmt: skip
    models = recipe.models
    train_name, held_name = (fingerprint.of_rows(one.rows) if one else "none" for one in (rows.train, rows.heldout))
    asked = recipe.training.get("disable_dropout")
    lines: dict[str, str | None] = {
        "trimtab": __version__,
        "method": recipe.method,
        "options": str(recipe.options),
        "seed": str(recipe.seed),
        "policy": f"{shown(models.policy)} {trained}",
        **{role: f"{getattr(models, role)} {found}" for role, found in prints.items()},
        "labels": str(rows.labels),
        "lora": None if models.lora is None else str(models.lora),
        "trained parameters": f"{sum(p.numel() for p in policy.parameters() if p.requires_grad):,}",
        "tokenizer": fingerprint.of_tokenizer(rows.tokenizer),
        "training data": f"{recipe.data.train} {train_name}",
        "code": code,
        "held-out data": f"{recipe.data.heldout} {held_name}",
        "dtype": dtypes(recipe),
        "dropout": None if asked is None else ("off" if asked else "kept"),
        "reduction": plan.reduction,
        "processes": str(args.world_size),
        **environment(),
    }
    return {name: line for name, line in lines.items() if line is not None}


def evaluator(
    job: Job, args: Any, log: EventLog, console: Console, tell: Callable[[dict[str, float]], None]
) -> Callable[[Any, int, bool], None] | None:
    """As `runs.evaluation.evaluator`, for a classifier; `whole` also stores rows, tables and attribution maps."""
    held = job.heldout
    if held is None:
        return None
    mixed = torch.bfloat16 if args.bf16 else torch.float16
    size = job.recipe.eval.batch_size

    def evaluate(policy: Any, step: int, whole: bool) -> None:
        with torch.random.fork_rng(), torch.autocast(args.device.type, mixed, enabled=bool(args.bf16 or args.fp16)):
            batches = length_sorted(held.rows, job.collator, size, args.device, share())
            rows = joined(classification.measure(policy, batches, job.plan))
            some = length_sorted(held.rows[:SHOWN_MAPS], job.collator, size, args.device)
            drawn = classification.maps(policy, some, job.plan) if whole else []
        if processes.rank() != 0:
            return
        means = classification.summary(rows)
        if whole:
            for row, numbers in rows.items():
                log.sample("heldout", step, row_id=row, **numbers)
            log.event("table", step, title=f"Held-out rows at step {step}", rows=table(rows, _labels(job)))
            for one in drawn:
                log.sample("attribution", step, **_said(one, rows, job))
        log.event("eval", step, **means)
        tell(means)
        text = "  ".join(f"{short(name)} {means[name]:.4g}" for name in classification.MEANS if name in means)
        say(console, f"held-out rows, step {step}: {text}")

    return evaluate


def _labels(job: Job) -> Labels:
    assert job.labels is not None
    return job.labels


def table(rows: dict[int, dict[str, float]], labels: Labels) -> list[dict[str, Any]]:
    """Each measure of the task with its interval, of the student and of the teacher where there is one."""
    columns = {"model and 95% interval": "answer", "teacher and 95% interval": "teacher_answer"}
    lines: dict[str, dict[str, Any]] = {}
    for title, key in columns.items():
        if key not in next(iter(rows.values())):
            continue
        true, answers = ([row[name] for row in rows.values()] for name in ("label", key))
        found = of_numbers(true, answers) if labels.regression else of_classes(true, answers, labels.outputs)
        for measure, interval in found.items():
            lines.setdefault(measure, {"measure": measure})[title] = interval.shown()
    return list(lines.values())


def _said(one: dict[str, Any], rows: dict[int, dict[str, float]], job: Job) -> dict[str, Any]:
    """A row's maps with its tokens, and its label and answers in words."""
    row, labels = rows[one["row_id"]], _labels(job)
    names = {key: row[key] if labels.regression else labels.names[int(row[key])] for key in row if key in SAID}
    tokens = job.tokenizer.convert_ids_to_tokens(one["ids"])
    return {"row_id": one["row_id"], "tokens": tokens, "student": one["student"], "teacher": one["teacher"], **names}


SAID = ("label", "answer", "teacher_answer")
