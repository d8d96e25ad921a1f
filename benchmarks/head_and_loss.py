"""Hidden states in, gradients out: what do the output head and the loss cost in time and in memory?

The step is what lies between the last hidden states of the answer tokens and the gradients at these states
and at the student's head, float32, on the CPU or with --device cuda on a GPU. Contestants:

  trimtab         `fused_loss`, the teacher as `LazyLogits`; with the metrics that the method keeps
  plain           full logits of both models, then the objective as its formula reads, with torch's functions.
                  Logits that autograd does not need are let go before the backward, as in a Trainer's compute_loss
  trl-divergence  `ChunkedDivergenceFunction` of TRL's distillation trainer (forward KL and JSD)
  trl-fused-head  `ChunkedLogProbFunction` of TRL's `add_fused_lm_head`, as used for the loss alone (NLL)
  torch-linear    torch's own `linear_cross_entropy` (NLL; where this torch has it) in chunks of 512 tokens: those
                  that it chooses by itself are of 4 tokens at 512, and many times slower on a CPU
  liger           `LigerFusedLinearCrossEntropyLoss` (NLL; where it is installed, on a GPU)
  products        no loss: the products of matrices alone that any of them needs, in blocks of 512 tokens. Only timed

All draws of HPD are made from the same uniform numbers, so that the loss is the same number for all.
"""

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

from common import (
    GIB,
    MIB,
    PATIENCE,
    Answer,
    Different,
    Target,
    Timing,
    alternate,
    card,
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
from trimtab.core import IGNORE, Head, LazyLogits, TokenBatch, fused_loss, weights
from trimtab.methods import hpd
from trimtab.objectives import divergence
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

LOSSES = ("forward_kl", "jsd", "hpd", "nll")
OBJECTIVES = {
    "forward_kl": Match(divergence.forward_kl, temperature=1.0, cross_entropy=0.0),
    "jsd": Match(partial(divergence.jsd, beta=0.5), temperature=1.0, cross_entropy=0.0),
    "hpd": hpd.HPD(hpd.Config()),
    "nll": Likelihood(),
}
SEED = 0
TIME_LIMIT = 1.0
MEMORY_LIMIT = 0.1
FLAT_LIMIT = 1.25
PRODUCTS_LIMIT, GPU_LIMIT = 1.5, 6.0
"""on a GPU: of time over the bare products, and GiB"""
BLOCKS, SLICES = (256, 512, 1024, 2048, 4096), (8, 32, 128, 512)
"""tokens of a block, and MiB of a slice on the device, that --tune tries"""
DEVICE = torch.device("cpu")
"""that of --device"""


@dataclass(frozen=True)
class Size:
    """V and D of both models."""

    vocab: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.vocab}x{self.width}"


SIZES = (Size(49152, 576), Size(151936, 896))
TOKENS = (512, 2048, 8192)
QUICK_SIZES, QUICK_TOKENS, QUICK_LOSSES = (Size(512, 32),), (64,), ("forward_kl", "nll")
CHECK_LOGITS = 112 * MIB
"""The check runs on so many bytes of logits: more than one block of the engine, a few hundred tokens."""


@dataclass
class Inputs:
    hidden: Tensor  # [N, D], with gradient
    head: nn.Linear
    teacher_hidden: Tensor  # [N, D]
    teacher_head: nn.Linear
    targets: Tensor  # [N]
    batch: TokenBatch

    @classmethod
    def make(cls, size: Size, tokens: int) -> "Inputs":
        """Random states whose logits have a spread of 2; built in place, so that the build needs no more memory
        than what it leaves."""
        torch.manual_seed(SEED)
        heads = [nn.Linear(size.width, size.vocab, bias=False, device=DEVICE) for _ in range(2)]
        for head in heads:
            nn.init.normal_(head.weight, std=2 / size.width**0.5)
        heads[1].requires_grad_(False)
        targets = torch.randint(size.vocab, (tokens,), device=DEVICE)
        labels = torch.cat([targets.new_tensor([IGNORE]), targets])[None]
        hidden, teacher_hidden = (torch.randn(tokens, size.width, device=DEVICE) for _ in range(2))
        teacher_hidden.add_(hidden).mul_(0.5**0.5)
        return cls(hidden.requires_grad_(), heads[0], teacher_hidden, heads[1], targets, TokenBatch.from_labels(labels))

    def forget_gradients(self) -> None:
        self.hidden.grad = self.head.weight.grad = None


