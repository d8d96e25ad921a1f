"""TRL's SFT trainer with the step from hidden states to loss replaced by a plan."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer  # type: ignore[attr-defined]

from trimtab.core import Plan, count
from trimtab.core.batch import COMPARED
from trimtab.data.collate import length_sorted
from trimtab.data.shared_prefixes import SharedPrefixes
from trimtab.train.base import ObjectiveLoop
from trimtab.train.packs import Packing, PackSampler
from trimtab.train.windows import WindowSampler

ROUTER = ("output_router_logits", "router_aux_loss_coef")
"""settings of a mixture of experts in its config"""


class ObjectiveTrainer(ObjectiveLoop, SFTTrainer):
    """Runs a plan's objective on the answer tokens of each batch and logs its metrics.

    The policy needs `add_objective_forward`; datasets hold prepared rows (`input_ids`, `labels`, `row_id`).
    """

    def __init__(
        self, *, model: Any, args: Any, plan: Plan, window: tuple[int, int] | None = None,
        packing: Packing | None = None, **kwargs: Any,
    ):  # fmt: skip
        self.window = window  # see `Requirements.window`
        self.packing = packing
        self._auxiliary_total: Tensor | None = None  # of this update, see `Plan.auxiliary`
        config = model.config.get_text_config()
        own = {name: getattr(config, name) for name in ROUTER if hasattr(config, name)}
        asked, args.packing = args.packing, False  # TRL's would cut rows, and blocks attention for flash attention only
        if args.share_prefixes:
            kwargs["data_collator"] = SharedPrefixes(kwargs["data_collator"])
        super().__init__(model=model, args=args, **kwargs)
        args.packing = asked
        for name, value in own.items():  # TRL sets them for its own loss, and they would be saved
            setattr(config, name, value)
        self._begin(plan)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)  # type: ignore[union-attr]

    def _all_rows(self) -> Iterable[Mapping[str, Tensor]]:
        rows: Any = self.train_dataset
        collator: Any = self.data_collator
        size = self.args.per_device_train_batch_size
        return length_sorted([rows[i] for i in range(len(rows))], collator, size, self.args.device)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        window = None
        if self.window is not None:
            updates, times = self.window
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            window = (updates * size, times)
        if self.packing is not None:
            shuffled = self.args.train_sampling_strategy != "sequential" or window is not None
            return self._in_order(PackSampler(self.packing, shuffled, window))
        if window is None:
            return super()._get_train_sampler(train_dataset)
        assert self.train_dataset is not None
        return self._in_order(WindowSampler(len(self.train_dataset), *window))  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """The `total` of this update, see `trimtab.core.weights`."""
        self._update.clear()
        how = self.plan.reduction
        totals = (count(batch["labels"], how, batch.get(COMPARED)).to(device) for batch in batch_samples)
        total = sum(totals, torch.zeros({"pair_mean": 3, "preference_mean": 2}.get(how, ()), device=device))
        tokens = sum((count(batch["labels"], "token_mean").to(device) for batch in batch_samples), total.new_zeros(()))
        both = self.accelerator.reduce(torch.cat([total.reshape(-1), tokens.reshape(1)]), "sum")
        assert isinstance(both, Tensor)
        self.totals.answer_tokens += both[-1].item()
        if (term := self.plan.auxiliary) is not None:
            units = torch.stack([term.number(batch).cpu() for batch in batch_samples]).sum().float()
            every = self.accelerator.reduce(units.to(device), "sum")  # type: ignore[arg-type]
            assert isinstance(every, Tensor)
            self._auxiliary_total = every / self.accelerator.num_processes
        # "sum" counts 0 and is divided by 1
        return both[:-1].reshape(total.shape).clamp(min=1) / self.accelerator.num_processes

    def compute_loss(
        self, model: torch.nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Any:  # fmt: skip
        config: Any = self.args  # an SFTConfig
        # the router loss is a mean over a micro-batch, averaged over those of the update
        share = (config.router_aux_loss_coef or 0.0) / self.current_gradient_accumulation_steps
        auxiliary = self._auxiliary_total
        output = self._loss(model, inputs, num_items_in_batch, router_loss=share, auxiliary_total=auxiliary)
        return (output.loss, output) if return_outputs else output.loss
