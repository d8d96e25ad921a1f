"""One whole step of distillation, without the optimizer: what does it cost in time and in memory?

Forward of student and frozen teacher, forward KL on the answer tokens, backward to every weight of the student;
gradient checkpointing, float32, on the CPU. The student is made of some of the teacher's layers, and the first half of
each row is prompt. Contestants:

  trimtab           `policy(..., objective_call=...)` with KD and a live `FrozenModel`
  plain             full logits of both models, torch's kl_div on those of the answer tokens
  trl-gkd           full logits, the loss of TRL's `GKDTrainer` with beta 0, called as that trainer calls it
  trl-distillation  the chunked loss of TRL's `DistillationTrainer`, on the completion's hidden states as there
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from common import (
    MIB,
    PATIENCE,
    Answer,
    Different,
    Target,
    Timing,
    alternate,
    check_same,
    does_not_fit,
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
from trimtab.common import fingerprint
from trimtab.core import IGNORE
from trimtab.models.forward import ObjectiveCall, add_objective_forward
from trimtab.models.loading import load_config, load_model
from trimtab.models.student import evenly_spaced, keep_layers
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.matching import Match
from trimtab.signals.frozen import FrozenModel

transformers.logging.disable_progress_bar()
OBJECTIVE = Match(forward_kl, temperature=1.0, cross_entropy=0.0)
TINY = "tiny"
"""A random model for --quick, in place of one that must be loaded."""
TIME_LIMIT = 0.9
MEMORY_LIMIT = 0.55
CHECK_ROWS, CHECK_LENGTH = 2, 128
SEED = 0


@dataclass(frozen=True)
class Setting:
    model: str
    layers: int
    """that the student keeps"""
    rows: int
    length: int


@dataclass
class Pair:
    student: PreTrainedModel
    teacher: FrozenModel

    @classmethod
    def make(cls, model: str, layers: int) -> "Pair":
        torch.manual_seed(SEED)
        teacher = AutoModelForCausalLM.from_config(tiny_config()) if model == TINY else load_model(model)
        teacher.config.use_cache = False
        student = keep_layers(teacher, evenly_spaced(teacher.config.num_hidden_layers, layers))
        student.config.use_cache = False
        add_objective_forward(student)
        with warnings.catch_warnings():  # the name changes with transformers 6
            warnings.simplefilter("ignore", FutureWarning)
            student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for weight in [*teacher.parameters(), *student.parameters()]:
            weight.sum()  # pages of a mapped file count only once they were read
        return cls(student.train(), FrozenModel(teacher))


def tiny_config() -> LlamaConfig:
    """With a wide spread of weights: two models that hardly differ would have a KL of nothing but rounding."""
    return LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )


def config_of(model: str) -> LlamaConfig:
    return tiny_config() if model == TINY else load_config(model)


def make_inputs(vocab: int, rows: int, length: int) -> dict[str, Tensor]:
    """Rows of random tokens, the second half of each an answer."""
    torch.manual_seed(SEED)
    ids = torch.randint(vocab, (rows, length))
    labels = ids.clone()
    labels[:, : length // 2] = IGNORE
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "row_id": torch.arange(rows),
    }


# ---------------------------------------------------------------- the contestants: a batch to a scalar loss


def trimtab(pair: Pair, inputs: dict[str, Tensor]) -> Tensor:
    signals = pair.teacher(pair.student, inputs)
    call = ObjectiveCall(OBJECTIVE, inputs["labels"], signals, inputs["row_id"])
    model_inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    return pair.student(**model_inputs, objective_call=call).loss


def both_logits(pair: Pair, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[B, T, V] of student and teacher."""
    model_inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    student_logits = pair.student(**model_inputs).logits
    with torch.no_grad():
        return student_logits, pair.teacher.model(**model_inputs).logits


