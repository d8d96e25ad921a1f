"""Changing a model without losing it: what do psft, wspo and clm cost beside their plainer relatives?

Two questions, float32, on the CPU. First the time of one update without the optimizer (forward, backward; half of each
row is prompt):

  sft    the likelihood of the answers
  psft   with a snapshot of lagged weights, in an update that is not the first of its window: one more forward
  wspo   with the log-probabilities of the reference and the weak log-ratios stored beside the rows

Then whole training on preferences by the trainers themselves, AdamW included, one process each: time of an update, and
peak memory with the models, gradients and optimizer states:

  clm      an identity layer is trained by DPO; the reference is the same network around it
  trl-dpo  TRL's DPOTrainer on the whole model with a reference model of its own
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from common import (
    MIB,
    PATIENCE,
    Target,
    Timing,
    alternate,
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
from distill_step import TINY, config_of, make_inputs, tiny_config
from trimtab.core import Plan, answer_mask
from trimtab.data import stored
from trimtab.data.collate import Collator
from trimtab.data.rows import prepare
from trimtab.data.synthetic import brevity
from trimtab.methods import clm, psft, sft, wspo
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import bypass, insert_identity_layer, train_only_identity_layer
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.signals.base import call_plan
from trimtab.signals.columns import Column
from trimtab.signals.initial_policy import InitialPolicy, own_logprobs
from trimtab.train.trainer import ObjectiveTrainer

transformers.logging.disable_progress_bar()
PSFT_LIMIT, WSPO_LIMIT, CLM_TIME_LIMIT, CLM_MEMORY_LIMIT = 1.45, 1.1, 0.9, 0.6
TOKENIZER = "smollm2-135m"
SEED = 0


def make(model: str) -> PreTrainedModel:
    torch.manual_seed(SEED)
    built = AutoModelForCausalLM.from_config(tiny_config()) if model == TINY else load_model(model)
    built.config.use_cache = False
    return built.train()


# ---------------------------------------------------------------- one update, without the optimizer


def plans(policy: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Plan]:
    mask = answer_mask(inputs["labels"])
    inputs[stored.REFERENCE] = torch.zeros(inputs["labels"].shape)
    inputs[stored.REFERENCE][:, 1:][mask] = own_logprobs(policy, inputs)
    reference = Column(stored.REFERENCE, "reference")
    made = {
        "sft": sft.build(sft.Config(), policy),
        "psft": psft.build(psft.Config(), policy),
        "wspo": wspo.build(wspo.Config(weak="column"), policy, reference),
    }
    made["psft"].signals[0].take(policy)  # type: ignore[attr-defined]
    return made


def step(policy: PreTrainedModel, plan: Plan, inputs: dict[str, Tensor]) -> float:
    policy.zero_grad(set_to_none=True)
    output = call_plan(plan, policy, inputs)
    assert output.loss is not None
    output.loss.backward()
    return output.loss.item()


def clock(model: str, rows: int, length: int, repeats: int, patience: float) -> dict[str, Timing]:
    policy = make(model)
    add_objective_forward(policy)
    inputs = make_inputs(config_of(model).vocab_size, rows, length)
    inputs[stored.WEAK_DELTA] = torch.randn(rows, length)
    made = plans(policy, inputs)
    return alternate({name: partial(step, policy, plan, inputs) for name, plan in made.items()}, repeats, patience)


# ---------------------------------------------------------------- training on preferences


class Watch(TrainerCallback):
    """Seconds of each update, and the first loss."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def settings(pairs: int, length: int, steps: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": pairs,
        "max_steps": steps,
        "max_length": length,
        "learning_rate": 1e-5,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
        "dataloader_pin_memory": False,
    }


def sorted_pairs(number: int) -> list[dict[str, Any]]:
    """The longest pairs, so that all updates are alike."""
    return sorted(brevity("train"), key=lambda row: -len(row["rejected"][0]["content"]))[:number]


