"""The rows of a recipe as token ids, checked against what its models can read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import (
    PreTrainedTokenizerBase,
)

from trimtab.common import fingerprint
from trimtab.common.count import count
from trimtab.common.workdir import SIGNATURE
from trimtab.core.batch import ATTRIBUTED
from trimtab.data import stored
from trimtab.data.chat_date import adopt_date, date_facts
from trimtab.data.counts import Prepared, check_dropped
from trimtab.data.rationales import different, first_pair, has_rationales, prepare_rationales
from trimtab.data.rows import prepare, sequences
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.data.tasks import prepare_tasks
from trimtab.data.tokens import prompt_ids
from trimtab.evals.runner import EvalSpec, check_spec
from trimtab.models import loading
from trimtab.models.ends import end_tokens
from trimtab.models.limits import beyond, check_prompts, token_beyond
from trimtab.rewards.places import place_of_answer
from trimtab.runs.agent_rows import role_rows
from trimtab.runs.cached_teacher import cache_facts
from trimtab.runs.models_key import cache_folder
from trimtab.runs.other_tokenizer import has_own_tokenizer, read_by_both, turns_of
from trimtab.runs.policy import method_of, policy_vocab
from trimtab.runs.preparation import prepared as prepared_rows
from trimtab.runs.recipe import Recipe, named_models, policy_source


def prepare_source(
    recipe: Recipe,
    which: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    refuse: bool = True,
    console: Console | None = None,
    read: Callable[[str], list[Row]] = load_rows,
) -> Prepared:
    """Rows of `data.train` or `data.heldout` as token ids; refuses data of which too much would be dropped.

    Args:
        console: for progress.
        read: gives the rows of a source.
    """
    if method_of(recipe)[2].rows == "labelled":
        from trimtab.runs.classification import labelled_rows

        found = labelled_rows(recipe, refuse=refuse, only=which)
        return found.train if which == "train" else found.heldout or found.train
    source, limit = getattr(recipe.data, which), recipe.data.rows if which == "train" else recipe.data.heldout_rows
    rows = read(source)
    max_length = recipe.training.get("max_length", 1024)
    method, _, required = method_of(recipe)
    how: dict[str, Any] = {"console": console, "workers": recipe.data.workers}
    if method.loop == "rollouts":
        kwargs = recipe.training.get("chat_template_kwargs")
        return prepared_rows(rows[:limit], tokenizer, source, prepare_tasks, **how, chat_template_kwargs=kwargs)
    asked = which == "train" or required.scores  # held-out rows of a policy are read as answers alone
    columns = required.columns if asked else ()
    for column in columns:
        stored.check(source, column, column_facts(rows, tokenizer, recipe.data.chat))
        if (over := stored.vocabulary(source) or 0) > (own := policy_vocab(recipe, tokenizer)):
            raise DataError(f"{source}: its {column} covers {over} token ids, but the policy has {own}; {stored.MAKE}")
    max_length, limited_by = _row_limit(recipe, max_length or 10**9)
    if required.rows == "rationales" and (asked or (rows and has_rationales(rows[0]))):
        made = prepared_rows(
            rows[:limit], tokenizer, source, prepare_rationales, **how, max_length=max_length,
            find=place_of_answer, end_ids=end_tokens(tokenizer), chat=recipe.data.chat, apart=not asked,
        )  # fmt: skip
        return _limited(made, limited_by, recipe, refuse)
    turns, said = turns_of(recipe, required), ""
    if recipe.data.agent is not None:
        some, said = role_rows(rows[:limit], recipe.data.agent, tokenizer, max_length, source)
        rows, limit, source = some, None, f"{source} ({recipe.data.agent.role})"
    made = prepared_rows(
        rows[:limit],
        tokenizer,
        source,
        prepare,
        **how,
        max_length=max_length,
        end_ids=end_tokens(tokenizer),
        pairs=required.rows == "pairs" and asked,
        columns=columns,
        outcomes=required.rows == "outcomes" and asked,
        steps=required.rows == "steps" and asked,
        turns=turns,
        chat=recipe.data.chat,
        attributed=required.inside,
    )
    if recipe.data.agent is not None:
        made.left_out, made.counts.plain = said, 0  # samples are texts on purpose
    made = _limited(made, limited_by, recipe, refuse)
    if which == "train" and has_own_tokenizer(required) and made.rows:
        return read_by_both(recipe, made, rows, tokenizer, turns, recipe.data.max_dropped if refuse else 1.0)
    return made


def check_attributed(train: Prepared) -> str | None:
    """What to say of rows without a token for attribution maps.

    Raises:
        DataError: if no row has any.
    """
    lacking = [row for row in train.rows if not any(row[ATTRIBUTED])]
    if len(lacking) == len(train.rows):
        raise DataError(
            f"{train.source}: no row has a prompt whose tokens an answer can be attributed to; maps need rows with a "
            "prompt and an answer"
        )
    if not lacking:
        return None
    what = count(len(lacking), "row")
    return f"{train.source}: {what} without a prompt to attribute the answer to; of these the answer alone is learnt"


def _limited(made: Prepared, limited_by: str, recipe: Recipe, refuse: bool) -> Prepared:
    made.limited_by = limited_by
    if refuse:
        check_dropped(made, recipe.data.max_dropped)
    return made


def prepare_pairs(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, read: Callable[[str], list[Row]] = load_rows
) -> Prepared | str | None:
    """Held-out preferences with both answers, or two rationales of each held-out question; or why these are not
    measured; None for a method that learns from no pairs.

    Args:
        read: gives the rows of a source.
    """
    required = method_of(recipe)[2]
    if required.rows == "rationales" and recipe.data.heldout is not None:
        return _prepare_rationale_pairs(recipe, tokenizer, recipe.data.heldout, read)
    if required.rows != "pairs" or required.scores or recipe.data.heldout is None:
        return None
    rows = read(recipe.data.heldout)[: recipe.data.heldout_rows]
    if not all({"chosen", "rejected"} <= row.keys() for row in rows):
        return "held-out preferences are not measured: not every held-out row has a chosen and a rejected answer"
    if required.columns:
        return "held-out preferences are not measured: the reference is stored in the training rows only"
    max_length, _ = _row_limit(recipe, recipe.training.get("max_length", 1024) or 10**9)
    return prepare(
        rows,
        tokenizer,
        max_length=max_length,
        source=recipe.data.heldout,
        end_ids=end_tokens(tokenizer),
        pairs=True,
        chat=recipe.data.chat,
    )


def _prepare_rationale_pairs(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, source: str, read: Callable[[str], list[Row]]
) -> Prepared | str:
    """Of each held-out question the first two rationales that end with the same answer."""
    rows = read(source)[: recipe.data.heldout_rows]
    with_two = [place for place, row in enumerate(rows) if has_rationales(row) and different(row, source) > 1]
    if not with_two:
        return "held-out consistency is not measured: no held-out row has two different rationales"
    max_length, _ = _row_limit(recipe, recipe.training.get("max_length", 1024) or 10**9)
    try:
        made = prepare_rationales(
            [rows[place] for place in with_two], tokenizer, max_length=max_length, find=place_of_answer, source=source,
            end_ids=end_tokens(tokenizer), chat=recipe.data.chat,
        )  # fmt: skip
    except DataError as error:
        return f"held-out consistency is not measured: {error}"
    pairs = [pair for row in made.rows if (pair := first_pair(row)) is not None]
    made.rows = [{**pair, "row_id": with_two[pair["row_id"]]} for pair in pairs]
    return made if pairs else f"held-out consistency is not measured: {source} has no two rationales with one answer"


def adopt_run_date(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Where the chat template writes the date: that of stored columns or a cache, or of the run that goes on."""
    required = method_of(recipe)[2]
    columns = [stored.meta_path(Path(recipe.data.train).expanduser())] if required.columns else []
    cache = cache_folder(recipe.models.teacher)
    columns += [] if cache is None else [cache / SIGNATURE]
    adopt_date(tokenizer, *columns, Path(recipe.output) / SIGNATURE)


