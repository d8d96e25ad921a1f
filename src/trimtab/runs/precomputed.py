"""Log-probabilities of frozen models, computed once and stored in the rows, so that training need not load them."""

import gc
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

from trimtab import __version__
from trimtab.common import fingerprint
from trimtab.common.environment import environment
from trimtab.common.files import JsonLines
from trimtab.common.on_ray import Cluster
from trimtab.common.progress import num_tokens, watched
from trimtab.common.terminal import say
from trimtab.common.workdir import Workdir
from trimtab.core import IGNORE, Reference, WeakPair, answer_mask
from trimtab.data import stored
from trimtab.data.collate import Collator, length_sorted
from trimtab.data.rows import REJECTED, prefixes, prepare, sequences
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.models import loading
from trimtab.models.ends import end_tokens
from trimtab.models.forward import crop_to
from trimtab.runs.models_key import STORED
from trimtab.runs.policy import Shared, make_policy, method_of, policy_tokenizer, policy_vocab, shown
from trimtab.runs.recipe import Recipe, policy_source
from trimtab.runs.rows import check_ids, column_facts, prepare_source
from trimtab.signals.frozen import FrozenModel

PART = ".columns.part"
"""ending of the file that keeps batches until all are there"""
WEAK = tuple(reversed(WeakPair.keys))
LogProbs = dict[int, list[Tensor]]
"""row id -> log-probabilities of the answer tokens of its sequences, one model's"""


def columns_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """column -> roles of the frozen models whose log-probabilities of the answers it can replace in training."""
    required = method_of(recipe)[2]
    found = {stored.WEAK_DELTA: WEAK} if required.model(WeakPair) else {}
    reference = required.model(Reference)
    if reference is not None and reference.reads == "answers" and recipe.models.reference != STORED:
        found[stored.REFERENCE] = Reference.keys
    return found


def frozen_columns(
    recipe: Recipe, columns: Mapping[str, tuple[str, ...]], work: Workdir, console: Console, ray: Cluster | None = None
) -> tuple[Iterator[Row], dict[str, Any]]:
    """The recipe's training rows with their new columns, and what these were computed from.

    Args:
        work: keeps each batch of numbers.
        ray: shares the batches among workers.
    """
    models, source = recipe.models, recipe.data.train
    trust = models.trust_remote_code
    tokenizer = policy_tokenizer(recipe)
    vocab = policy_vocab(recipe, tokenizer)
    roles = [role for named in columns.values() for role in named]
    vocabularies = {}
    for role in roles:
        name = getattr(models, role) or policy_source(recipe)
        if getattr(models, role) is None:  # the policy before training
            vocabularies[role] = vocab
        else:
            vocabularies[role], _ = loading.check_vocabulary(tokenizer, vocab, name, role, trust_remote_code=trust)
    prepared = prepare_source(recipe, "train", tokenizer, console=console)
    check_ids(prepared, None, {"policy": vocab, **vocabularies}, tokenizer)
    vocab = min(vocab, *vocabularies.values())

    rows = load_rows(source)[: recipe.data.rows]
    facts = {
        "dtype": models.frozen_dtype,
        "source": source,
        "max_length": prepared.max_length,
        "vocabulary": vocab,
        **column_facts(rows, tokenizer, recipe.data.chat),
        "trimtab": __version__,
        **environment(),
    }
    more = {"roles": roles, "batch": recipe.eval.batch_size, "tokens": fingerprint.of_rows(prepared.rows)}
    work.sign({**facts, **more})
    kept = work.records(PART, "role", "model", "batch", "logprobs", what="batches")
    if kept:
        say(console, f"{len(kept)} batches of an earlier call are in {kept.path}")
    logprobs: dict[str, LogProbs] = {}
    names = {}
    for role in roles:
        collator = Collator(int(tokenizer.pad_token_id or 0), vocab)  # type: ignore[arg-type]
        batches = list(length_sorted(prepared.rows, collator, recipe.eval.batch_size))
        logprobs[role], names[role] = _label_logprobs(recipe, role, batches, vocab, kept, ray, console)
        gc.collect()  # the model is gone before the next one comes

    pairs = method_of(recipe)[2].rows == "pairs"
    whole = prepare(
        rows,
        tokenizer,
        max_length=10**9,
        source=source,
        end_ids=end_tokens(tokenizer),
        pairs=pairs,
        turns=recipe.data.turns,
        chat=recipe.data.chat,
    )  # answers uncut
    made: dict[int, dict[str, list[float | None]]] = {}
    for row in whole.rows:  # the turns of a conversation that became several rows come one after another
        place = made.setdefault(whole.number(row) - 1, {})
        for name, values in _columns(row, columns, logprobs).items():
            place[name] = [*place.get(name, []), *values]
    nothing = {prefix + name: [] for prefix in (("", REJECTED) if pairs else ("",)) for name in columns}
    meta = {
        "columns": list(columns),
        "models": names,
        **facts,
    }
    return ({**row, **made.get(i, nothing)} for i, row in enumerate(rows)), meta


