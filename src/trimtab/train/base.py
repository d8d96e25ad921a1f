"""The base of all trainers: the plan's loss, counters and logs, and checkpoints that hold all of it."""

import errno
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import BatchRebalanceSampler
from transformers.trainer_utils import rotate_checkpoints

from trimtab.common.collectives import objects
from trimtab.common.disk import writing_to
from trimtab.common.errors import UserError
from trimtab.core import Plan, Stateful
from trimtab.models import noise
from trimtab.models.forward import ObjectiveOutput
from trimtab.models.masters import train_in_float32
from trimtab.signals.base import call_plan
from trimtab.train import first_ratio
from trimtab.train.checkpoints import CheckpointError, mark_complete
from trimtab.train.dataset import DrawnRationales, Rows
from trimtab.train.orders import EpochOrder
from trimtab.train.packs import PackSampler
from trimtab.train.together import any_process, summed
from trimtab.train.windows import WindowSampler
from trimtab.train.wrapping import head_in_the_root


class NotFinite(UserError):
    """A loss or a gradient that is NaN or infinite; the optimizer has not used it."""


def check_sharding(plugin: Any, model: Any) -> None:
    """Refuse FSDP that joins frozen and trained parameters into one, which would train all or none of them.

    Args:
        plugin: accelerate's settings of FSDP; None without it.

    Raises:
        UserError: for FSDP1 without original parameters, where only some of them are trained.
    """
    if plugin is None or plugin.fsdp_version != 1 or plugin.use_orig_params:
        return
    if len({parameter.requires_grad for parameter in model.parameters()}) > 1:
        raise UserError(
            "FSDP joins frozen and trained parameters into one; set fsdp_use_orig_params: true in accelerate's "
            "settings, or fsdp_version: 2"
        )


class Totals:
    """Running counts, stored in checkpoints so that a resumed run logs the same numbers."""

    def __init__(self) -> None:
        self.answer_tokens = 0.0
        """trained on, over all processes"""
        self.sums: dict[str, Tensor] = {}
        """name of a metric -> [sum, count] since the last log"""
        self.loss = (0.0, 0)
        """sum of the updates' losses since the last log, and the update of that log, as transformers keeps them"""
        self.batches = self.idle = 0
        """batches of rollouts, and those without a training signal in their rewards"""

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "answer_tokens": torch.tensor(self.answer_tokens, dtype=torch.float64),
            "loss": torch.tensor(self.loss, dtype=torch.float64),
            "batches": torch.tensor([self.batches, self.idle]),
            **{f"sum.{name}": pair for name, pair in self.sums.items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.answer_tokens = state["answer_tokens"].item()
        loss, logged = state["loss"].tolist()
        self.loss = (loss, int(logged))
        self.batches, self.idle = state["batches"].tolist()
        self.sums = {name.removeprefix("sum."): pair for name, pair in state.items() if name.startswith("sum.")}


class BeforeUpdate(TrainerCallback):
    """Notify the signals of a plan that training or an update starts, and that a checkpoint was written.

    Args:
        batches: gives all training rows in batches.
    """

    def __init__(self, plan: Plan, batches: Callable[[], Iterable[Mapping[str, Tensor]]]):
        self.plan, self.batches = plan, batches

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        for signal in self.plan.signals:
            signal.before_training(model, self.batches())

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, model: Any = None, **kwargs: Any) -> None:
        for signal in (*self.plan.signals, *self.plan.rollout_signals):
            signal.before_update(model, state.global_step, args.seed)

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        for signal in (*self.plan.signals, *self.plan.rollout_signals):
            signal.at_checkpoint()


