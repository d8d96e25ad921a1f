"""Training on pairs of a row's answer and one that the policy of the round's beginning samples for its prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.core import IGNORE
from trimtab.core.draws import hashed_uniform
from trimtab.decoding._config import generate
from trimtab.decoding._draws import Uniform
from trimtab.models.ends import end_tokens
from trimtab.models.probing import eval_mode
from trimtab.train.trainer import ObjectiveTrainer
from trimtab.train.wrapping import SHARDED, asked

Batch = dict[str, Tensor]
STREAM = 2412
"""of the numbers that rejected answers are sampled with"""


class SampledPairsError(UserError):
    """Rows or settings with which pairs cannot be sampled."""


class SampledPairsTrainer(ObjectiveTrainer):
    """Adds a rejected answer to each row of an update, sampled in one go before the update's loss is counted.

    Pairs whose two answers are equal, or of which one is empty, have no labels and so no part in the loss. What is
    sampled for a row depends on the seed, the update, the row and the weights of the round's beginning, so a resumed
    run samples the same, and so do several processes, each for its own rows.
    """

    @property
    def _pad(self) -> int:
        tokenizer: Any = self._tokenizer
        return tokenizer.pad_token_id or 0

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """As for other rows, after these have become pairs: only now is it known how many tokens there are."""
        batch_samples[:] = self._paired(batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)

    def _paired(self, batches: Sequence[Mapping[str, Tensor]]) -> list[Batch]:
        sampler, step = self.plan.rejected, self.state.global_step
        assert sampler is not None
        for signal in self.plan.signals:  # the sampler may be at the beginning of its round
            signal.before_update(self.model, step, self.args.seed)  # type: ignore[arg-type]
        prompts = [prompt for batch in batches for prompt in prompts_of(batch)]
        row_ids = torch.cat([batch["row_id"] for batch in batches])

        def uniform(rows: Tensor, position: int) -> Tensor:
            places = torch.full_like(rows, position)
            return hashed_uniform(
                self.args.seed, step, row_ids[rows.to(row_ids.device)].to(rows.device), places, STREAM
            )

        policy: Any = self.accelerator.unwrap_model(self.model)
        with torch.no_grad(), sampler.as_it_was(self.model), eval_mode(policy):  # type: ignore[arg-type]
            sampled = self._sample(policy, prompts, sampler.max_new_tokens, sampler.temperature, uniform)
        made: list[Batch] = []
        for batch in batches:
            size = len(batch["labels"])
            made.append(pairs_of(batch, sampled[:size], self._pad))
            sampled = sampled[size:]
        kept = [(one["labels"] != IGNORE).any(dim=1)[0::2].float() for one in made]
        answered = [(batch["labels"] != IGNORE).any(dim=1) for batch in batches]  # rows that fill a batch are not
        share = torch.cat(kept)[torch.cat(answered)]
        self._count("dropped_pairs", torch.stack([(1 - share).sum(), torch.ones_like(share).sum()]))
        return made

    def _sample(
        self, policy: Any, prompts: Sequence[Tensor], longest: int, temperature: float, uniform: Uniform
    ) -> list[Tensor]:
        """One answer to each prompt, with its end token."""
        ids = torch.nn.utils.rnn.pad_sequence(list(prompts), True, self._pad, padding_side="left")
        lengths = torch.tensor([len(one) for one in prompts], device=ids.device)
        mask = (torch.arange(ids.size(1), device=ids.device) >= ids.size(1) - lengths[:, None]).long()
        given = {"input_ids": ids, "attention_mask": mask}
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        output = generate(policy, self._tokenizer, given, longest, leave=True, uniform=uniform, **how)[:, ids.size(1) :]
        ends = torch.tensor(end_tokens(self._tokenizer, policy), device=output.device)
        return [until_end(answer, ends) for answer in output]


def check_sampling(args: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what cannot be trained on in this way, before anything is loaded.

    Args:
        args: of `settings.build`.
        rows: prepared.

    Raises:
        SampledPairsError: for packs, shared prefixes, a sharded policy, or a row with several answers.
    """
    if getattr(args, "packing", False):
        raise SampledPairsError(
            "training.packing joins rows of known lengths, and rejected answers are only sampled later; leave it out"
        )
    if getattr(args, "share_prefixes", False):
        raise SampledPairsError(
            "training.share_prefixes joins rows of known tokens, and rejected answers are only sampled later; leave it "
            "out"
        )
    if (kind := asked()).startswith(SHARDED):
        raise SampledPairsError(
            f"the launch asks for {kind}: each process samples rejected answers with the whole policy, so that methods "
            "which do train under DDP alone; leave out FSDP and DeepSpeed"
        )
    for number, row in enumerate(rows, start=1):
        check_one_answer(row["labels"], number)


def check_one_answer(labels: Sequence[int], row: int) -> None:
    """Refuse a row with several answers, between which the other side speaks: only one can be sampled."""
    known = [label != IGNORE for label in labels]
    begins = sum(one and not before for before, one in zip([False, *known], known))
    if begins > 1:
        raise SampledPairsError(
            f"training row {row} has {begins} answers, and one is sampled for each prompt; set data.turns: each"
        )


def prompts_of(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The ids before each row's answer; of a row without one all."""
    lengths = batch["attention_mask"].sum(dim=1)
    answered = batch["labels"] != IGNORE
    first = torch.where(answered.any(dim=1), answered.int().argmax(dim=1), lengths)
    return [ids[:n] for ids, n in zip(batch["input_ids"], first.tolist())]


def until_end(answer: Tensor, ends: Tensor) -> Tensor:
    """A generated answer up to its first end token, which belongs to it."""
    ended = torch.isin(answer, ends)
    return answer[: int(ended.int().argmax()) + 1] if ended.any() else answer


def pairs_of(batch: Mapping[str, Tensor], sampled: Sequence[Tensor], pad: int) -> Batch:
    """Rows 2i with the answer of row i, 2i + 1 with the sampled one; no labels where both are equal or one is empty.

    Args:
        batch: `input_ids`, `labels` and `attention_mask` [B, T], `row_id` [B].
        sampled: B answers.
        pad: id of the padding.
    """
    rows: list[tuple[Tensor, Tensor]] = []
    for prompt, ids, labels, answer in zip(prompts_of(batch), batch["input_ids"], batch["labels"], sampled):
        places = (labels != IGNORE).nonzero()[:, 0]
        own = slice(len(prompt), int(places[-1]) + 1 if len(places) else len(prompt))  # the template may write more
        whole = len(places) and len(answer) and not torch.equal(ids[own], answer)
        for one, known in ((ids[own], labels[own]), (answer, answer)):
            rest = known if whole else torch.full_like(one, IGNORE)
            rows.append((torch.cat([prompt, one]), torch.cat([torch.full_like(prompt, IGNORE), rest])))
    made = {
        "input_ids": torch.nn.utils.rnn.pad_sequence([ids for ids, _ in rows], True, pad),
        "labels": torch.nn.utils.rnn.pad_sequence([labels for _, labels in rows], True, IGNORE),
        "row_id": batch["row_id"].repeat_interleave(2),
    }
    lengths = torch.tensor([len(ids) for ids, _ in rows], device=made["input_ids"].device)
    width = torch.arange(made["input_ids"].size(1), device=lengths.device)
    return {**made, "attention_mask": (width < lengths[:, None]).long()}
