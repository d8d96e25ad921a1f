"""TRL's GRPO trainer with advantages and objective replaced by those of a plan."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from trl import GRPOTrainer  # type: ignore[attr-defined]

from trimtab.common import collectives
from trimtab.common.errors import UserError
from trimtab.core import IGNORE, Candidates, Plan, RolloutBatch, Rollouts, TokenBatch, count
from trimtab.core.draws import hashed_uniform
from trimtab.core.plan import KEPT
from trimtab.data.tasks import task_ids
from trimtab.decoding._config import complete, may_leave
from trimtab.decoding._early_exit import early_exit_arguments
from trimtab.metrics.ranks import auc
from trimtab.models.ends import end_tokens
from trimtab.objectives.reward_models import gather
from trimtab.rewards.graded import which_are_correct
from trimtab.signals.base import common_vocab, models_of, without_unknown
from trimtab.signals.candidates import CandidateLogprobs
from trimtab.signals.initial_policy import read_with
from trimtab.train.base import ObjectiveLoop
from trimtab.train.generation import as_it_was, generating
from trimtab.train.layout import cropped, laid_out, of_all, packed, unpacked
from trimtab.train.wrapping import SHARDED, asked

Watch = Callable[[int, list[dict[str, Any]]], None]
STREAM = 2411
"""of the numbers that completions are sampled with"""


class RolloutError(UserError):
    """Settings under which training on rollouts would not be correct."""


class RolloutTrainer(ObjectiveLoop, GRPOTrainer):
    """Generation and rewards are TRL's.

    Then completions are laid out again, padded on the right only; log-probabilities of the generating policy and
    the plan's rollout signals are computed once; and the plan's advantage estimator assigns an advantage to each token,
    which the objective uses in every update on these completions.

    Of several processes each samples, grades and reads its share of a batch of rollouts. All then hold the whole batch,
    so that advantages and auxiliary models see whole groups, and each takes its share of every update.

    Args:
        plan: with an advantage estimator.
        watch: called in the first process with the step and the rows of each batch of rollouts: prompt, completion,
            reward, group, tokens and their advantages.
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
        self._labels: list[Tensor] = []  # of each micro-batch, over all processes
        self._total: Tensor | None = None
        self.reward_funcs = [_ends_all(reward) for reward in self.reward_funcs]
        policy = self.accelerator.unwrap_model(self.model)
        self.vocab = common_vocab([policy, *models_of(plan.rollout_signals)])
        self._rows: Sequence[Mapping[str, Any]] = ()
        self.updates_per_rollout = check_buffer(self.args)
        self.corrects = False  # whether the losses are weighed
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
        with collectives.all_or_none(), as_it_was(model), generating(model, self._tokenizer, self._uniform):
            return super()._generate_single_turn(*args, **kwargs)

    def _uniform(self, rows: Tensor, position: int) -> Tensor:
        """What the next token of these rows is drawn with, by their place in the whole batch of rollouts."""
        places = rows + self.accelerator.process_index * len(self._rows)
        step, seed = self.state.global_step, self.args.seed
        return hashed_uniform(seed, step, places, torch.full_like(places, position), STREAM)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        start = time.perf_counter()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._spent("reward", start)
        self._rewards = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
        every = collectives.objects((prompts, completions))
        self._texts = tuple([one for own in side for one in own] for side in zip(*every))
        are_correct = which_are_correct(rewards.T.tolist(), self.correct or [1.0] * rewards.size(1), self._texts[0])
        self._outcomes = torch.tensor(are_correct, dtype=torch.float32, device=rewards.device)
        if self.correct is not None:
            self._log_learnt({"pass_at_1": self._outcomes.mean().item()})
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._rows = inputs
        output = super()._generate_and_score_completions(inputs)
        start = time.perf_counter()
        rows = laid_out(output)
        rows["row_id"] = torch.tensor([row["row_id"] for row in inputs], device=rows["labels"].device)
        found = self._with_advantages(self._learnable(of_all(rows)))
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
        """The rows of all processes with their advantages."""
        plan, estimator = self.plan, self.plan.advantages
        assert estimator is not None
        batch, rewards = TokenBatch.from_labels(rows["labels"], row_id=rows["row_id"]), self._rewards
        group = torch.arange(len(rewards), device=batch.row.device) // self._answers
        own = {key: value.tensor_split(collectives.size())[collectives.rank()] for key, value in rows.items()}
        signals: dict[str, Tensor] = {}
        known: dict[str, Tensor] = {}
        needed = estimator.needs.union(*(signal.needs for signal in plan.rollout_signals))
        old_differs = self.updates_per_rollout > 1
        if old_differs or estimator.candidates or needed & KEPT or self.corrects:
            known, signals = self._over(own, self._policy_signals)
        micro_rows = self.args.per_device_train_batch_size
        update_rows = micro_rows * self.args.gradient_accumulation_steps * collectives.size()
        readable = without_unknown(rows, self.vocab)
        seen = RolloutBatch(readable, self._outcomes, group, signals.get("old"), update_rows, micro_rows)
        for signal in plan.rollout_signals:
            self._log_learnt(signal.before_advantages(seen))
        signals |= self._over(own, self._read_signals, known)[1]
        candidates = None
        if "candidate_ids" in signals:
            candidates = Candidates(signals.pop("candidate_ids"), signals.pop("candidate_logprobs"))
        found = estimator(Rollouts(batch, rewards, group, signals, candidates, self._outcomes))
        found = {**found, **self._importance(rows, batch, signals)}
        if old_differs:
            found = {"old": signals["old"], **found}
        for signal in plan.rollout_signals:
            self._log_learnt(signal.after_advantages(seen, found))
        self._describe(signals, batch, found)
        if self.watch is not None and self.is_world_process_zero():
            self._show(batch, found)
        parts = [packed(name, value, batch) for name, value in found.items()]
        return rows | {name: value for part in parts for name, value in part.items()}

    def _importance(
        self, rows: Mapping[str, Tensor], batch: TokenBatch, signals: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weight of each token's loss where another engine sampled it; see `served_trainer`."""
        return {}

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
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
        """Values [N, ...] of all answer tokens of these rows, and of those of all processes, from `read`, which is
        called with batches of similar length, and with the candidates' ids if these are known."""
        with collectives.all_or_none():
            found = self._over_own(rows, read, known)
        return found, {name: collectives.gathered(value) for name, value in found.items()}

    def _over_own(
        self, rows: Mapping[str, Tensor], read: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        known: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:  # fmt: skip
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

    def _prepare_inputs(self, inputs: Any) -> dict[str, Tensor]:
        """The micro-batch of this step; as TRL's, but which rows share an update does not depend on processes."""
        if self._step % (self._settings.steps_per_generation * self.num_iterations) == 0 or not self._buffered_inputs:
            self._buffered_inputs = self._shuffled(self._generate_and_score_completions(inputs))
        return self._buffered_inputs[self._step % self._settings.steps_per_generation]

    def _shuffled(self, rows: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """This process's share of each micro-batch."""
        seed = hash((self.args.seed, self.state.global_step)) % 2**63
        order = torch.randperm(len(rows["labels"]), generator=torch.Generator().manual_seed(seed))
        parts = order.view(self._settings.steps_per_generation, -1)
        self._labels = [rows["labels"][part] for part in parts]
        shares = [part.tensor_split(collectives.size())[collectives.rank()] for part in parts]
        return [{key: value[share] for key, value in rows.items()} for share in shares]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        """Nothing yet: the completions may not have been sampled; see `_compute_loss`."""
        self._update.clear()

    def _compute_loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        step = self._step % self._settings.steps_per_generation
        if step % self.args.gradient_accumulation_steps == 0:
            labels = self._labels[step : step + self.args.gradient_accumulation_steps]
            total = sum((count(one, self.plan.reduction) for one in labels), torch.zeros(())).clamp(min=1)
            self._total = total / collectives.size()
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


def _ends_all(reward: Any) -> Any:
    """A reward function that fails in every process if it does in one, and not while others wait for its rewards."""
    if isinstance(reward, nn.Module) or iscoroutinefunction(reward):
        return reward

    @wraps(reward)
    def graded(**given: Any) -> Any:
        with collectives.all_or_none():
            return reward(**given)

    return graded


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


def check_buffer(args: Any) -> int:
    """Updates on the same rollouts.

    Raises:
        RolloutError: if an update would mix rollouts of several generations, a checkpoint would fall between updates on
            the same rollouts, or the policy would be sharded.
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
    if (kind := asked()).startswith(SHARDED):
        raise RolloutError(
            f"the launch asks for {kind}: each process samples and reads completions with the whole policy, so that "
            "methods which learn from rollouts train under DDP alone; leave out FSDP and DeepSpeed"
        )
    return updates