class ObjectiveLoop(Trainer):
    """The part of a trainer that knows the plan; a mixin before one of TRL's trainers."""

    loss_is_scaled_for_ga = True  # `weights` divides by the count of the whole update
    plan: Plan
    totals: Totals
    _order: Any
    _update: list[tuple[Tensor, Tensor]]
    counts: str = "answer_tokens"
    """what `totals.answer_tokens` counts, in logs"""
    num_sources: int = 0
    """rows of the source, some of which may have become several"""
    reference_dtype: str | None = None
    """of the plan's reference, if that is the initial policy"""
    tell: Callable[[str], None] = staticmethod(warnings.warn)
    """receives notes for the user"""

    def __init__(self, *args: Any, train_dataset: Any = None, dropout: bool | None = None, **kwargs: Any):
        self._dropout = dropout  # None: it is off where the plan learns a ratio
        self._first: int | None = None  # the first update of this process
        self._noted: set[str] = set()  # sides of a ratio that the user was told about
        rows = train_dataset if isinstance(train_dataset, Rows) else None
        super().__init__(*args, train_dataset=rows.placeholder() if rows is not None else train_dataset, **kwargs)
        if rows is not None:
            self.train_dataset = rows

    def _begin(self, plan: Plan) -> None:
        check_sharding(getattr(self.accelerator.state, "fsdp_plugin", None), self.model)
        train_in_float32(self.accelerator.unwrap_model(self.model))  # TRL rounds adapters of quantised models
        self.plan = plan
        if plan.objective.ratio is not None if self._dropout is None else not self._dropout:
            assert self.model is not None
            noise.switch_off(self.model)  # type: ignore[arg-type]
        self._update = []  # (loss, row ids) of each micro-batch of this update
        self.totals = Totals()
        self.add_callback(BeforeUpdate(plan, self._all_rows))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with head_in_the_root(self.model) if self.accelerator.is_fsdp2 else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _all_rows(self) -> Iterable[Mapping[str, Tensor]]:
        """All training rows in batches."""
        return ()

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """The sampler of the settings, in an order that a resume repeats."""
        return self._in_order(super()._get_train_sampler(*args, **kwargs))

    def _in_order(self, sampler: Any) -> Any:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if isinstance(sampler, BatchRebalanceSampler):  # gives batches, in its own order by seed and epoch
            sampler.seed = seed
            self._order = sampler
        else:
            args, whole = self.args, type(sampler) not in (WindowSampler, PackSampler)  # whose orders fill all batches
            fill = isinstance(self.train_dataset, Rows) and args.world_size > 1 and not args.dataloader_drop_last
            self._order = EpochOrder(sampler, seed, args.train_batch_size * args.world_size if fill and whole else 1)
        return self._order

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """As in transformers, but `set_epoch` also reaches samplers inside several wrappers."""
        self._order.set_epoch(epoch)
        if isinstance(self.train_dataset, DrawnRationales):
            self.train_dataset.set_epoch(epoch)
        if kwargs["resume_from_checkpoint"] is not None and epoch == kwargs["epochs_trained"]:
            loss, self._globalstep_last_logged = self.totals.loss
            self._tr_loss += loss
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _loss(self, model: torch.nn.Module, inputs: Mapping[str, Tensor], total: Any, **known: Any) -> ObjectiveOutput:
        """The plan's loss on a micro-batch; its metrics are summed until the next log."""
        if self._first is None:
            self._first = self.state.global_step
        if self.plan.objective.ratio is not None and self.state.global_step == self._first:
            self._see_ratio(model, inputs, known.get("known") or {}, known.get("temperature", 1.0))
        output = self._forward(model, inputs, total, **known)
        assert output.loss is not None
        assert output.metrics is not None
        self._update.append((output.loss.detach(), inputs["row_id"]))
        for name, pair in output.metrics.items():
            self._count(name, torch.stack(pair))
        return output

    def _forward(
        self, model: torch.nn.Module, inputs: Mapping[str, Tensor], total: Any, **known: Any
    ) -> ObjectiveOutput:
        seed, step = self.args.seed, self.state.global_step
        return call_plan(self.plan, model, inputs, total, seed=seed, step=step, **known)

    def _see_ratio(
        self, model: torch.nn.Module, inputs: Mapping[str, Tensor], known: Mapping[str, Any], temperature: float
    ) -> None:
        """Check on each micro-batch of the first update that a ratio of equal weights is 1; see `first_ratio`."""
        at_start = self.reference_dtype is not None and self.state.global_step == 0
        exact = first_ratio.is_exact(model, inputs["labels"].device)
        exact = exact and self.accelerator.mixed_precision in (None, "no")
        own = first_ratio.measured(self.plan, model, inputs, known, temperature, at_start)
        for apart in chain.from_iterable(objects(own)):
            alike = apart.side != "reference" or self.reference_dtype == "float32"
            note = first_ratio.verdict(apart, exact and alike, bool(self._dropout))
            if note is not None and apart.side not in self._noted:
                self._noted.add(apart.side)
                self.tell(note)

    def _count(self, name: str, pair: Tensor) -> None:
        """Add [sum, count] to a metric."""
        before = self.totals.sums.get(name)
        self.totals.sums[name] = pair if before is None else before.to(pair.device) + pair

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Check losses and gradient norm, right before the optimizer step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        losses = torch.stack([loss for loss, _ in self._update])
        bad = ~torch.isfinite(losses)
        scaled = self.accelerator.scaler is not None  # which skips the step when fp16 overflows
        far = not scaled and norm is not None and not torch.isfinite(torch.as_tensor(norm)).all()
        if not any_process(bool(far or bad.any()), self.args.device):
            return norm
        marked = bad.tolist() if bad.any() else [True] * len(losses)
        rows = [row for (_, ids), is_marked in zip(self._update, marked) if is_marked for row in ids.tolist()]
        value = losses[bad][0].item() if bad.any() else None
        found = objects((value, rows))  # the loss that is not finite may be that of another process
        of_losses = [(one, ids) for one, ids in found if one is not None]
        rows = [row for _, ids in of_losses or found for row in ids]
        step = self.state.global_step + 1
        if of_losses:
            raise NotFinite(self._not_finite("loss", of_losses[0][0], step, rows))
        assert norm is not None
        raise NotFinite(self._not_finite("gradient norm", float(norm), step, rows))

    def _not_finite(self, what: str, value: float, step: int, rows: list[int]) -> str:
        numbers = {row % self.num_sources + 1 if self.num_sources else row + 1 for row in rows}
        named = ", ".join(map(str, sorted(numbers)[:16])) + (", ..." if len(rows) > 16 else "")
        return (
            f"step {step}: the {what} is {value}, in a batch with training rows {named}; the weights were not updated. "
            "Lower training.learning_rate or inspect these rows"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and (found := summed(self.totals.sums)):
            logs.update(
                {name: (found[name][0] / found[name][1]).item() for name in sorted(found) if found[name][1] > 0}
            )
            logs[self.counts] = self.totals.answer_tokens
            self.totals.sums.clear()
        super().log(logs, start_time)

    def remarks(self) -> list[str]:
        return []

    def _stateful(self) -> dict[str, Any]:
        """Parts of a checkpoint besides those of transformers, by file name."""
        plan = self.plan
        parts = [plan.objective, *plan.signals, plan.advantages, *plan.rollout_signals, self.totals]
        stateful = {id(part): part for part in parts if isinstance(part, Stateful)}
        return {f"{type(part).__name__.lower()}_{i}.safetensors": part for i, part in enumerate(stateful.values())}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, part in self._stateful().items():
            try:
                part.load_state_dict(load_file(Path(resume_from_checkpoint) / name))
            except (FileNotFoundError, KeyError) as error:
                lacking = error if isinstance(error, KeyError) else name
                raise CheckpointError(
                    f"{resume_from_checkpoint} lacks {lacking}: another version of trimtab wrote it; resume with that "
                    "version, or start over with output=FOLDER"
                ) from error
        if self.args.process_index:  # what is stored is the sum over processes
            self.totals.sums.clear()

    def finish_from(self, checkpoint: Path) -> None:
        """Load weights and state of a checkpoint after which nothing is left to train."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As transformers does, but older checkpoints go only after the new one is marked complete."""
        losses = objects(float(self._tr_loss))
        self.totals.loss = (sum(losses) / len(losses), self._globalstep_last_logged)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and not folder.is_dir():  # transformers would create it
            raise FileNotFoundError(errno.ENOENT, "it is gone", str(folder))
        try:
            with writing_to(checkpoint):
                Trainer._save_checkpoint(self, model, trial)
        finally:
            self.args.save_total_limit = limit
        own, self.totals.sums = self.totals.sums, summed(self.totals.sums)
        if self.args.should_save:
            with writing_to(checkpoint):
                for name, part in self._stateful().items():
                    save_file({key: value.contiguous() for key, value in part.state_dict().items()}, checkpoint / name)
                mark_complete(checkpoint)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.totals.sums = own
