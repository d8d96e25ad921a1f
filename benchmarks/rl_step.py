"""Learning from own answers: what does everything but the writing of the answers cost beside TRL's GRPOTrainer?

A step is what follows generation: rewards, what the policy that wrote the answers thought of them (where several
updates are made with them), advantages, and forward and backward of each update; no optimizer. All contestants get
the same answers, which are ragged, and the trainers' own code runs from rewards to loss. float32, on the CPU.

  trl, grpo                          one update on a batch of rollouts
  trl, two updates; grpo, ...        the rollouts in two halves: the log-probabilities of the old policy are needed
  grpo with a reward model           two updates, and a frozen language model that scores each answer token
  distrl                             the same model at five candidates of each place, and their loss

The losses and gradients of trl and grpo are held against each other first.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOTrainer  # type: ignore[attr-defined]

from common import (
    MIB,
    PATIENCE,
    Answer,
    Target,
    alternate,
    check_same,
    in_fresh_process,
    parser,
    peak_bytes,
    ratio,
    signature,
    table,
    tell,
    unjudged,
    write,
)
from trimtab.core import AdvantageEstimator, Plan, Rollouts
from trimtab.methods import distrl, grpo
from trimtab.models.forward import add_objective_forward
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.objectives.policy_gradient import PolicyGradient
from trimtab.signals.candidates import RewardModelAtCandidates
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel
from trimtab.train import settings
from trimtab.train.rollouts import RolloutTrainer

transformers.logging.disable_progress_bar()
TIME_LIMIT, MEMORY_LIMIT, DISTRL_LIMIT = 1.0, 1.0, 1.15
SEED, ANSWERS = 0, 4


def worth(prompts: list, completions: list, completion_ids: list, **columns: Any) -> list[float]:
    """Of an answer: something that differs."""
    return [float(sum(ids) % 97) for ids in completion_ids]


class Scored(AdvantageEstimator):
    """GRPO's advantages, beside scores of a reward model that are read and not used."""

    needs = frozenset({"old", "token_scores"})

    def __init__(self) -> None:
        self.plain = grpo.GroupAdvantage(True, False)

    def __call__(self, rollouts: Rollouts) -> dict:
        return self.plain(rollouts)


def reward_model(model: str) -> TokenRewardModel:
    frozen = load_model(model)
    add_objective_forward(frozen)
    return TokenRewardModel(frozen, ScoreSpec("logprob", "mean", 1.0, outcomes=False))


def plan_of(name: str, model: str, policy: PreTrainedModel) -> Plan:
    if name == "distrl":
        return distrl.build(distrl.Config(online="frozen"), policy, RewardModelAtCandidates(reward_model(model)))
    if name == "grpo with a reward model":
        return Plan(PolicyGradient(0.2, 0.2), advantages=Scored(), rollout_signals=(reward_model(model),))
    return grpo.build(grpo.Config(mean="row"), policy)


