"""Prompts as token ids, and whether two models mean the same by the same id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from transformers import BatchEncoding, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from torch import Tensor

_PROBE = "Ünïcode, 3.14 = π! Hello\n\n\tworld's 你好 🙂 {'key': [1, 2]}"


class TokenizerMismatch(ValueError):
    """Two models whose token ids mean different things."""


def check_same_tokens(
    policy: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, policy_vocab: int, other_vocab: int, role: str
) -> str | None:
    """Compare two tokenizers by content: what the ids mean, and how a text is cut.

    Args:
        policy, other: the tokenizers.
        policy_vocab, other_vocab: rows of the models' heads, which may be padded.
        role: what the other model is, for messages.

    Returns:
        A message if the vocabularies differ in size and will be cropped to the smaller, else None.

    Raises:
        TokenizerMismatch: if any id below both vocabulary sizes means another token, or a text is cut differently.
    """
    ours, theirs = policy.get_vocab(), other.get_vocab()
    smaller = min(policy_vocab, other_vocab)
    differ = {token for token, i in ours.items() if i < smaller and theirs.get(token) != i}
    differ |= {token for token, i in theirs.items() if i < smaller and ours.get(token) != i}
    if differ:
        token = min(differ, key=lambda t: (ours.get(t, theirs.get(t, 0)), t))
        raise TokenizerMismatch(
            f"policy and {role} have different tokenizers: {len(differ)} tokens differ, for example {token!r} is id "
            f"{ours.get(token, 'absent')} in the policy and {theirs.get(token, 'absent')} in the {role}; "
            f"choose a {role} of the same model family"
        )
    if policy(_PROBE, add_special_tokens=False).input_ids != other(_PROBE, add_special_tokens=False).input_ids:
        raise TokenizerMismatch(
            f"policy and {role} know the same tokens but cut text differently; choose a {role} of the same model family"
        )
    if policy_vocab != other_vocab:
        return (
            f"policy has {policy_vocab} vocabulary rows and {role} {other_vocab}; the token ids are the same, so both "
            f"are cropped to {smaller}"
        )
    return None


Chat = Sequence[Mapping[str, str]]
"""Messages with a role and a content."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Chat], plain: bool = False
) -> BatchEncoding:
    """Input ids and attention mask [B, T], padded on the left, as `model.generate` wants them; see `prompt_texts`."""
    texts, plain = prompt_texts(tokenizer, prompts, plain)
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=plain)  # type: ignore[arg-type]
    return BatchEncoding({"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask})


def token_positions(attention_mask: Tensor) -> Tensor:
    """[B, T] the place of each token among those of its row that the mask [B, T] shows; 0 before the first."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def prompt_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Chat], plain: bool = False
) -> tuple[list[str], bool]:
    """What the model reads before it answers, and whether the tokenizer has to put special tokens around it.

    Each prompt is a chat, or what a user says; `plain`, and where the tokenizer has no chat template, it is text to go
    on with (messages of a chat then stand below each other).
    """
    if plain or tokenizer.chat_template is None:
        return [p if isinstance(p, str) else "\n\n".join(m["content"] for m in p) for p in prompts], True
    chats = [[{"role": "user", "content": p}] if isinstance(p, str) else [dict(m) for m in p] for p in prompts]
    return [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats], False  # type: ignore[misc]