def plain(pair: Pair, inputs: dict[str, Tensor]) -> Tensor:
    student_logits, teacher_logits = both_logits(pair, inputs)
    answer = inputs["labels"][:, 1:] != IGNORE
    log_q = F.log_softmax(student_logits[:, :-1][answer], dim=-1)
    log_p = F.log_softmax(teacher_logits[:, :-1][answer], dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def trl_gkd(pair: Pair, inputs: dict[str, Tensor]) -> Tensor:
    from trl.experimental.gkd import GKDTrainer

    student_logits, teacher_logits = both_logits(pair, inputs)
    labels = inputs["labels"][:, 1:]
    return GKDTrainer.generalized_jsd_loss(
        student_logits=student_logits[:, :-1, :],
        teacher_logits=teacher_logits[:, :-1, :],
        labels=labels,
        beta=0.0,
        num_items_in_batch=(labels != IGNORE).sum(),
    )


def trl_distillation(pair: Pair, inputs: dict[str, Tensor]) -> Tensor:
    completion = inputs["labels"] != IGNORE
    num_completion = int(completion.any(dim=0).sum())  # the last columns; that trainer keeps prompts to the left

    def hidden(model: PreTrainedModel) -> Tensor:
        output = model.base_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        return output.last_hidden_state[:, :-1][:, -num_completion:]

    student_hidden = hidden(pair.student)
    with torch.no_grad():
        teacher_hidden = hidden(pair.teacher.model)
    loss, _, _ = _chunked_divergence_loss(
        student_hidden,
        teacher_hidden,
        pair.student.get_output_embeddings().weight,
        pair.teacher.model.get_output_embeddings().weight,
        completion[:, -num_completion:],
        beta=0.0,
        num_items_in_batch=completion.sum(),
    )
    return loss


@dataclass(frozen=True)
class Contestant:
    loss: Callable[[Pair, dict[str, Tensor]], Tensor]
    tables: float
    """tables of logits [B, T, V] alive at once at the worst moment; only to tell what will not fit"""


CONTESTANTS = {
    "trimtab": Contestant(trimtab, 0.5),
    "plain": Contestant(plain, 5),
    "trl-gkd": Contestant(trl_gkd, 8),
    "trl-distillation": Contestant(trl_distillation, 4),
}


def step(name: str, pair: Pair, inputs: dict[str, Tensor]) -> float:
    """Forward and backward; gradients of the step before are gone."""
    pair.student.zero_grad(set_to_none=True)
    loss = CONTESTANTS[name].loss(pair, inputs)
    loss.backward()
    return loss.item()


# ---------------------------------------------------------------- what a fresh process is asked to do


def check(setting: Setting, names: list[str]) -> dict[str, dict]:
    """Fingerprints of the models, and relative errors against plain on a small batch.

    Raises:
        Different: if somebody computes something else.
    """
    pair = Pair.make(setting.model, setting.layers)
    inputs = make_inputs(config_of(setting.model).vocab_size, CHECK_ROWS, min(CHECK_LENGTH, setting.length))
    answers = {}
    for name in {"plain": None, **dict.fromkeys(names)}:
        loss = step(name, pair, inputs)
        answers[name] = Answer(loss, {n: p.grad for n, p in pair.student.named_parameters() if p.grad is not None})
    models = {"student": fingerprint.of_model(pair.student), "teacher": fingerprint.of_model(pair.teacher.model)}
    return {"models": models, "same_loss": check_same(answers, "plain", f"{CHECK_ROWS} rows")}


def clock(setting: Setting, names: list[str], repeats: int, patience: float) -> dict[str, Timing]:
    pair = Pair.make(setting.model, setting.layers)
    inputs = make_inputs(config_of(setting.model).vocab_size, setting.rows, setting.length)
    return alternate({name: partial(step, name, pair, inputs) for name in names}, repeats, patience)


def weigh(setting: Setting, name: str) -> int:
    """Bytes that one step needs beyond the weights of both models."""
    pair = Pair.make(setting.model, setting.layers)
    vocab = config_of(setting.model).vocab_size
    step(name, pair, make_inputs(vocab, 1, 8))  # loads the libraries' code, which is no cost of the step
    pair.student.zero_grad(set_to_none=True)
    inputs = make_inputs(vocab, setting.rows, setting.length)
    return peak_bytes(partial(step, name, pair, inputs))


# ---------------------------------------------------------------- the figures


def need(name: str, setting: Setting) -> float:
    """Estimated bytes of both models and a step: tables of logits, gradients, states that checkpointing keeps."""
    config = config_of(setting.model)
    width, tokens = config.hidden_size, setting.rows * setting.length
    layer = 4 * width * (width + config.intermediate_size)  # weights of one, at most
    models = 4 * (2 * config.vocab_size * width + (config.num_hidden_layers + setting.layers) * layer)
    gradients = 4 * (2 * config.vocab_size * width + setting.layers * layer)
    states = 4 * tokens * (setting.layers * width + 8 * config.intermediate_size)
    return models + gradients + states + 4 * CONTESTANTS[name].tables * tokens * config.vocab_size


def measure(setting: Setting, args) -> dict[str, dict]:
    """For each contestant its time and memory, or why there is none."""
    found: dict[str, dict] = {}
    for name in args.contestants:
        problem = does_not_fit(need(name, setting))
        found[name] = {"skipped": problem} if problem else {}
    running = [name for name in found if not found[name]]
    if "time" in args.measure and running:
        tell("time")
        patience = 0.0 if args.quick else PATIENCE
        timings = in_fresh_process(clock, setting, running, args.repeats, patience)
        for name, timing in timings.items():
            found[name]["time"] = timing.record()
    if "memory" in args.measure:
        for name in running:
            tell(f"memory of {name}")
            try:
                found[name]["memory_mib"] = round(in_fresh_process(weigh, setting, name) / MIB, 1)
            except MemoryError as error:
                found[name]["skipped"] = str(error)
    return found


def judge(found: dict[str, dict]) -> list[Target]:
    """The promises of the design, each beside what was found."""
    ours, base = found.get("trimtab", {}), found.get("plain", {})
    time = ratio(ours.get("time", {}).get("seconds"), base.get("time", {}).get("seconds"))
    memory = ratio(ours.get("memory_mib"), base.get("memory_mib"))
    return [
        Target("distill_step: time over plain", TIME_LIMIT, time),
        Target("distill_step: memory over plain", MEMORY_LIMIT, memory),
    ]


def rows(found: dict[str, dict]) -> list[list]:
    """One line for each contestant."""
    ours, made = found.get("trimtab", {}), []
    for name, c in found.items():
        time, memory = c.get("time", {}), c.get("memory_mib")
        slower = ratio(ours.get("time", {}).get("seconds"), time.get("seconds"))
        seconds = c.get("skipped") or time.get("seconds")
        larger = ratio(ours.get("memory_mib"), memory)
        made.append([name, seconds, slower, time.get("faulted_gib"), memory, larger])
    return made


HEADERS = ["contestant", "s", "trimtab / it", "GiB faulted in", "peak MiB", "trimtab / it"]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", help="of the teacher: builtin name, folder or hub id")
    made.add_argument("--layers", type=int, help="that the student keeps")
    made.add_argument("--rows", type=int)
    made.add_argument("--length", type=int, help="tokens of a row; half of them are answer")
    made.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    made.add_argument("--measure", nargs="+", choices=("time", "memory"), default=["time", "memory"])
    args = made.parse_args()
    args.repeats = args.repeats or (1 if args.quick else 3)
    model, layers, num_rows, length = (TINY, 3, 2, 32) if args.quick else ("smollm2-135m", 15, 4, 512)
    setting = Setting(args.model or model, args.layers or layers, args.rows or num_rows, args.length or length)
    options = {"method": "kd", "divergence": "forward_kl", "dtype": "float32", "seed": SEED}
    result = {"signature": signature(), "setting": {**vars(setting), **options}}
    try:
        result |= in_fresh_process(check, setting, args.contestants)
    except Different as error:
        sys.exit(f"error: {error}")
    tell("all contestants compute the same loss and gradients")
    result["cells"] = measure(setting, args)
    targets = unjudged(judge(result["cells"])) if args.quick else judge(result["cells"])
    path = write("distill_step", args, result, targets)
    print(table(HEADERS, rows(result["cells"])), "\n")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
