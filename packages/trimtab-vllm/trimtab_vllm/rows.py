"""What each row of the running batch was asked for: written by the logits processor, read by the model.

Both belong to one worker, whose config they share. vLLM tells processors of added, removed and moved requests before
the forward pass, so rows are those of the pass. Imports nothing of vLLM.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab_vllm.strengths import Schedule, followed, schedule

NAME = "_trimtab_rows"


@dataclass(frozen=True)
class Row:
    schedule: Schedule
    follow: tuple[int, ...]
    output: Sequence[int]
    """the tokens generated so far, which vLLM adds to"""


@dataclass
class Rows:
    default: float = 1.0
    asked: dict[int, Row] = field(default_factory=dict)
    """by place in the batch"""

    def row(self, params: Any, prompt: Sequence[int] | None, output: Sequence[int]) -> Row:
        """Of a request that joins the batch, maybe not for the first time."""
        args = params.extra_args
        return Row(schedule(args, params.max_tokens, self.default), followed(args), output)

    def strengths(self, number: int) -> list[float]:
        """Of the next token in each of the first `number` rows; of rows that nobody asked for, as vLLM makes them to
        try a model out, the default."""
        rows = (self.asked.get(place) for place in range(number))
        return [self.default if row is None else row.schedule.at(len(row.output)) for row in rows]


def rows_of(config: Any) -> Rows:
    """The rows of the worker with this VllmConfig."""
    return vars(config).setdefault(NAME, Rows())