def _load(recipe: Recipe, role: str) -> tuple[PreTrainedModel, str]:
    """A frozen model, and how it is named; the reference that no recipe names is the policy before training."""
    models = recipe.models
    name = getattr(models, role)
    if name is None:
        model = make_policy(recipe, Shared())
        start = f"{shown(models.policy)} {fingerprint.of_model(model)}"  # as training prints it, before it is rounded
        return loading.cast(model, models.frozen_dtype), start
    model = loading.load_model(name, dtype=models.frozen_dtype, trust_remote_code=models.trust_remote_code)
    return model, f"{name} {fingerprint.of_model(model)}"


def _label_logprobs(
    recipe: Recipe, role: str, batches: Sequence[Mapping[str, Tensor]], vocab: int, kept: JsonLines,
    ray: Cluster | None, console: Console,
) -> tuple[LogProbs, str]:  # fmt: skip
    """Log-probabilities under one model, over the ids below `vocab`, and how the model is named.

    Raises:
        DataError: where batches were kept of another model of that name.
    """
    model, name = _load(recipe, role)
    done = {line["batch"]: line["logprobs"] for line in kept.rows if line["role"] == role}
    if was := next((line["model"] for line in kept.rows if line["role"] == role and line["model"] != name), None):
        raise DataError(f"{kept.path} was computed with {role} {was}, which is {name} now; put it back, or add --force")
    left = {number: inputs for number, inputs in enumerate(batches) if number not in done}
    if ray is None:
        values = map(_reader(recipe, role, vocab, model), left.values())
    else:
        del model
        values = ray.map(partial(_loaded_reader, recipe, role, vocab, name), list(left.values()))
    total = sum(map(num_tokens, left.values()))
    made = zip(left, values, strict=True)
    for number, numbers in watched(made, role, total, "tokens", lambda one: num_tokens(left[one[0]]), console):
        kept.append([{"role": role, "model": name, "batch": number, "logprobs": numbers}])
        done[number] = numbers
    found: LogProbs = {}
    for number, inputs in enumerate(batches):
        for row, numbers in zip(inputs["row_id"].tolist(), done[number], strict=True):
            found.setdefault(row, []).append(torch.tensor(numbers))
    return found, name


Reader = Callable[[Mapping[str, Tensor]], list[list[float]]]
"""batch -> log-probabilities of the answer tokens of each sequence"""


def _reader(recipe: Recipe, role: str, vocab: int, model: PreTrainedModel) -> Reader:
    """What reads batches with a model, on the device of the recipe."""
    crop_to(model, vocab)
    signal = FrozenModel(model, name=role, reads="answers")
    device = torch.device("cpu" if recipe.training.get("use_cpu") else loading.device())

    def read(batch: Mapping[str, Tensor]) -> list[list[float]]:
        inputs = {key: value.to(device) for key, value in batch.items()}
        model.to(device)  # type: ignore[arg-type]
        values = signal(None, inputs)[role].float().cpu()
        parts = values.split(answer_mask(inputs["labels"]).sum(dim=1).tolist())
        return [part.tolist() for part in parts]  # a float32 is read back to the bit

    return read


def _loaded_reader(recipe: Recipe, role: str, vocab: int, expected: str) -> Reader:
    """The same with a model that is loaded now, where a worker runs; it has to be the one of the command."""
    model, name = _load(recipe, role)
    if name != expected:
        raise DataError(
            f"the {role} is {name} on {socket.gethostname()} and {expected} where the command runs; name one folder "
            "that all machines share"
        )
    return _reader(recipe, role, vocab, model)


def _columns(
    row: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]], logprobs: Mapping[str, LogProbs]
) -> dict[str, list[float | None]]:
    """The columns of a prepared row whose answers are not cut."""
    found = {}
    for number, (prefix, (_, labels)) in enumerate(zip(prefixes(row), sequences(row))):
        length = sum(label != IGNORE for label in labels)
        for name, roles in columns.items():
            kept = [logprobs[role][row["row_id"]][number] for role in roles if row["row_id"] in logprobs[role]]
            values = (kept[-1] - kept[0] if len(roles) == 2 else kept[0]).tolist() if kept else []
            found[prefix + name] = _column(values, length)
    return found


def _column(values: Sequence[float], length: int) -> list[float | None]:
    """Nine digits hold a float32 exactly."""
    return [float(f"{value:.9g}") for value in values] + [None] * (length - len(values))