# ---------------------------------------------------------------- the contestants: inputs to a scalar loss


def trimtab(x: Inputs, loss: str) -> Tensor:
    vocab = x.head.out_features
    batch = x.batch
    if loss != "nll":
        batch = batch.with_signals(teacher=LazyLogits(x.teacher_hidden, x.teacher_head, vocab))
    return fused_loss(OBJECTIVES[loss], batch, x.hidden, Head(x.head, vocab), weights(batch, "token_mean")).loss


def plain(x: Inputs, loss: str) -> Tensor:
    if loss == "nll":
        return F.cross_entropy(x.head(x.hidden), x.targets)
    log_q = F.log_softmax(x.head(x.hidden), dim=-1)
    with torch.no_grad():
        log_p = F.log_softmax(x.teacher_head(x.teacher_hidden), dim=-1)
    if loss == "forward_kl":
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    if loss == "jsd":
        log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
        return 0.5 * (
            F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
            + F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
        )
    return plain_hpd(log_q, log_p, x.targets, x.batch.uniform())


def plain_hpd(log_q: Tensor, log_p: Tensor, targets: Tensor, uniform: Tensor) -> Tensor:
    """HPD (arXiv:2604.20244) on [N, V] log-probabilities, the competitor drawn by inverse CDF."""
    with torch.no_grad():
        cdf = log_q.exp().cumsum(dim=-1)
        draw = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).clamp(max=cdf.size(-1) - 1)
        del cdf
        ids = torch.cat([targets[:, None], draw], dim=1)  # [N, 2]
        q, p = log_q.gather(1, ids), log_p.gather(1, ids)
        k = q.exp() * (p - q)
        push = (ids[:, 0] != ids[:, 1]) & (k[:, 1] < 0)
        pull_weight = k[:, 0] + (k[:, 0] > 0) * p[:, 0].exp() * (1 + push.float())
        push_weight = push * k[:, 1]
    chosen = log_q.gather(1, ids)
    return -(pull_weight * chosen[:, 0] + push_weight * chosen[:, 1]).mean()


def trl_divergence(x: Inputs, loss: str) -> Tensor:
    beta = {"forward_kl": 0.0, "jsd": 0.5}[loss]  # TRL's mixture is beta teacher + (1 - beta) student; 0: forward KL
    heads = (x.hidden, x.head.weight, None, x.teacher_hidden, x.teacher_head.weight, None)
    return ChunkedDivergenceFunction.apply(*heads, beta)[0].mean()


def trl_fused_head(x: Inputs, loss: str) -> Tensor:
    options = (1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",))  # what add_fused_lm_head hands over
    return -ChunkedLogProbFunction.apply(x.hidden, x.head.weight, None, x.targets, *options)[0].mean()


def torch_linear(x: Inputs, loss: str) -> Tensor:
    options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=min(512, len(x.targets)))
    return F.linear_cross_entropy(x.hidden, x.head.weight, x.targets, options=options)


def liger(x: Inputs, loss: str) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(x.head.weight, x.hidden, x.targets)


