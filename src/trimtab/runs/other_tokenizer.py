"""A recipe whose teacher has another tokenizer: how its rows are read for both, and the signal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from trimtab.common import fingerprint
from trimtab.core import MethodConfig, Requirements, Signal, Teacher
from trimtab.data.chat_date import chat_date, date_facts, set_chat_date
from trimtab.data.counts import Prepared
from trimtab.data.row_reader import Turns
from trimtab.data.rows import ends_of_text
from trimtab.data.two_tokenizers import TextSide, tokens_of_both, with_teacher
from trimtab.models import loading
from trimtab.models.ends import end_tokens, turn_end
from trimtab.models.tokenizers import TokenizerMismatch
from trimtab.runs.models_key import one_teacher
from trimtab.runs.policy import policy_tokenizer, policy_vocab
from trimtab.runs.recipe import Recipe, RecipeError
from trimtab.signals.other_tokenizer import OtherTokenizer

Model = TypeVar("Model")


def has_own_tokenizer(required: Requirements) -> bool:
    """Whether the teacher reads rows with a tokenizer of its own."""
    teacher = required.model(Teacher)
    return teacher is not None and teacher.own_tokenizer


def sharing(models: Mapping[str, Model], required: Requirements) -> dict[str, Model]:
    """Those of the models, by role, that share the policy's ids."""
    return {role: one for role, one in models.items() if role != "teacher" or not has_own_tokenizer(required)}


def check_vocabulary(
    options: MethodConfig, policy: PreTrainedTokenizerBase, vocab: int, name: str, role: str, trust_remote_code: bool
) -> tuple[int, str | None]:
    """See `loading.check_vocabulary`; for a teacher the error names the option of methods that can do with another."""
    try:
        return loading.check_vocabulary(policy, vocab, name, role, trust_remote_code=trust_remote_code)
    except TokenizerMismatch as error:
        if role == "teacher" and "tokenizers" in type(options).model_fields:
            way = "or compare the models where their tokens meet, with options.tokenizers: different"
            raise TokenizerMismatch(f"{error}, {way}") from None
        raise


def turns_of(recipe: Recipe, required: Requirements) -> Turns:
    """`data.turns`; with two tokenizers a row holds one answer.

    Raises:
        RecipeError: if the recipe asks for several answers in a row.
    """
    turns = recipe.data.turns
    if not has_own_tokenizer(required) or turns in ("each", "last"):
        return turns
    if turns == "all":
        raise RecipeError(
            "data.turns: all puts several answers into one row, which two tokenizers cannot be aligned by; use each or "
            "last with options.tokenizers: different"
        )
    return "each"


def teacher_tokenizer(recipe: Recipe, policy: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The teacher's, whose template writes the date that the policy's writes."""
    name = one_teacher(recipe.models)
    assert name is not None
    found = loading.load_tokenizer(name, trust_remote_code=recipe.models.trust_remote_code)
    set_chat_date(found, chat_date(policy))
    return found


def _side(tokenizer: PreTrainedTokenizerBase, role: str) -> TextSide:
    return TextSide(tokenizer, role, ends_of_text(tokenizer, end_tokens(tokenizer)), turn_end(tokenizer))


def read_by_both(
    recipe: Recipe, prepared: Prepared, rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase,
    turns: Turns, max_dropped: float,
) -> Prepared:  # fmt: skip
    """Prepared rows with what the teacher reads, see `with_teacher`."""
    name = one_teacher(recipe.models)
    assert name is not None
    teacher = _side(teacher_tokenizer(recipe, tokenizer), "teacher")
    places = loading.limits(name, trust_remote_code=recipe.models.trust_remote_code).places
    made, note = with_teacher(
        prepared, rows, _side(tokenizer, "policy"), teacher,
        limit=places or 10**9, turns=turns, chat=recipe.data.chat, max_dropped=max_dropped,
    )  # fmt: skip
    return replace(made, left_out="; ".join(filter(None, [prepared.left_out, note])))


def signal(recipe: Recipe, teacher: Signal) -> OtherTokenizer:
    """The teacher laid out along the policy's tokens."""
    tokenizer = policy_tokenizer(recipe)
    theirs = teacher_tokenizer(recipe, tokenizer)
    vocab = min(model.config.get_text_config().vocab_size for model in teacher.models)
    common = tokens_of_both(
        _side(tokenizer, "policy"), _side(theirs, "teacher"), policy_vocab(recipe, tokenizer), vocab
    )
    return OtherTokenizer(teacher, common)


def facts(recipe: Recipe, required: Requirements, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """For signatures: what the ids of a teacher with its own tokenizer depend on."""
    if not has_own_tokenizer(required):
        return {}
    theirs = teacher_tokenizer(recipe, tokenizer)
    return {
        "teacher's tokenizer": fingerprint.of_tokenizer(theirs),
        "teacher's chat template": fingerprint.of_text(str(theirs.chat_template)),
        **date_facts(theirs),
    }