def _row_limit(recipe: Recipe, max_length: int) -> tuple[int, str]:
    """Most tokens of a row, and what they come from: no model of the recipe with a table of positions reads more than
    the table holds."""
    trust, cached = recipe.models.trust_remote_code, cache_facts(recipe)
    names = {"policy": policy_source(recipe), **named_models(recipe)}
    if has_own_tokenizer(method_of(recipe)[2]):
        names.pop("teacher", None)
    limits = {role: loading.limits(name, trust_remote_code=trust).places for role, name in names.items()}
    limits |= {"teacher": cached.places} if cached is not None else {}
    found = (max_length, "training.max_length")
    for role, places in limits.items():
        if places is not None and places < found[0]:
            found = (places, f"the position embeddings of the {role}")
    return found


def check_asked(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    vocab: int,
    train: Prepared,
    held: Prepared | None,
    questions: Mapping[str, EvalSpec],
    args: Any,
) -> list[str]:
    """Check that all prompts and rows fit the policy.

    Returns:
        What the user should know.

    Raises:
        LimitError: naming the prompt.
    """
    name = policy_source(recipe)
    limits = replace(loading.limits(name, trust_remote_code=recipe.models.trust_remote_code), vocab=vocab)
    notes = []
    if recipe.eval.prompts:
        ids = [prompt_ids(tokenizer, one, f"eval.prompts: prompt {i}") for i, one in enumerate(recipe.eval.prompts, 1)]
        notes += check_prompts(ids, recipe.eval.max_new_tokens, limits, tokenizer, name, what="eval.prompts: prompt")
    for suite, asked in questions.items():
        notes += check_spec(suite, asked, tokenizer, limits, name)
    for prepared in filter(None, (train, held)):
        if prepared.rows and "input_ids" not in prepared.rows[0]:
            new, what = args.max_completion_length, f"{prepared.source}: row"
            notes += check_prompts(prepared.prompts, new, limits, tokenizer, name, what=what)
        else:
            notes += beyond(prepared.counts.longest, limits, name)
    return notes[:1]  # of lengths that were never trained: once


