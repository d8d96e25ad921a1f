"""Reward models that score tokens: what does a training step cost beside SFT, and beside TRL's RewardTrainer?

Two questions, float32, on the CPU. First the time and the peak memory of one update without the optimizer (forward,
backward; half of each row is prompt) on the same tokens, log-probabilities of the reference stored beside the rows:

  sft             the likelihood of all answers
  q_rm            a scalar head, mean scores of pairs
  q_rm, logit     the language model's logits as scores
  ipvrm           the value of every prefix of every answer
  orm             a scalar head, the last token's score
  dpo_rm          summed log-ratios of pairs
  implicit_prm    summed log-ratios of answers
  step_prm        a scalar head at the ends of steps

Then training on the same pairs by the trainers themselves, AdamW included, one process each:

  orm             trimtab's reward_model
  trl-reward      TRL's RewardTrainer, a sequence classification model
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from adapt_step import TOKENIZER, Watch, make, settings, sorted_pairs, step
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
from distill_step import TINY, config_of, make_inputs
from trimtab.core import Plan, answer_mask
from trimtab.data import stored
from trimtab.data.collate import Collator
from trimtab.data.rows import prepare
from trimtab.methods import ipvrm, q_rm, reward_model, sft
from trimtab.models.forward import add_objective_forward
from trimtab.models.loading import load_tokenizer
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.signals.columns import Column
from trimtab.signals.initial_policy import own_logprobs
from trimtab.train.trainer import ObjectiveTrainer

transformers.logging.disable_progress_bar()
STEP_LIMIT, MEMORY_LIMIT, TRL_LIMIT = 1.1, 1.0, 1.0
SCALAR = ("q_rm", "orm", "step_prm")
MEMBERS = (*SCALAR, "q_rm, logit", "ipvrm", "dpo_rm", "implicit_prm")


def plan_of(name: str) -> Plan:
    reference = Column(stored.REFERENCE, "reference")
    match name:
        case "sft":
            return sft.build(sft.Config(), None)  # type: ignore[arg-type]
        case "q_rm" | "q_rm, logit":
            return q_rm.build(q_rm.Config(head="scalar" if name == "q_rm" else "logit"), None)  # type: ignore[arg-type]
        case "ipvrm":
            return ipvrm.build(ipvrm.Config(), None, reference)  # type: ignore[arg-type]
        case _:
            return reward_model.build(reward_model.Config(kind=name), None, reference)  # type: ignore[arg-type]


def updates(model: str, rows: int, length: int) -> dict[str, Callable[[], float]]:
    """One update of each, ready to be called; two models in all, one with a scalar head."""
    policy = make(model)
    add_objective_forward(policy)
    inputs = make_inputs(config_of(model).vocab_size, rows, length)
    mask = answer_mask(inputs["labels"])
    inputs[stored.REFERENCE] = torch.zeros(inputs["labels"].shape)
    inputs[stored.REFERENCE][:, 1:][mask] = own_logprobs(policy, inputs)
    inputs["outcome"] = torch.arange(rows) % 2 * 1.0
    inputs["rating"] = torch.full(inputs["labels"].shape, float("nan"))
    inputs["rating"][:, ::8] = 1.0
    scorer = with_scalar_head(make(model), seed=0).train()
    add_score_forward(scorer)
    for weight in scorer.parameters():
        weight.sum()  # pages of a mapped file count only once they were read
    return {
        name: partial(step, scorer if name in SCALAR else policy, plan_of(name), inputs) for name in ("sft", *MEMBERS)
    }


def clock(model: str, rows: int, length: int, repeats: int, patience: float) -> dict[str, Timing]:
    return alternate(updates(model, rows, length), repeats, patience)


def memory(name: str, model: str, rows: int, length: int) -> float:
    """Peak MiB of one update above the model."""
    update = updates(model, rows, length)[name]
    return round(peak_bytes(update) / MIB, 1)


# ---------------------------------------------------------------- training on pairs


def our_trainer(model: str, pairs: int, length: int, steps: int, folder: str) -> Any:
    from trl import SFTConfig  # type: ignore[attr-defined]

    scorer = with_scalar_head(make(model), seed=0).train()
    add_score_forward(scorer)
    tokenizer = load_tokenizer(TOKENIZER)
    prepared = prepare(sorted_pairs(pairs * steps), tokenizer, max_length=length, pairs=True)
    return ObjectiveTrainer(
        model=scorer,
        args=SFTConfig(
            output_dir=folder, dataset_kwargs={"skip_prepare_dataset": True}, **settings(pairs, length, steps)
        ),
        plan=plan_of("orm"),
        train_dataset=Dataset.from_list(prepared.rows),
        processing_class=tokenizer,
        data_collator=Collator(int(tokenizer.pad_token_id), len(tokenizer)),  # type: ignore[arg-type]
    )


def trl_trainer(model: str, pairs: int, length: int, steps: int, folder: str) -> Any:
    from trl import RewardConfig, RewardTrainer  # type: ignore[attr-defined]

    return RewardTrainer(
        model=classifier(make(model)),
        args=RewardConfig(output_dir=folder, **settings(pairs, length, steps)),
        train_dataset=Dataset.from_list(sorted_pairs(pairs * steps)),
        processing_class=load_tokenizer(TOKENIZER),
    )


def classifier(model: PreTrainedModel) -> PreTrainedModel:
    """The sequence classification model on the same layers."""
    config = model.config
    config.num_labels, config.pad_token_id = 1, load_tokenizer(TOKENIZER).pad_token_id
    with torch.device("meta"):
        made = AutoModelForSequenceClassification.from_config(config)
    made.model = model.base_model
    made.score = torch.nn.Linear(config.hidden_size, 1, bias=False)
    return made.train()


TRAINERS: dict[str, Callable[..., Any]] = {"orm": our_trainer, "trl-reward": trl_trainer}


def train(name: str, model: str, pairs: int, length: int, steps: int) -> dict[str, Any]:
    """Median seconds of an update after the first, peak MiB from before the model is loaded, and all losses."""
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
        "losses": watch.losses,
        "rounds": [round(s, 3) for s in watch.seconds],
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    args.repeats = args.repeats or (1 if args.quick else 3)
    model = TINY if args.quick else "smollm2-135m"
    rows, length, pairs, steps = (2, 32, 2, 2) if args.quick else (4, 256, 4, 6)
    tell("updates")
    timings = in_fresh_process(clock, model, rows, length, args.repeats, 0.0 if args.quick else PATIENCE)
    tell("memory of updates")
    peaks = {name: in_fresh_process(memory, name, model, rows, length) for name in ("sft", *MEMBERS)}
    trained = {}
    for name in TRAINERS:
        if args.quick:  # the tiny model has not the tokenizer's vocabulary
            break
        tell(f"training by {name}")
        runs = [in_fresh_process(train, name, model, pairs, length, steps) for _ in range(2)]
        trained[name] = min(runs, key=lambda run: run["seconds"])
    seconds = {name: timing.median for name, timing in timings.items()}
    targets = [Target(f"{name}: time over sft", STEP_LIMIT, ratio(seconds[name], seconds["sft"])) for name in MEMBERS]
    targets += [Target(f"{name}: memory over sft", MEMORY_LIMIT, ratio(peaks[name], peaks["sft"])) for name in MEMBERS]
    ours, theirs = trained.get("orm", {}), trained.get("trl-reward", {})
    targets.append(Target("orm: time over TRL's", TRL_LIMIT, ratio(ours.get("seconds"), theirs.get("seconds"))))
    targets = unjudged(targets) if args.quick else targets
    result = {
        "signature": signature(),
        "setting": {"model": model, "rows": rows, "length": length, "pairs": pairs, "steps": steps, "dtype": "float32"},
        "updates": {name: {**timing.record(), "memory_mib": peaks[name]} for name, timing in timings.items()},
        "training": trained,
    }
    path = write("reward_step", args, result, targets)
    print(table(["update", "s", "peak MiB"], [[name, value, peaks[name]] for name, value in seconds.items()]), "\n")
    print(table(["training", "s", "peak MiB"], [[n, t["seconds"], t["memory_mib"]] for n, t in trained.items()]), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
