"""Several processes: what does our trainer cost beside TRL's own under the same launch?

Two processes over gloo fine-tune the same model on the same rows under DDP, by TRL's SFTTrainer and by ours. They take
turns of a few updates, so that a busy minute hits both. An update is timed between two ends of the optimizer's step, in
the first process, without logs and checkpoints. Plain SGD with a rate of 0 leaves the weights where they are; losses of
both, and the gradients that come out of DDP, are held against each other first.
"""

import os
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from transformers import PreTrainedModel, TrainerCallback

from common import Different, Target, parser, ratio, relative_error, signature, table, tell, unjudged, write

PROCESSES, LIMIT, TOLERANCE = 2, 1.03, 1e-5
SEED, LAYERS = 0, 10
OURS, PEER = "trimtab", "trl"


class Watch(TrainerCallback):
    """Seconds of updates after the first, and the gradients of the last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self._since: float | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        named = ((name.removeprefix("module."), one) for name, one in model.named_parameters())
        self.gradients = {name: one.grad.clone() for name, one in named if one.grad is not None and "layers.0." in name}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self.seconds.append(now - self._since)
        self._since = now

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = None


def rows_of(number: int, length: int, vocab: int) -> list[list[int]]:
    """Of the same length, so that all updates are alike."""
    ids = torch.randint(3, vocab, (number, length), generator=torch.Generator().manual_seed(SEED))
    return ids.tolist()


def model_of(quick: bool) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    from trimtab.models.loading import load_model
    from trimtab.models.student import keep_layers

    if not quick:
        return keep_layers(load_model("smollm2-135m"), range(LAYERS))
    torch.manual_seed(SEED)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape))


def trainers(quick: bool, rows: int, length: int, steps: int, folder: str) -> dict[str, Any]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    from trimtab.data.collate import Collator
    from trimtab.methods import sft
    from trimtab.models.forward import add_objective_forward
    from trimtab.models.loading import load_tokenizer
    from trimtab.train import settings
    from trimtab.train.dataset import Rows
    from trimtab.train.trainer import ObjectiveTrainer

    tokenizer = load_tokenizer("smollm2-135m")
    asked = {
        "per_device_train_batch_size": rows, "max_steps": steps, "optim": "sgd", "learning_rate": 0.0,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "bf16": False, "gradient_checkpointing": False,
        "save_strategy": "no", "logging_steps": 1, "report_to": "none", "use_cpu": True,
    }  # fmt: skip
    ids = rows_of(rows * PROCESSES * steps, length, 250)
    theirs = SFTTrainer(
        model=model_of(quick),
        args=SFTConfig(output_dir=f"{folder}/{PEER}", max_length=None, seed=SEED, disable_tqdm=True, **asked),
        train_dataset=Dataset.from_list([{"input_ids": one, "labels": one} for one in ids]),
        processing_class=tokenizer,
    )
    policy = model_of(quick)
    add_objective_forward(policy)
    ours = ObjectiveTrainer(
        model=policy,
        args=settings.build(settings.check(asked), Path(folder) / OURS, SEED),
        plan=sft.build(sft.Config(), policy),
        train_dataset=Rows([{"input_ids": one, "labels": one, "row_id": i} for i, one in enumerate(ids)]),
        processing_class=tokenizer,
        data_collator=Collator(0, policy.config.vocab_size),
    )
    return {PEER: theirs, OURS: ours}


def process(rank: int, port: int, quick: bool, rows: int, length: int, steps: int, rounds: int, place: str) -> None:
    """One of the group; the first stores what it found."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    watches = {name: Watch() for name in (PEER, OURS)}
    with ExitStack() as stack:
        made = trainers(quick, rows, length, steps, stack.enter_context(tempfile.TemporaryDirectory()))
        for name, trainer in made.items():
            trainer.add_callback(watches[name])
            trainer.remove_callback(_printer())
        for number in range(rounds + 1):
            for name in list(made)[:: 1 if number % 2 else -1]:
                made[name].train()
            if number == 0:  # warm
                for watch in watches.values():
                    watch.seconds.clear()
        losses = {name: [one["loss"] for one in trainer.state.log_history if "loss" in one]
                  for name, trainer in made.items()}  # fmt: skip
    if rank == 0:
        apart = relative_error(watches[OURS].gradients, watches[PEER].gradients)
        seconds = {name: watch.seconds for name, watch in watches.items()}
        torch.save({"seconds": seconds, "losses": losses, "gradients": apart}, place)
    torch.distributed.destroy_process_group()


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


def main() -> None:
    args = parser(__doc__).parse_args()
    rows, length, steps = (2, 16, 3) if args.quick else (2, 256, 5)
    about = signature()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        given = (port, args.quick, rows, length, steps, args.repeats or (1 if args.quick else 6), f"{folder}/found.pt")
        tell(f"{PROCESSES} processes, {rows} rows of {length} tokens each, turns of {steps} updates")
        mp.start_processes(process, args=given, nprocs=PROCESSES, start_method="spawn")  # type: ignore[attr-defined]
        found = torch.load(f"{folder}/found.pt", weights_only=True)
    worst = max(abs(a / b - 1) for a, b in zip(found["losses"][OURS], found["losses"][PEER], strict=True))
    if worst > TOLERANCE or found["gradients"] > 10 * TOLERANCE:
        raise Different(f"losses differ by {worst:.1e}, gradients by {found['gradients']:.1e}")
    medians = {name: statistics.median(values) for name, values in found["seconds"].items()}
    promised = [
        Target("seconds an update in two processes, ours over TRL's", LIMIT, ratio(medians[OURS], medians[PEER]))
    ]
    promised = unjudged(promised) if args.quick else promised
    sizes = {"processes": PROCESSES, "rows": rows, "length": length, "layers": LAYERS}
    spread = {name: statistics.quantiles(values, n=4) for name, values in found["seconds"].items()}
    result = {"signature": about, "sizes": sizes, "median": medians, "quartiles": spread}
    write("processes", args, {**result, "loss_apart": worst, "gradients_apart": found["gradients"]}, promised)
    cells = [[name, len(found["seconds"][name]), *spread[name]] for name in medians]
    print(table(["trainer", "updates", "first quartile", "median seconds", "third quartile"], cells), "", sep="\n")
    print(f"losses apart by {worst:.1e}, gradients by {found['gradients']:.1e}", *promised, sep="\n")


if __name__ == "__main__":
    main()
