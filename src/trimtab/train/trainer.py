"""TRL's SFT trainer with the step from hidden states to loss replaced by a plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerState
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTTrainer  # type: ignore[attr-defined]

from trimtab.core import Plan, count
from trimtab.signals.base import call_plan
from trimtab.train.checkpoints import mark_complete
from trimtab.train.windows import WindowSampler


class NotFinite(ValueError):
    """A loss or a gradient that is NaN or infinite; the optimizer has not used it."""


class Totals:
    """What was counted so far; a checkpoint holds it, so that a resumed run logs the same numbers."""

    def __init__(self) -> None:
        self.answer_tokens = 0.0
        """trained on, over all processes"""
        self.sums: dict[str, Tensor] = {}
        """name of a metric -> [sum, count] since the last log"""

    def state_dict(self) -> dict[str, Tensor]:
        tokens = torch.tensor(self.answer_tokens, dtype=torch.float64)
        return {"answer_tokens": tokens, **{f"sum.{name}": pair for name, pair in self.sums.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.answer_tokens = state["answer_tokens"].item()
        self.sums = {name.removeprefix("sum."): pair for name, pair in state.items() if name.startswith("sum.")}


class ObjectiveTrainer(SFTTrainer):
    """Feeds a plan's objective with the answer tokens of each batch and logs what it measured.

    The policy must have been given `add_objective_forward`; datasets hold prepared rows (`input_ids`,
    `labels`, `row_id`).
    """

    def __init__(self, *args: Any, plan: Plan, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.plan = plan
        self.loss_is_scaled_for_ga = True  # `weights` divides by the count of the whole update
        self._update: list[tuple[Tensor, Tensor]] = []  # (loss, row ids) of each micro-batch of this update
        self.totals = Totals()

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)  # type: ignore[union-attr]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.plan.window is None:
            return super()._get_train_sampler(train_dataset)
        updates, times = self.plan.window
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        assert self.train_dataset is not None
        return WindowSampler(len(self.train_dataset), updates * rows, times, self.args.seed)  # type: ignore[arg-type]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """What the loss of this update is divided by, see `trimtab.core.weights`."""
        self._update.clear()
        total = sum((count(batch["labels"], self.plan.reduction) for batch in batch_samples), torch.zeros(()))
        tokens = sum((count(batch["labels"], "token_mean") for batch in batch_samples), torch.zeros(()))
        both = self.accelerator.reduce(torch.stack([total, tokens]).to(device), "sum")
        assert isinstance(both, Tensor)
        self.totals.answer_tokens += both[1].item()
        return both[0].clamp(min=1) / self.accelerator.num_processes  # "sum" counts 0 and is divided by 1

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Any:
        seed, step = self.args.seed, self.state.global_step
        output = call_plan(self.plan, model, inputs, num_items_in_batch, seed=seed, step=step)
        assert output.loss is not None
        assert output.metrics is not None
        self._update.append((output.loss.detach(), inputs["row_id"]))
        for name, pair in output.metrics.items():
            pair = torch.stack(pair)
            before = self.totals.sums.get(name)
            self.totals.sums[name] = pair if before is None else before.to(pair.device) + pair
        return (output.loss, output) if return_outputs else output.loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm, after a look at it: this is the last place before the optimizer step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        losses = torch.stack([loss for loss, _ in self._update])
        bad = ~torch.isfinite(losses)
        step = self.state.global_step + 1
        if bad.any():
            rows = [row for (_, ids), wrong in zip(self._update, bad.tolist()) if wrong for row in ids.tolist()]
            raise NotFinite(self._not_finite("loss", losses[bad][0].item(), step, rows))
        scaled = self.accelerator.scaler is not None  # fp16 overflows are part of its routine: it skips the step
        if not scaled and norm is not None and not torch.isfinite(torch.as_tensor(norm)).all():
            rows = [row for _, ids in self._update for row in ids.tolist()]
            raise NotFinite(self._not_finite("gradient norm", float(norm), step, rows))
        return norm

    def _not_finite(self, what: str, value: float, step: int, rows: list[int]) -> str:
        named = ", ".join(str(row + 1) for row in sorted(rows)[:16]) + (", ..." if len(rows) > 16 else "")
        return (
            f"step {step}: the {what} is {value}, in a batch of training rows {named}; the weights were not changed "
            "by it. Lower training.learning_rate or look at these rows"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        sums = self.totals.sums
        if sums and "loss" in logs:
            names = sorted(sums)
            table = self.accelerator.reduce(torch.stack([sums[name].to(self.args.device) for name in names]), "sum")
            assert isinstance(table, Tensor)
            logs.update({name: (row[0] / row[1]).item() for name, row in zip(names, table) if row[1] > 0})
            logs["answer_tokens"] = self.totals.answer_tokens
            sums.clear()
        super().log(logs, start_time)

    def _stateful(self) -> dict[str, Any]:
        """Parts that a checkpoint has to hold besides what transformers puts there, by the name of their file."""
        parts: list[Any] = [self.plan.objective, *self.plan.signals, *self.callback_handler.callbacks, self.totals]
        stateful = {id(part): part for part in parts if hasattr(part, "state_dict")}
        return {f"{type(part).__name__.lower()}_{i}.safetensors": part for i, part in enumerate(stateful.values())}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, part in self._stateful().items():
            part.load_state_dict(load_file(Path(resume_from_checkpoint) / name))

    def finish_from(self, checkpoint: Path) -> None:
        """Take weights and state of a checkpoint after which there is nothing left to train."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As transformers does, but older checkpoints go only after the new one is marked complete."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super(SFTTrainer, self)._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial))
            checkpoint = folder / f"checkpoint-{self.state.global_step}"
            for name, part in self._stateful().items():
                save_file({key: value.contiguous() for key, value in part.state_dict().items()}, checkpoint / name)
            mark_complete(checkpoint)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
