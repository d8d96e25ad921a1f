"""What models say at each prefix of a text that is given: the score of the toolkits, and the drift of a model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from trimtab.data.messages import text_of
from trimtab.data.tokens import Prompt, answer_tails, coder, prompt_text
from trimtab.decoding._batching import takes
from trimtab.evals import SuiteError
from trimtab.models.probing import eval_mode


class Continuation(NamedTuple):
    """A prompt and the text behind it, as ids."""

    prompt: list[int]
    text: list[int]


def given(
    tokenizer: Any, pairs: Sequence[tuple[Prompt, str]], *, plain: bool = False, spaced: bool = False
) -> list[Continuation]:
    """Prompts and texts, each tokenised as a whole.

    Args:
        plain: prompts are text to go on with, though the tokenizer has a chat template.
        spaced: behind text to go on with a single space parts the two.
    """
    found = []
    for number, (prompt, answer) in enumerate(pairs, start=1):
        before, is_plain = prompt_text(tokenizer, prompt, f"text {number}", plain=plain)
        if spaced and is_plain:
            before, answer = before.rstrip(), f" {answer}"
        (tail,) = answer_tails(tokenizer, before, [answer], is_plain)
        found.append(Continuation(coder(tokenizer).prompt(before, is_plain), tail))
    return found


@torch.no_grad()
def logits_behind(model: PreTrainedModel, texts: Sequence[Continuation], batch: int = 8) -> Iterator[Tensor]:
    """[n, V] float32 for each text: the logits that predict each of its n tokens, in the order of `texts`."""
    for start in range(0, len(texts), batch):
        some = texts[start : start + batch]
        rows = [torch.tensor([*one.prompt, *one.text]) for one in some]  # padded on the right, where none is seen
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        more = {"attention_mask": mask.to(model.device), "use_cache": False}
        more = {name: value for name, value in more.items() if takes(model, name)}
        with eval_mode(model):
            logits = model(input_ids=ids.to(model.device), **more).logits
        for row, one in enumerate(some):
            end = len(one.prompt) + len(one.text)
            yield logits[row, len(one.prompt) - 1 : end - 1].float()


def teacher_forced(model: PreTrainedModel, tokenizer: Any, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
    """For each prompt and target the share of the target's tokens that are the likeliest ones behind the prompt and
    the target before them.

    A chat stands in its template; behind text to go on with a space parts the two, as in the toolkits. The score gives
    each prefix of the answer away, and its length.
    """
    texts = given(tokenizer, pairs, spaced=True)
    return [
        (logits.argmax(dim=-1).cpu() == torch.tensor(one.text)).float().mean().item()
        for one, logits in zip(texts, logits_behind(model, texts), strict=True)
    ]


class Drift(NamedTuple):
    """Of one text, means over its tokens."""

    kl: float
    """KL(original || model), nats"""
    same: float
    """share of tokens at which both find the same token likeliest"""


def drift(
    model: PreTrainedModel, original: PreTrainedModel, tokenizer: Any, rows: Sequence[Mapping[str, Any]]
) -> list[Drift]:
    """How far a model's distributions are from the original's, on the answers of rows with `messages`.

    Raises:
        SuiteError: if their vocabularies differ.
    """
    pairs = [(row["messages"][:-1], text_of(row["messages"][-1]["content"])) for row in rows]
    texts = given(tokenizer, pairs)
    found = []
    for now, before in zip(logits_behind(model, texts), logits_behind(original, texts), strict=True):
        before = before.to(now.device)
        if now.size(-1) != before.size(-1):
            raise SuiteError(f"vocabularies of {now.size(-1)} and {before.size(-1)} tokens")
        log_p, log_q = before.log_softmax(dim=-1), now.log_softmax(dim=-1)
        kl = (log_p.exp() * (log_p - log_q)).nan_to_num(nan=0.0).sum(dim=-1)  # a token that both rule out adds nothing
        same = (now.argmax(dim=-1) == before.argmax(dim=-1)).float()
        found.append(Drift(kl.mean().item() if len(kl) else math.nan, same.mean().item() if len(kl) else math.nan))
    return found
