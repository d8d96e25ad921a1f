"""A teacher that reads another prompt than the policy, before the same answer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from trimtab.core import IGNORE, Signal, Stateful


class OtherPrompt(Signal):
    """Gives what the teacher gives, at the same answer tokens, for each row's own other prompt.

    The ids from the first answer token on are kept as they are, whether they were given or sampled, so that the n-th
    answer token of the policy is the n-th of the teacher.

    Args:
        teacher: gives "teacher".
        prompts: of each row of the source, ids; row i has the `row_id` i.
    """

    provides = frozenset({"teacher"})

    def __init__(self, teacher: Signal, prompts: Sequence[Sequence[int]]):
        self.teacher, self.prompts = teacher, [torch.tensor(list(ids), dtype=torch.long) for ids in prompts]
        self.distribution = teacher.distribution

    @property
    def models(self) -> Any:
        return self.teacher.models

    @property
    def vocab_size(self) -> int:
        return self.teacher.vocab_size  # type: ignore[attr-defined]

    def before_training(self, policy: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
        self.teacher.before_training(policy, batches)

    def before_update(self, policy: nn.Module, step: int, seed: int) -> None:
        self.teacher.before_update(policy, step, seed)

    def at_checkpoint(self) -> None:
        self.teacher.at_checkpoint()

    def state_dict(self) -> dict[str, Tensor]:
        return self.teacher.state_dict() if isinstance(self.teacher, Stateful) else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if isinstance(self.teacher, Stateful):
            self.teacher.load_state_dict(state)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        self.teacher.temperature, self.teacher.vocab = self.temperature, self.vocab
        return self.teacher(policy, self.swapped(inputs))

    def swapped(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels` [B, T'] and `row_id` [B] with the other prompts, right-padded."""
        rows = []
        given = (inputs["input_ids"], inputs["labels"], inputs["attention_mask"].bool(), inputs["row_id"].tolist())
        for ids, labels, real, row in zip(*given):
            ids, labels = ids[real], labels[real]
            answered = (labels != IGNORE).nonzero()
            start = int(answered[0]) if len(answered) else len(ids)
            prompt = self.prompts[row].to(ids.device)
            before = torch.full_like(prompt, IGNORE)
            rows.append((torch.cat([prompt, ids[start:]]), torch.cat([before, labels[start:]])))
        columns = ([ids for ids, _ in rows], [labels for _, labels in rows], [torch.ones_like(ids) for ids, _ in rows])
        ids, labels, mask = (
            pad_sequence(one, batch_first=True, padding_value=fill) for one, fill in zip(columns, (0, IGNORE, 0))
        )
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row_id": inputs["row_id"]}