def clm_trainer(model: str, pairs: int, length: int, steps: int, folder: str) -> Any:
    from trl import SFTConfig  # type: ignore[attr-defined]

    policy = insert_identity_layer(make(model))
    train_only_identity_layer(policy)
    add_objective_forward(policy)
    tokenizer = load_tokenizer(TOKENIZER)
    plan = clm.build(clm.Config(beta=0.1), policy, InitialPolicy(partial(bypass, policy)))
    prepared = prepare(sorted_pairs(pairs * steps), tokenizer, max_length=length, pairs=True)
    return ObjectiveTrainer(
        model=policy,
        args=SFTConfig(
            output_dir=folder, dataset_kwargs={"skip_prepare_dataset": True}, **settings(pairs, length, steps)
        ),
        plan=plan,
        train_dataset=Dataset.from_list(prepared.rows),
        processing_class=tokenizer,
        data_collator=Collator(int(tokenizer.pad_token_id), len(tokenizer)),  # type: ignore[arg-type]
    )


def dpo_trainer(model: str, pairs: int, length: int, steps: int, folder: str) -> Any:
    from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

    return DPOTrainer(
        model=make(model),
        ref_model=make(model),
        args=DPOConfig(output_dir=folder, beta=0.1, **settings(pairs, length, steps)),
        train_dataset=Dataset.from_list(sorted_pairs(pairs * steps)),
        processing_class=load_tokenizer(TOKENIZER),
    )


TRAINERS: dict[str, Callable[..., Any]] = {"clm": clm_trainer, "trl-dpo": dpo_trainer}


def train(name: str, model: str, pairs: int, length: int, steps: int) -> dict[str, Any]:
    """Median seconds of an update after the first, peak MiB from before the models are loaded, and the first loss."""
    watch = Watch()

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = TRAINERS[name](model, pairs, length, steps, folder)
            trainer.add_callback(watch)
            trainer.train()

    peak = peak_bytes(whole)
    return {
        "seconds": statistics.median(watch.seconds[1:]),
        "memory_mib": round(peak / MIB, 1),
        "first_loss": watch.losses[0],
        "rounds": [round(s, 3) for s in watch.seconds],
    }


def main() -> None:
    made = parser(__doc__)
    args = made.parse_args()
    args.repeats = args.repeats or (1 if args.quick else 3)
    model = TINY if args.quick else "smollm2-135m"
    rows, length, pairs, steps = (2, 32, 2, 2) if args.quick else (4, 256, 4, 6)
    tell("updates of sft, psft and wspo")
    patience = 0.0 if args.quick else PATIENCE
    timings = in_fresh_process(clock, model, rows, length, args.repeats, patience)
    trained = {}
    for name in TRAINERS:
        if args.quick:  # the tiny model has not the tokenizer's vocabulary
            break
        tell(f"training by {name}")
        runs = [in_fresh_process(train, name, model, pairs, length, steps) for _ in range(2)]
        trained[name] = min(runs, key=lambda run: run["seconds"])
        first = trained[name]["first_loss"]
        if abs(first - 0.6931) > 1e-3:
            sys.exit(f"error: {name} starts from a loss of {first}, not log 2")
    seconds = {name: timing.median for name, timing in timings.items()}
    ours, theirs = trained.get("clm", {}), trained.get("trl-dpo", {})
    targets = [
        Target("psft: time over sft", PSFT_LIMIT, ratio(seconds["psft"], seconds["sft"])),
        Target("wspo with stored columns: time over sft", WSPO_LIMIT, ratio(seconds["wspo"], seconds["sft"])),
        Target("clm: time over TRL's DPO", CLM_TIME_LIMIT, ratio(ours.get("seconds"), theirs.get("seconds"))),
        Target("clm: memory over TRL's DPO", CLM_MEMORY_LIMIT, ratio(ours.get("memory_mib"), theirs.get("memory_mib"))),
    ]
    targets = unjudged(targets) if args.quick else targets
    result = {
        "signature": signature(),
        "setting": {"model": model, "rows": rows, "length": length, "pairs": pairs, "steps": steps, "dtype": "float32"},
        "updates": {name: timing.record() for name, timing in timings.items()},
        "training": trained,
    }
    path = write("adapt_step", args, result, targets)
    print(table(["update", "s"], [[name, value] for name, value in seconds.items()]), "\n")
    print(table(["training", "s", "peak MiB"], [[n, t["seconds"], t["memory_mib"]] for n, t in trained.items()]), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