def make(name: str, model: str, rows: int, longest: int, folder: str) -> Any:
    """A trainer, and the answers that it is given in the place of its own."""
    torch.manual_seed(SEED)
    policy, tokenizer = load_model(model), load_tokenizer(model)
    policy.config.use_cache = False
    updates = 1 if name in ("trl", "grpo") else 2
    training = {
        "per_device_train_batch_size": rows // updates, "num_generations": ANSWERS, "steps_per_generation": updates,
        "max_completion_length": longest, "max_steps": 1, "use_cpu": True, "save_strategy": "no",
    }  # fmt: skip
    args = settings.build(settings.check(training, "rollouts"), Path(folder), SEED, "rollouts")
    prompts = [[{"role": "user", "content": "why " * (3 + i)}] for i in range(rows // ANSWERS)]
    inputs = [{"prompt": prompt, "row_id": i} for i, prompt in enumerate(prompts) for _ in range(ANSWERS)]
    shared: dict[str, Any] = {
        "model": policy, "args": args, "reward_funcs": [worth], "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(inputs),
    }  # fmt: skip
    if name.startswith("trl"):
        args.loss_type = (
            "grpo"  # a mean over rows: of tokens TRL takes it over all rollouts and not over an update's own
        )
        made = GRPOTrainer(**shared)
    else:
        add_objective_forward(policy)
        made = RolloutTrainer(**shared, plan=plan_of(name, model, policy))
    generator = torch.Generator().manual_seed(SEED)
    lengths = torch.linspace(longest / 8, longest, rows).long()[torch.randperm(rows, generator=generator)].tolist()
    top = min(policy.config.vocab_size, len(tokenizer))
    completions = [torch.randint(5, top, (length,), generator=generator).tolist() for length in lengths]
    asked = [
        tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True) for row in inputs
    ]
    prompt_ids = [one["input_ids"] for one in asked]  # type: ignore[index]
    texts = [[{"role": "assistant", "content": "x"}] for _ in completions]
    made._generate = lambda given: (prompt_ids, completions, None, texts, None, {}, None, [])
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made, inputs, updates


def step(made: Any, inputs: list, updates: int) -> float:
    torch.manual_seed(SEED)  # of the shuffle
    made.model.zero_grad(set_to_none=True)
    made._step, made._buffered_inputs = 0, None
    total = 0.0
    for _ in range(updates):
        loss = made.compute_loss(made.model, made._prepare_inputs(inputs))
        loss.backward()
        made._step += 1
        total += loss.item()
    return total


CONTESTANTS = ("trl", "grpo", "trl, two updates", "grpo, two updates", "grpo with a reward model", "distrl")


def clock(model: str, rows: int, longest: int, repeats: int, patience: float) -> tuple[dict, dict]:
    with tempfile.TemporaryDirectory() as folder:
        made = {name: make(name, model, rows, longest, folder) for name in CONTESTANTS}
        errors = {}
        for one, other in (("trl", "grpo"), ("trl, two updates", "grpo, two updates")):
            answers = {}
            for name in (one, other):
                loss = step(*made[name])
                gradients = {key: p.grad.clone() for key, p in made[name][0].model.named_parameters()}
                answers[name] = Answer(loss + 1.0, gradients)  # the loss itself is about 0
            errors |= check_same(answers, one)
        steps: dict[str, Callable[[], Any]] = {name: partial(step, *one) for name, one in made.items()}
        return {name: timing.record() for name, timing in alternate(steps, repeats, patience).items()}, errors


def memory(name: str, model: str, rows: int, longest: int) -> float:
    """MiB above what is there when models are loaded and gradients exist."""
    with tempfile.TemporaryDirectory() as folder:
        made = make(name, model, rows, longest, folder)
        for parameter in made[0].model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        made[0].model.zero_grad = lambda set_to_none=True: None
        return peak_bytes(partial(step, *made)) / MIB


def main() -> None:
    made = parser(__doc__)
    args = made.parse_args()
    args.repeats = args.repeats or (1 if args.quick else 3)
    model = "characters-1m" if args.quick else "smollm2-135m"
    rows, longest = (8, 16) if args.quick else (16, 96)
    tell("time")
    timings, errors = in_fresh_process(clock, model, rows, longest, args.repeats, 0.0 if args.quick else PATIENCE)
    measured = ("trl", "grpo") if args.quick else CONTESTANTS
    tell("memory")
    peaks = {name: round(in_fresh_process(memory, name, model, rows, longest), 1) for name in measured}
    seconds = {name: timing["seconds"] for name, timing in timings.items()}
    pair = ("grpo, two updates", "trl, two updates")
    targets = [
        Target("grpo: time over TRL's", TIME_LIMIT, ratio(seconds["grpo"], seconds["trl"])),
        Target("grpo, two updates: time over TRL's", TIME_LIMIT, ratio(*(seconds[name] for name in pair))),
        Target("grpo: memory over TRL's", MEMORY_LIMIT, ratio(peaks["grpo"], peaks["trl"])),
        Target(
            "distrl: time over grpo with the same reward model",
            DISTRL_LIMIT,
            ratio(seconds["distrl"], seconds["grpo with a reward model"]),
        ),
    ]
    targets = unjudged(targets) if args.quick else targets
    result = {
        "signature": signature(),
        "setting": {"model": model, "answers": rows, "longest": longest, "dtype": "float32"},
        "same": errors,
        "steps": timings,
        "memory_mib": peaks,
    }
    path = write("rl_step", args, result, targets)
    print(table(["step", "s", "peak MiB"], [[name, value, peaks.get(name)] for name, value in seconds.items()]), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
