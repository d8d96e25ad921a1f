"""A recipe whose teacher reads another prompt, or is the policy itself."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.common import fingerprint
from trimtab.data.counts import Prepared
from trimtab.data.messages import messages_of, text_of
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.data.tasks import question
from trimtab.data.tokens import prompt_ids
from trimtab.models import loading
from trimtab.runs.models_key import SELF_AVERAGE, SELVES, TEACHER, is_teacher
from trimtab.runs.recipe import Recipe, named_models, policy_source


def prompts(
    recipe: Recipe,
    sources: Mapping[str, Prepared | None],
    tokenizer: PreTrainedTokenizerBase,
    sampled: int | None = None,
    read: Callable[[str], list[Row]] = load_rows,
) -> dict[str, list[list[int]]]:
    """The ids that the teacher reads before the answer of each row of a source. Held-out rows need none.

    Args:
        sampled: most tokens of an answer, where answers are sampled.
        read: gives the rows of a source.

    Raises:
        DataError: naming the first row that has none, or with which the teacher would read more than it can.
    """
    column, found = recipe.data.teacher_prompt, {}
    if column is None:
        return {}
    chat, kwargs = recipe.data.chat or sampled is not None, recipe.training.get("chat_template_kwargs")
    for which, prepared in sources.items():
        if prepared is None:
            continue
        rows = read(prepared.source)[: prepared.sources]
        if which == "heldout" and "{" not in column and not any(column in row for row in rows):
            continue
        found[which] = [
            _ids(row, column, tokenizer, f"{prepared.source}: row {i}", chat, kwargs)
            for i, row in enumerate(rows, start=1)
        ]
        _check_lengths(recipe, prepared, found[which], sampled)
    return found


def _ids(
    row: Mapping[str, Any], column: str, tokenizer: PreTrainedTokenizerBase, where: str, chat: bool, kwargs: Any
) -> list[int]:
    value = _filled(column, row, where) if "{" in column else row.get(column)
    if not isinstance(value, str | list) or not value:
        raise DataError(f"{where} has no text and no messages in {column!r}, the prompt of the teacher; give it one")
    plain = (isinstance(row.get("prompt"), str) and not chat) or tokenizer.chat_template is None
    if plain and isinstance(value, list):
        raise DataError(f"{where} is of plain texts, and its {column!r} holds messages; make it a text")
    if isinstance(value, list):
        asked: Any = messages_of(value, column, where)
    elif plain:
        asked = value
    else:
        asked = [*_before(row, where), {"role": "user", "content": value}]
    more = {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}
    return prompt_ids(tokenizer, {**more, "prompt": asked}, where, plain=plain, kwargs=kwargs)


def _filled(template: str, row: Mapping[str, Any], where: str) -> str:
    """A text with columns of the row in braces; {prompt} is what the row asks."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        text = text_of(question(row, where)[-1]["content"]) if name == "prompt" else row.get(name)
        if not isinstance(text, str | int | float) or text == "":
            raise DataError(f"{where} has nothing in {name!r}, which data.teacher_prompt names; give it a text")
        return str(text)

    return re.sub(r"\{(\w+)\}", value, template)


def _before(row: Mapping[str, Any], where: str) -> list[Any]:
    """The messages before the row's question, such as the system's."""
    if row.get("prompt"):
        return question(row, where)[:-1]
    chat = messages_of(row.get("messages") or row.get("chosen"), "messages", where)
    first = next((i for i, turn in enumerate(chat) if turn["role"] == "assistant"), len(chat))
    return chat[: max(0, first - 1)]


def _check_lengths(recipe: Recipe, prepared: Prepared, found: list[list[int]], sampled: int | None) -> None:
    trust = recipe.models.trust_remote_code
    names = [name for role, name in named_models(recipe).items() if is_teacher(role)] or [policy_source(recipe)]
    limits = [places for name in names if (places := loading.limits(name, trust_remote_code=trust).places)]
    for row in prepared.rows:
        number = prepared.number(row)
        if row["row_id"] >= prepared.sources:
            raise DataError(
                f"{prepared.source}: row {number} has several answers that became rows of their own, and one prompt "
                "for the teacher; give each answer a row, or set data.turns: last"
            )
        labels = row.get("labels")
        rest = sampled if sampled is not None else _answer(labels)
        if limits and len(found[number - 1]) + rest > min(limits):
            raise DataError(
                f"{prepared.source}: row {number} takes {len(found[number - 1]) + rest} tokens with the prompt of the "
                f"teacher, which can read {min(limits)}; shorten it"
            )


def _answer(labels: Any) -> int:
    """Tokens from the first of the answer on."""
    first = next((i for i, label in enumerate(labels or ()) if label != -100), len(labels or ()))
    return len(labels or ()) - first


def facts(recipe: Recipe, found: Mapping[str, list[list[int]]]) -> dict[str, str]:
    """For signatures: a teacher that is the policy, and what a teacher reads."""
    models, lines = recipe.models, {}
    if models.teacher in SELVES:
        average = models.teacher == SELF_AVERAGE and models.teacher_decay is not None
        lines[TEACHER] = f"{models.teacher}, decay {models.teacher_decay:g}" if average else str(models.teacher)
    if found:
        lines["teacher's prompts"] = f"{recipe.data.teacher_prompt} {fingerprint.of_text(str(sorted(found.items())))}"
    return lines