class Products(torch.autograd.Function):
    """The products for logits of each model, and for the gradients at the student's states and head."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor | None) -> Tensor:
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), 512):
            part = slice(start, start + 512)
            logits = hidden[part] @ weight.T
            if teacher_weight is not None:
                torch.mm(teacher_hidden[part], teacher_weight.T)
            torch.mm(logits, weight, out=grad_hidden[part])
            grad_weight.addmm_(logits.T, hidden[part])
        ctx.save_for_backward(grad_hidden, grad_weight)
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        return *ctx.saved_tensors, None, None


@torch.no_grad()
def products(x: Inputs, loss: str) -> Tensor:
    teacher = None if loss == "nll" else x.teacher_head.weight
    with torch.enable_grad():
        return Products.apply(x.hidden, x.head.weight, x.teacher_hidden, teacher)


@dataclass(frozen=True)
class Contestant:
    loss: Callable[[Inputs, str], Tensor]
    tables: dict[str, int]
    """loss -> float32 tables of logits that are alive at the worst moment, as measured with V = 49152; only to
    tell what will not fit"""
    most_tokens: int = 10**9
    most_ids: int = 10**9
    """the largest such table"""

    def need(self, loss: str, size: Size, tokens: int) -> int:
        """Estimated bytes of a step: tables, and the gradients twice."""
        entries = self.tables[loss] * min(tokens, self.most_tokens) * min(size.vocab, self.most_ids)
        return 4 * (entries + 2 * size.width * (size.vocab + tokens))


CONTESTANTS = {
    "trimtab": Contestant(trimtab, {"forward_kl": 7, "jsd": 8, "hpd": 5, "nll": 5}, most_tokens=512),
    "plain": Contestant(plain, {"forward_kl": 4, "jsd": 7, "hpd": 3, "nll": 2}),
    "trl-divergence": Contestant(trl_divergence, {"forward_kl": 11, "jsd": 12}, 4096, 32768),
    "trl-fused-head": Contestant(trl_fused_head, {"nll": 8}, 4096, 32768),
}
if hasattr(F, "linear_cross_entropy"):
    CONTESTANTS["torch-linear"] = Contestant(torch_linear, {"nll": 3}, most_tokens=512)
if importlib.util.find_spec("liger_kernel") and torch.cuda.is_available():
    CONTESTANTS["liger"] = Contestant(liger, {"nll": 3}, most_tokens=512)
CONTESTANTS["products"] = Contestant(products, dict.fromkeys(LOSSES, 2), most_tokens=512)


def step(name: str, x: Inputs, loss: str) -> float:
    """Forward and backward; gradients of the step before are gone."""
    x.forget_gradients()
    value = CONTESTANTS[name].loss(x, loss)
    value.backward()
    return value.item()


# ---------------------------------------------------------------- what a fresh process is asked to do


def check(size: Size, losses: Sequence[str], names: Sequence[str]) -> dict[str, dict]:
    """Relative errors against plain, by loss and contestant.

    Raises:
        Different: if somebody computes something else.
    """
    tokens = max(32, CHECK_LOGITS // (4 * size.vocab)) if size.vocab > 4096 else 64
    x = Inputs.make(size, tokens)
    errors = {}
    for loss in losses:
        answers = {}
        for name in {"plain": None, **dict.fromkeys(names)}:
            if loss in CONTESTANTS[name].tables and name != "products":
                value = step(name, x, loss)
                answers[name] = Answer(value, {"hidden": x.hidden.grad, "head": x.head.weight.grad})
        errors[loss] = check_same(answers, "plain", f"{loss}, {size}, {tokens} tokens")
    return errors


def clock(size: Size, tokens: int, loss: str, names: list[str], repeats: int, patience: float) -> dict[str, Timing]:
    x = Inputs.make(size, tokens)
    return alternate({name: partial(step, name, x, loss) for name in names}, repeats, patience)


def weigh(size: Size, tokens: int, loss: str, name: str) -> int:
    """Bytes that one step needs beyond its inputs and the weights."""
    step(name, Inputs.make(Size(256, 16), 16), loss)  # loads the libraries' code, which is no cost of the step
    x = Inputs.make(size, tokens)
    return peak_bytes(partial(step, name, x, loss))


# ---------------------------------------------------------------- cells


def measure(size: Size, tokens: int, loss: str, args) -> dict:
    """One cell: for each contestant its time and memory, or why there is none."""
    names = [name for name in args.contestants if loss in CONTESTANTS[name].tables]
    cell = {"vocab": size.vocab, "width": size.width, "tokens": tokens, "loss": loss, "contestants": {}}
    cell["device"] = DEVICE.type
    inputs = 4 * size.width * 2 * (size.vocab + tokens)
    for name in names:
        need = CONTESTANTS[name].need(loss, size, tokens)
        cell["contestants"][name] = {"estimated_mib": round(need / MIB)}
        problem = does_not_fit(inputs + need)
        if problem:
            cell["contestants"][name]["skipped"] = problem
    running = [name for name in names if "skipped" not in cell["contestants"][name]]
    if "time" in args.measure and running:
        patience = 0.0 if args.quick else PATIENCE
        try:
            timings = in_fresh_process(clock, size, tokens, loss, running, args.repeats, patience)
        except MemoryError as error:  # one of them; the next process says which
            timings, cell["time_failed"] = {}, str(error)
        for name, timing in timings.items():
            cell["contestants"][name]["time"] = timing.record()
    if "memory" in args.measure:
        for name in running:
            try:
                used = in_fresh_process(weigh, size, tokens, loss, name)
                cell["contestants"][name]["memory_mib"] = round(used / MIB, 1)
            except MemoryError as error:
                cell["contestants"][name]["skipped"] = str(error)
    return cell


def judge(cells: list[dict]) -> list[Target]:
    """The promises of the design, each beside what was found."""
    targets = []
    for cell in cells:
        where = f"{cell['vocab']}x{cell['width']}, {cell['tokens']} tokens, {cell['loss']}"
        ours = _pick(cell, "trimtab")
        others = [c for c in cell["contestants"].items() if c[0] not in ("trimtab", "products")]
        bare = _pick(cell, "products")
        if cell.get("device", "cpu") != "cpu":
            time_over = ratio(ours.get("time", {}).get("seconds"), bare.get("time", {}).get("seconds"))
            targets.append(Target(f"time over the bare products, {where}", PRODUCTS_LIMIT, time_over))
            used = ours.get("memory_mib")
            targets.append(Target(f"GiB, {where}", GPU_LIMIT, None if used is None else used * MIB / GIB))
        times = {name: c["time"]["seconds"] for name, c in others if "time" in c}
        if "time" in ours and times:
            best = min(times, key=times.__getitem__)
            found = ratio(ours["time"]["seconds"], times[best])
            targets.append(Target(f"time over the fastest other, {where}", TIME_LIMIT, found, best))
        plain = _pick(cell, "plain")
        if cell["tokens"] == TOKENS[-1] and "memory_mib" in ours and plain:
            note = "" if "memory_mib" in plain else "plain was not run: against its estimate"
            found = ratio(ours["memory_mib"], plain.get("memory_mib", plain["estimated_mib"]))
            targets.append(Target(f"memory over plain, {where}", MEMORY_LIMIT, found, note))
    by_kind: dict[tuple, dict[int, float]] = {}
    for cell in cells:
        if "memory_mib" in _pick(cell, "trimtab"):
            kind = (f"{cell['vocab']}x{cell['width']}", cell["loss"])
            by_kind.setdefault(kind, {})[cell["tokens"]] = _pick(cell, "trimtab")["memory_mib"]
    for (size, loss), used in by_kind.items():
        few, most = min(used), max(used)
        if few < most:
            what = f"flat memory: {most} over {few} tokens, {size}, {loss}"
            targets.append(Target(what, FLAT_LIMIT, ratio(used[most], used[few])))
    return targets


def _pick(cell: dict, name: str) -> dict:
    return cell["contestants"].get(name, {})


def rows(cells: list[dict]) -> list[list]:
    """One line for each contestant of each cell."""
    made = []
    for cell in cells:
        ours = _pick(cell, "trimtab")
        for name, c in cell["contestants"].items():
            time, why = c.get("time", {}), c.get("skipped")
            made.append(
                [
                    *(f"{cell['vocab']}x{cell['width']}", cell["tokens"], cell["loss"], name),
                    *(why or time.get("seconds"), ratio(ours.get("time", {}).get("seconds"), time.get("seconds"))),
                    time.get("faulted_gib"),
                    *(c.get("memory_mib"), ratio(ours.get("memory_mib"), c.get("memory_mib"))),
                ]
            )
    return made


def tuned(size: Size, tokens: int, loss: str, patience: float) -> dict:
    """Seconds and MiB of a step for sizes of blocks and slices, and the fastest of those within the limit of memory."""
    from trimtab.core import vocab

    x, found = Inputs.make(size, tokens), []
    kept = vocab.BLOCK_TOKENS, vocab.SLICE_BYTES
    scale, started = (1 if DEVICE.type == "cpu" else vocab.CUDA_SCALE), time.perf_counter()
    try:
        for block, mib in product(BLOCKS, SLICES):
            if found and time.perf_counter() - started > patience:
                break
            vocab.BLOCK_TOKENS, vocab.SLICE_BYTES = block, mib * MIB // scale
            try:
                seconds = alternate({"trimtab": partial(step, "trimtab", x, loss)}, 1, 0.0)["trimtab"].median
                used = peak_bytes(partial(step, "trimtab", x, loss))
            except torch.OutOfMemoryError:
                continue
            found.append({"block_tokens": block, "slice_mib": mib, "seconds": seconds, "mib": round(used / MIB, 1)})
    finally:
        vocab.BLOCK_TOKENS, vocab.SLICE_BYTES = kept
    fits = [one for one in found if one["mib"] * MIB <= GPU_LIMIT * GIB]
    best = min(fits, key=lambda one: one["seconds"]) if fits else None
    now = {"block_tokens": kept[0], "slice_mib": scale * kept[1] // MIB}
    return {"loss": loss, "tokens": tokens, "size": str(size), "now": now, "best": best, "tried": found}


HEADERS = ["VxD", "tokens", "loss", "contestant", "s", "trimtab / it", "GiB faulted in", "peak MiB", "trimtab / it"]


GPU_SIZES, GPU_TOKENS = (Size(151936, 4096),), (8192,)


def main() -> None:
    global DEVICE
    made = parser(__doc__)
    made.add_argument("--sizes", nargs="+", type=Size.parse, help="vocabulary x width, such as 49152x576")
    made.add_argument("--tokens", nargs="+", type=int)
    made.add_argument("--losses", nargs="+", choices=LOSSES)
    made.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    made.add_argument("--measure", nargs="+", choices=("time", "memory"), default=["time", "memory"])
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: results go to <card>/")
    made.add_argument("--tune", action="store_true", help="also try sizes of blocks and slices, and write the best")
    made.add_argument("--budget", type=float, default=float("inf"), help="seconds, after which nothing more begins")
    args = made.parse_args()
    args.repeats = args.repeats or (1 if args.quick else 3)
    usual = (GPU_SIZES, GPU_TOKENS) if args.device == "cuda" else (SIZES, TOKENS)
    if args.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("error: torch sees no GPU here; leave --device out for the CPU")
        DEVICE, args.tune = torch.device("cuda"), True
        torch.cuda.init()
        args.results_dir /= card()
    sizes = args.sizes or (QUICK_SIZES if args.quick else usual[0])
    tokens = args.tokens or (QUICK_TOKENS if args.quick else usual[1])
    losses = args.losses or (QUICK_LOSSES if args.quick else LOSSES)
    started = time.monotonic()
    result = {"signature": signature(), "dtype": "float32", "seed": SEED, "same_loss": {}, "cells": [], "tuned": []}
    if args.device == "cuda":
        result["tf32"] = torch.backends.cuda.matmul.allow_tf32
    for size in sizes:
        try:
            errors = in_fresh_process(check, size, LOSSES if args.quick else losses, args.contestants)
        except Different as error:
            sys.exit(f"error: {error}")
        result["same_loss"][str(size)] = errors
        tell(f"{size}: all contestants compute the same losses and gradients")
    path = None
    for size, number, loss in product(sizes, tokens, losses):
        if time.monotonic() - started > args.budget:
            tell(f"{size}, {number} tokens, {loss}: not run, the budget is spent")
            continue
        tell(f"{size}, {number} tokens, {loss}")
        result["cells"].append(measure(size, number, loss, args))
        targets = unjudged(judge(result["cells"])) if args.quick else judge(result["cells"])
        path = write("head_and_loss", args, result, targets)  # after each cell: a run that is stopped is not lost
    for size, number, loss in product(sizes, tokens, losses) if args.tune else ():
        left = args.budget - (time.monotonic() - started)
        if left > 0:
            tell(f"{size}, {number} tokens, {loss}: sizes of blocks and slices")
            share = min(left, 5.0 if args.quick else 60.0)
            result["tuned"].append(in_fresh_process(tuned, size, number, loss, share))
            path = write("head_and_loss", args, result, targets)
    if path is None:
        sys.exit("error: the budget was spent before anything was measured")
    print(table(HEADERS, rows(result["cells"])), "\n")
    for one in result["tuned"]:
        print(f"{one['size']}, {one['tokens']} tokens, {one['loss']}: best {one['best']}, now {one['now']}")
    print(*targets, path.name, sep="\n")


if __name__ == "__main__":
    main()
