"""Whether two models use the same token ids, and positions of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from trimtab.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_PROBE = "Ünïcode, 3.14 = π! Hello\n\n\tworld's 你好 🙂 {'key': [1, 2]}"


class TokenizerMismatch(UserError):
    """Two models whose token ids mean different tokens."""


def check_same_tokens(
    policy: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, policy_vocab: int, other_vocab: int, role: str
) -> str | None:
    """Compare two tokenizers: what the ids mean, and how a text is split.

    Args:
        policy_vocab, other_vocab: rows of the models' heads, which may be padded.
        role: of the other model, for messages.

    Returns:
        A note if the vocabularies differ in size and will be cropped to the smaller, else None.

    Raises:
        TokenizerMismatch: if an id below both sizes means another token, or a text is split differently.
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
            f"policy and {role} have the same tokens but split text differently; choose a {role} of the same family"
        )
    if policy_vocab != other_vocab:
        return (
            f"policy has {policy_vocab} vocabulary rows and {role} {other_vocab}; the token ids are the same, so both "
            f"are cropped to {smaller}"
        )
    return None


def token_positions(attention_mask: Tensor) -> Tensor:
    """[B, T] position ids: the index of each token among the unmasked ones of its row; 0 for padding before them."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
