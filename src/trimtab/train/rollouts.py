"""TRL's GRPO trainer with advantages and objective replaced by those of a plan."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from trl import GRPOTrainer  # type: ignore[attr-defined]

from trimtab.common.errors import UserError
from trimtab.core import IGNORE, Candidates, Plan, RolloutBatch, Rollouts, TokenBatch, count
from trimtab.core.plan import KEPT
from trimtab.data.tasks import task_ids
from trimtab.decoding._batching import alone
from trimtab.decoding._config import complete, may_leave, run
from trimtab.decoding._early_exit import early_exit_arguments
from trimtab.metrics.ranks import auc
from trimtab.models.ends import end_tokens
from trimtab.objectives.reward_models import gather
from trimtab.rewards.graded import which_are_correct
from trimtab.signals.base import common_vocab, models_of, without_unknown
from trimtab.signals.candidates import CandidateLogprobs
from trimtab.signals.initial_policy import read_with
from trimtab.train.base import ObjectiveLoop
from trimtab.train.layout import cropped, laid_out, packed, unpacked

Watch = Callable[[int, list[dict[str, Any]]], None]


class RolloutError(UserError):
    """Settings under which training on rollouts would not be correct."""


class RolloutTrainer(ObjectiveLoop, GRPOTrainer):
    """Generation, rewards, shuffling and splitting are TRL's.

    In between, completions are laid out again, padded on the right only; log-probabilities of the generating policy and
    the plan's rollout signals are computed once; and the plan's advantage estimator assigns an advantage to each token,
    which the objective uses in every update on these completions.

    Args:
        plan: with an advantage estimator.
        watch: called with the step and the rows of each batch of rollouts: prompt, completion, reward, group, tokens
            and their advantages.
        correct: of each reward, the value from which a completion is correct; the first that grades it decides. If not
            given, pass@1 is not logged, and models that learn outcomes use 1.
    """

    def __init__(
        self, *args: Any, plan: Plan, watch: Watch | None = None, correct: Sequence[float] | None = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self._begin(plan)
        assert plan.advantages is not None
        self.watch, self.correct = watch, correct
        self._rewards = self._outcomes = torch.zeros(0)
        self._total: Tensor | None = None
        policy = self.accelerator.unwrap_model(self.model)
        self.vocab = common_vocab([policy, *models_of(plan.rollout_signals)])
        self._rows: Sequence[Mapping[str, Any]] = ()
        self.updates_per_rollout = check_buffer(self.args)
        self._settings: Any = self.args  # a GRPOConfig
        self._answers: int = self._settings.num_generations
        for signal in plan.rollout_signals:
            signal.vocab = self.vocab
            if "reference" in signal.provides:
                signal.temperature = self.temperature  # that of the policy's log-probabilities
        self.eos_token_ids = list(end_tokens(self._tokenizer, self.accelerator.unwrap_model(self.model)))
        tokenizer: Any = self._tokenizer
        self.generation_config = rollout_config(self._settings, self.eos_token_ids, tokenizer.pad_token_id)

    def _stateful(self) -> dict[str, Any]:
        return {**super()._stateful(), "trl.safetensors": _Logged(self._metrics["train"])}

    # ------------------------------------------------------------ rollouts

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing: see `_policy_signals`."""
        return None, None, None

    def _generate(self, prompts: list) -> Any:
        start = time.perf_counter()
        found = super()._generate(prompts)
        self._spent("generation", start)
        return found

    def _tokenize_prompts(self, prompts: list) -> Any:
        """Tokenize prompts as everywhere else; TRL would tokenize chats and texts differently."""
        kwargs = self._settings.chat_template_kwargs
        rows = self._rows if len(self._rows) == len(prompts) else [{}] * len(prompts)
        tasks = [{**row, "prompt": prompt} for row, prompt in zip(rows, prompts)]
        ids = [task_ids(self.processing_class, task, f"task {i}", kwargs) for i, task in enumerate(tasks, start=1)]  # type: ignore[arg-type]
        return ids, None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        with _as_they_were(model), _generating(model, self._tokenizer):
            return super()._generate_single_turn(*args, **kwargs)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        start = time.perf_counter()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._spent("reward", start)
        self._rewards = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        are_correct = which_are_correct(rewards.T.tolist(), self.correct or [1.0] * rewards.size(1), prompts)
        self._outcomes = torch.tensor(are_correct, dtype=torch.float32, device=rewards.device)
        self._texts = (prompts, completions)
        if self.correct is not None:
            self._log_learnt({"pass_at_1": self._outcomes.mean().item()})
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._rows = inputs
        output = super()._generate_and_score_completions(inputs)
        start = time.perf_counter()
        rows = self._learnable(laid_out(output))
        rows["row_id"] = torch.tensor([row["row_id"] for row in inputs], device=rows["labels"].device)
        found = self._with_advantages(rows)
        self._spent("advantages", start)
        return found

    def _learnable(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mask sampled tokens that another model of the run does not have (padding of the policy's head)."""
        unknown = rows["labels"] >= self.vocab
        if unknown.any():
            self._count("unknown_tokens", torch.stack([unknown.sum(), (rows["labels"] != IGNORE).sum()]).float())
        return {**rows, "labels": rows["labels"].masked_fill(unknown, IGNORE)}

    def _spent(self, part: str, start: float) -> None:
        seconds = torch.tensor([time.perf_counter() - start, 1.0], device=self.args.device)
        self._count(f"seconds_{part}", seconds)

    def _with_advantages(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        plan, estimator = self.plan, self.plan.advantages
        assert estimator is not None
        batch, rewards = TokenBatch.from_labels(rows["labels"], row_id=rows["row_id"]), self._rewards
        group = torch.arange(len(rewards), device=batch.row.device) // self._answers
        signals: dict[str, Tensor] = {}
        needed = estimator.needs.union(*(signal.needs for signal in plan.rollout_signals))
        old_differs = self.updates_per_rollout > 1
        if old_differs or estimator.candidates or needed & KEPT:
            signals = self._over(rows, self._policy_signals)
        micro_rows = self.args.per_device_train_batch_size
        update_rows = micro_rows * self.args.gradient_accumulation_steps
        known = without_unknown(rows, self.vocab)
        seen = RolloutBatch(known, self._outcomes, group, signals.get("old"), update_rows, micro_rows)
        for signal in plan.rollout_signals:
            self._log_learnt(signal.before_advantages(seen))
        signals |= self._over(rows, self._read_signals, signals)
        candidates = None
        if "candidate_ids" in signals:
            candidates = Candidates(signals.pop("candidate_ids"), signals.pop("candidate_logprobs"))
        found = estimator(Rollouts(batch, rewards, group, signals, candidates, self._outcomes))
        if old_differs:
            found = {"old": signals["old"], **found}
        for signal in plan.rollout_signals:
            self._log_learnt(signal.after_advantages(seen, found))
        self._describe(signals, batch, found)
        if self.watch is not None:
            self._show(batch, found)
        parts = [packed(name, value, batch) for name, value in found.items()]
        return rows | {name: value for part in parts for name, value in part.items()}

    def _log_learnt(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self._count(name, torch.tensor([value, 1.0], device=self.args.device))

    def remarks(self) -> list[str]:
        if not self.totals.idle:
            return []
        return [
            f"in {self.totals.idle} of {self.totals.batches} batches all completions of a prompt got the same "
            "reward, so there was no training signal: the tasks are too hard or too easy, or the reward "
            "does not distinguish completions"
        ]

    def _describe(self, signals: Mapping[str, Tensor], batch: TokenBatch, found: Mapping[str, Any]) -> None:
        spread = self._rewards.view(-1, self._answers)
        same = (spread.amax(dim=1) == spread.amin(dim=1)).float()
        self._log_learnt({"groups_without_signal": same.mean().item()})
        advantages = found.get("advantages")
        nothing = isinstance(advantages, Tensor) and "candidates" not in found and not (advantages.abs() > 1e-3).any()
        self.totals.batches, self.totals.idle = self.totals.batches + 1, self.totals.idle + bool(nothing and same.all())
        if "token_scores" in signals:
            scores, good = gather(batch, signals["token_scores"], "mean"), self._rewards > self._rewards.mean()
            area = float(auc(scores.cpu().double().numpy(), good.cpu().numpy()))
            self._log_learnt({} if math.isnan(area) else {"token_score_auc": area})

    def _over(
        self, rows: Mapping[str, Tensor], read: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Values [N, ...] of all answer tokens from `read`, which is called with batches of similar length, and with
        the candidates' ids if these are known."""
        order = rows["attention_mask"].sum(dim=1).argsort(descending=True, stable=True)
        row_of = TokenBatch.from_labels(rows["labels"]).row
        found, places = [], []
        for some in order.split(self.args.per_device_train_batch_size):
            own = torch.cat([torch.nonzero(row_of == row)[:, 0] for row in some])
            inputs = cropped({key: value[some] for key, value in rows.items()})
            if known and "candidate_ids" in known:
                inputs["candidate_ids"] = known["candidate_ids"][own]
            found.append(read(inputs))
            places.append(own)
        back = torch.cat(places).argsort()
        device = rows["labels"].device  # values of a batch without an answer may be on another
        return {name: torch.cat([one[name].to(device) for one in found])[back] for name in found[0]}

    def _policy_signals(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Signals of the policy that generated the rollouts."""
        assert self.plan.advantages is not None
        number = self.plan.advantages.candidates
        chooser = next((signal for signal in self.plan.rollout_signals if signal.chooses), None)
        ids = chooser.choose_candidates(without_unknown(inputs, self.vocab), number) if chooser else None
        reading = CandidateLogprobs(number, ids, self.vocab)
        with self.compute_loss_context_manager():
            read_with(reading, self.model, inputs, {}, temperature=self.temperature)  # type: ignore[arg-type]
        found = reading.found()
        return {"old": found.pop("logprobs"), **found}

    def _read_signals(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        known = without_unknown(inputs, self.vocab)
        for signal in self.plan.rollout_signals:
            found |= signal(self.model, known if signal.models else inputs)  # type: ignore[arg-type]
        return found

    def _show(self, batch: TokenBatch, found: Mapping[str, Any]) -> None:
        assert self.watch is not None
        values = found.get("advantages")
        pieces = values.split(batch.lengths.tolist()) if isinstance(values, Tensor) else [None] * len(batch.lengths)
        ids = batch.targets.split(batch.lengths.tolist())
        shown = [
            {
                "prompt": prompt,
                "completion": completion,
                "reward": reward,
                "ids": own.tolist(),
                "advantages": None if piece is None else [round(value, 4) for value in piece.tolist()],
            }
            for prompt, completion, reward, own, piece in zip(*self._texts, self._rewards.tolist(), ids, pieces)
        ]
        self.watch(self.state.global_step, shown)

    # ------------------------------------------------------------ updates

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        """Nothing yet: the completions may not have been sampled; see `_compute_loss`."""
        self._update.clear()

    def _compute_loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        step = self._step % self._settings.steps_per_generation
        if step % self.args.gradient_accumulation_steps == 0:
            buffered = self._buffered_inputs
            assert buffered is not None
            update = buffered[step : step + self.args.gradient_accumulation_steps]
            labels = [part["labels"] for part in update]
            self._total = sum((count(one, self.plan.reduction) for one in labels), torch.zeros(())).clamp(min=1)
            self.totals.answer_tokens += sum(int(count(one, "token_mean")) for one in labels)
        inputs = cropped(inputs)
        known = unpacked(inputs)
        output = self._loss(model, inputs, self._total, known=known, temperature=self.temperature)
        assert output.loss is not None
        return output.loss


class _Logged:
    """TRL's metrics since the last log, for a checkpoint."""

    def __init__(self, metrics: dict[str, list[float]]):
        self.metrics = metrics

    def state_dict(self) -> dict[str, Tensor]:
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in self.metrics.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.metrics.update({name: values.tolist() for name, values in state.items()})


def rollout_config(args: Any, ends: Sequence[int], pad: int | None) -> GenerationConfig:
    """The complete generation config of rollouts under these settings (a GRPOConfig)."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation")
    given = {"do_sample": True, "disable_compile": True, **{name: getattr(args, name) for name in names}}
    return complete({**given, **(args.generation_kwargs or {})}, ends, pad, args.max_completion_length)


def how_generated(args: Any, config: GenerationConfig) -> str:
    """How completions are generated under these settings (a GRPOConfig), in words."""
    if args.use_transformers_continuous_batching:
        return "by transformers' continuous batching"
    if early_exit_arguments(args.device) and not args.cache_implementation and may_leave(config, {}):
        return "with early-exit batching: finished rows leave the batch, a shared prompt is prefilled once"
    return f"by transformers' generate, cache: {args.cache_implementation or 'dynamic'}"


@contextmanager
def _as_they_were(model: Any) -> Iterator[None]:
    """Restores a model's tensors, which TRL rounds to the dtype of training.bf16 for continuous batching."""
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, data in weights:
            if parameter.dtype != data.dtype:
                parameter.data = data
        for module, own in buffers:
            for name, old in own.items():
                now = module._buffers[name]
                if old is not None and now is not None and now.dtype != old.dtype:
                    module._buffers[name] = old


@contextmanager
def _generating(model: Any, tokenizer: Any) -> Iterator[None]:
    """Within, `model.generate` follows only the config that TRL passes, and runs without dropout."""
    call, modes = model.generate, [(module, module.training) for module in model.modules()]

    def generate(generation_config: GenerationConfig, **inputs: Any) -> Tensor:
        leave = not generation_config.cache_implementation
        return run(model, generation_config, inputs, tokenizer=tokenizer, leave=leave, call=call)

    model.generate = generate
    model.eval()
    try:
        with alone(model):  # for continuous batching, which does not call `generate`
            yield
    finally:
        del model.generate  # the class's own is behind it
        for module, mode in modes:
            module.training = mode


def check_buffer(args: Any) -> int:
    """Updates on the same rollouts.

    Raises:
        RolloutError: if an update would mix rollouts of several generations, a checkpoint would fall between updates on
            the same rollouts, or several processes would share a group.
    """
    spg, ga = args.steps_per_generation, args.gradient_accumulation_steps
    if spg % ga:
        raise RolloutError(
            f"training.steps_per_generation is {spg} and training.gradient_accumulation_steps {ga}: an update would "
            "mix rollouts of several generations; make the first a multiple of the second"
        )
    updates = spg // ga * args.num_iterations
    strategy = getattr(args.save_strategy, "value", args.save_strategy)
    if strategy == "steps" and (args.save_steps < 1 or args.save_steps % updates):
        raise RolloutError(
            f"training.save_steps is {args.save_steps:g}, and each batch of rollouts is used in {updates} updates: a "
            f"checkpoint in between could not be resumed to the same weights; make save_steps a multiple of {updates}"
        )
    if strategy == "epoch" and updates > 1:
        raise RolloutError(
            "training.save_strategy: epoch may fall between updates on the same rollouts; use save_steps"
        )
    if args.world_size > 1:
        raise RolloutError("training on rollouts supports only one process so far; start it without accelerate launch")
    return updates