def column_facts(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, chat: bool) -> dict[str, str]:
    """What stored columns depend on besides the models that they were computed with."""
    others = ({key: value for key, value in row.items() if not stored.is_computed(key)} for row in rows)
    return {
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
        "rows": fingerprint.of_each(others),
        "data.chat": str(chat),
    }


def check_ids(
    train: Prepared | None, held: Prepared | None, vocabularies: Mapping[str, int], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse rows with a token that a model does not have.

    Raises:
        DataError: naming the first such row.
    """
    for prepared in filter(None, (train, held)):
        for row in prepared.rows:
            highest = max(max(ids) for ids, _ in sequences(row))
            for role, size in vocabularies.items():
                if highest < size:
                    continue
                where = f"{prepared.source}: row {prepared.number(row)}"
                if role == "policy":
                    first = next(token for ids, _ in sequences(row) for token in ids if token >= size)
                    raise DataError(f"{where} {token_beyond(first, size, tokenizer, 'the policy')}")
                raise DataError(
                    f"{where} holds the token id {highest}, not in the {role}'s vocabulary ({size}); remove such "
                    "rows out or choose another model"
                )


def check_known(
    train: Prepared, held: Prepared | None, pairs: Prepared | None, vocabularies: Mapping[str, int],
    tokenizer: PreTrainedTokenizerBase, *, tasks: bool,
) -> None:  # fmt: skip
    """Refuse rows, or tasks, with a token that a model does not have; a task's that the policy lacks are found among
    its prompts.

    Args:
        vocabularies: of all models, by role.

    Raises:
        DataError: naming the first such row.
    """
    if not tasks:
        check_ids(train, held, vocabularies, tokenizer)
        check_ids(pairs, None, vocabularies, tokenizer)
        return
    smaller = {role: size for role, size in vocabularies.items() if size < vocabularies["policy"]}
    for prepared in filter(None, (train, held)) if smaller else ():
        for number, ids in enumerate(prepared.prompts, start=1):
            where = f"{prepared.source}: row {number}"
            highest = max(ids)
            for role, size in smaller.items():
                if highest >= size:
                    raise DataError(
                        f"{where} has the token id {highest}, which is not in the {role}'s vocabulary ({size}); "
                        "remove such rows or choose another model"
                    )
