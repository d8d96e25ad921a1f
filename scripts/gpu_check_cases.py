"""The checks of `gpu_checks.py`: name -> function of a `Context` that returns what it saw, or raises."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import tiny
import tiny_folder
import tiny_rollout_runs
from contract import test_methods as battery
from second_device import moved
from tiny_runs import QUIET, cut_off, events, weights
from trimtab.core import IGNORE, Head, TokenBatch, fused_loss
from trimtab.core import weights as weights_of
from trimtab.core.draws import hashed_uniform
from trimtab.models.loading import load_model
from trimtab.models.packing_check import check_packing
from trimtab.objectives.likelihood import Likelihood
from trimtab.runs.parse import parse
from trimtab.runs.run import run

CLOSE = {"rtol": 2e-3, "atol": 2e-5}
FLAT = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


class NotRun(Exception):
    """A check that this machine cannot do."""


@dataclass(frozen=True)
class Context:
    device: torch.device
    tiny: bool
    folder: Path = Path()

    def within(self, folder: Path) -> "Context":
        return replace(self, folder=folder)

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def needs(self, package: str) -> None:
        if importlib.util.find_spec(package) is None:
            raise NotRun(f"{package} is not installed")

    def needs_gpus(self, number: int = 1) -> None:
        if self.on_cpu:
            raise NotRun("on the CPU")
        if torch.cuda.device_count() < number:
            raise NotRun(f"this machine has {torch.cuda.device_count()} GPU")

    def tree(self, method: str = "sft", name: str = "run", **changes: Any) -> dict[str, Any]:
        """A recipe of tiny models, on the device."""
        files = self.folder / "files"
        if not files.exists():
            tiny_rollout_runs.lay_out(files)
        make = tiny_rollout_runs.tree if method in ROLLOUTS else None
        output = self.folder / name
        made = make(files, output, method) if make else tiny_folder.recipe(files, method, output=str(output))
        made["training"] |= {"max_steps": 4, "use_cpu": self.on_cpu, **({} if make else FLAT)}
        for key, value in changes.items():
            made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
        if method not in ("kd", "hpd", *ROLLOUTS) and "policy" not in made["models"]:
            made["models"] = {**made["models"], "policy": str(files / "teacher")}
            for role in ("student", "teacher"):
                made["models"].pop(role, None)
        return made

    def losses(self, tree: dict[str, Any]) -> list[float]:
        """Of a run, by logged step."""
        tree = {**tree, "training": {**tree["training"], "logging_steps": 1}}
        made: Any = parse(tree, "check", "run")
        run(made, console=QUIET)
        found = [event["loss"] for event in events(Path(tree["output"]), "train") if "loss" in event]
        assert found, "the run logged no loss"
        assert all(torch.isfinite(torch.tensor(found))), f"losses {found}"
        return found


ROLLOUTS = ("grpo",)


def apart(one: list[float], other: list[float]) -> float:
    """The largest relative difference."""
    assert len(one) == len(other), f"{len(one)} and {len(other)} logged losses"
    return max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(one, other))


def said(error: float, limit: float) -> str:
    assert error <= limit, f"apart by a relative {error:.2g}, more than {limit:g}"
    return f"apart by {error:.1g}"


# ---------------------------------------------------------------- numbers


def equals_the_cpu(name: str) -> Callable[[Context], str]:
    def case(context: Context) -> str:
        rows, make = battery.rows_for(name), tiny.model
        wanted, gradients, _ = battery.step(name, rows)
        tiny.model = lambda *a, **k: moved(make(*a, **k), context.device)
        try:
            output, found, _ = battery.step(name, type(rows)(*(one.to(context.device) for one in rows)))
        finally:
            tiny.model = make
        torch.testing.assert_close(output.loss.detach().cpu(), wanted.loss.detach(), **CLOSE)
        torch.testing.assert_close({k: one.cpu() for k, one in found.items()}, gradients, **CLOSE)
        return f"loss {output.loss.item():.5f}, {len(found)} gradients, float32"

    return case


def draws(context: Context) -> str:
    row, place = torch.arange(100_000), torch.arange(100_000) % 977
    found = hashed_uniform(3, 5, row.to(context.device), place.to(context.device), 1).cpu()
    assert torch.equal(found, hashed_uniform(3, 5, row, place, 1))
    return "100,000 numbers, to the bit"


def engine(context: Context) -> str:
    tokens, vocab, width = (700, 3000, 32) if context.tiny else (3000, 50_000, 256)
    torch.manual_seed(0)
    hidden, head = torch.randn(tokens, width), torch.nn.Linear(width, vocab, bias=False)
    labels = torch.cat([torch.tensor([IGNORE]), torch.randint(vocab, (tokens,))])[None]
    states, head = hidden.to(context.device).requires_grad_(), head.to(context.device)
    batch = TokenBatch.from_labels(labels.to(context.device))
    loss = fused_loss(Likelihood(), batch, states, Head(head, vocab), weights_of(batch, "token_mean")).loss
    loss.backward()
    mine, head.weight.grad = (states.grad.clone(), head.weight.grad.clone()), None
    plain = states.detach().requires_grad_()
    F.cross_entropy(head(plain), batch.targets).backward()
    torch.testing.assert_close(mine, (plain.grad, head.weight.grad), **CLOSE)
    return f"{tokens} tokens x {vocab} ids"


def tested(context: Context) -> str:
    if context.on_cpu:
        raise NotRun("on the CPU; pytest tests/contract/test_devices.py does it on a second device")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "cuda", "tests/contract/test_devices.py"]  # fmt: skip # noqa: E501
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-300:]
    return done.stdout.splitlines()[-1]


# ---------------------------------------------------------------- runs


def as_on_cpu(method: str, limit: float = 1e-3, **changes: Any) -> Callable[[Context], str]:
    def case(context: Context) -> str:
        there = context.losses(context.tree(method, "there", **changes))
        here = context.tree(method, "here", **changes)
        here["training"] |= {"use_cpu": True}
        return said(apart(there, context.losses(here)), limit)

    return case


def as_plain(limit: float, training: dict[str, Any] | None = None, method: str = "sft", **changes: Any) -> Any:
    """A run with these settings against one without them, on the device."""

    def case(context: Context) -> str:
        plain = context.losses(context.tree(method, "plain"))
        return said(
            apart(context.losses(context.tree(method, "other", training=training or {}, **changes)), plain), limit
        )

    return case


def lora(context: Context) -> str:
    models = {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}}
    tree = context.tree("sft", models=models, training={"learning_rate": 0.5})
    found = context.losses(tree)
    assert (context.folder / "run" / "adapter").is_dir()
    return f"loss {found[0]:.3f} to {found[-1]:.3f}, merged and saved"


def bf16_weights(context: Context) -> str:
    models = {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}, "dtype": "bfloat16"}
    return f"losses {context.losses(context.tree('sft', models=models))[-1]:.3f}"


def fp16(context: Context) -> str:
    from trimtab.common.errors import UserError

    tree = context.tree("sft", training={"fp16": True})
    if not context.on_cpu:
        return f"loss {context.losses(tree)[-1]:.3f}"
    try:
        context.losses(tree)
    except UserError as error:
        return f"refused: {str(error)[:70]}"
    raise AssertionError("fp16 on a CPU was not refused")


def bits(number: int) -> Callable[[Context], str]:
    def case(context: Context) -> str:
        context.needs("bitsandbytes")
        tree = context.tree("kd", models={"teacher_bits": number})
        return f"loss {context.losses(tree)[-1]:.3f}"

    return case


def other_device(context: Context) -> str:
    context.needs_gpus()
    plain = context.losses(context.tree("kd", "plain"))
    return said(apart(context.losses(context.tree("kd", "other", models={"teacher_device": "cpu"})), plain), 1e-3)


def resumed(context: Context) -> str:
    tree = context.tree("hpd", "whole", training={"save_steps": 2})
    context.losses(tree)
    cut_off(context.folder / "whole", context.folder / "again", 2)
    again = {**tree, "output": str(context.folder / "again")}
    again["training"] = {**tree["training"], "logging_steps": 1}
    made: Any = parse(again, "check", "run")
    run(made, resume=True, console=QUIET)
    one, other = weights(context.folder / "whole"), weights(context.folder / "again")
    most = max(float((one[name] - other[name]).abs().max()) for name in one)
    return said(most, 0.0 if context.on_cpu else 1e-5)


def repeated(context: Context) -> str:
    one, other = (context.losses(context.tree("hpd", name)) for name in ("one", "other"))
    return said(apart(one, other), 0.0 if context.on_cpu else 1e-5)


def estimated(context: Context) -> str:
    context.needs_gpus()
    from trimtab.runs.estimate import estimates

    made: Any = parse(context.tree("kd"), "check", "run")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(made, console=QUIET)
    peak, found = torch.cuda.max_memory_allocated() - before, estimates(made)[0].peak(False)[1]
    return f"estimate {found / 1e6:.1f} MB, measured {peak / 1e6:.1f} MB, of a tiny model"


# ---------------------------------------------------------------- attention and generation


def loaded(context: Context, dtype: torch.dtype = torch.float32) -> Any:
    context.tree()  # lays the files out
    return load_model(str(context.folder / "files" / "teacher")).to(context.device, dtype)


def attention(kind: str, packs: bool) -> Callable[[Context], str]:
    def case(context: Context) -> str:
        if kind.startswith("flash"):
            context.needs_gpus()
            context.needs("flash_attn")
        dtype = torch.bfloat16 if kind.startswith("flash") else torch.float32
        model = loaded(context, dtype)
        ids = torch.arange(3, 27, device=context.device).view(2, 12)
        model.set_attn_implementation("eager")
        wanted = model(input_ids=ids).logits.float()
        model.set_attn_implementation(kind)
        if packs:
            check_packing(model, "policy")
            return "rows of a pack do not see each other"
        error = float((model(input_ids=ids).logits.float() - wanted).norm().detach() / wanted.norm().detach())
        return said(error, 2e-2 if dtype == torch.bfloat16 else 1e-4)

    return case


def early(context: Context) -> str:
    from trimtab.decoding._early_exit import early_exit

    model = loaded(context)
    ids = torch.tensor([[5, 6, 7, 8], [0, 9, 10, 11]], device=context.device)
    how = {"attention_mask": (ids != 0).long(), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, custom_generate=early_exit, **how), model.generate(ids, **how))
    return "the tokens of generate"


# ---------------------------------------------------------------- processes and engines


def launched(kind: str) -> Callable[[Context], str]:
    """A launch on all GPUs, or in two processes on the CPU."""

    def case(context: Context) -> str:
        if not context.on_cpu or kind == "--fsdp":
            context.needs_gpus(2)
        if kind == "--zero2":
            context.needs("deepspeed")
        number = 2 if context.on_cpu else torch.cuda.device_count()
        path = context.folder / "many.yaml"
        tree = context.tree("sft", training={"per_device_train_batch_size": 1})
        path.write_text(json.dumps(tree))
        words = [sys.executable, "-m", "trimtab", "launch", str(path), "--devices", str(number), *filter(None, [kind])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-300:]
        line = next(x for x in (Path(tree["output"]) / "signature.txt").read_text().splitlines() if "processes" in x)
        return " ".join(line.split())

    return case


def served(context: Context) -> str:
    from trimtab.engines.vllm import EngineMissing, find_vllm

    try:
        program = find_vllm()
    except EngineMissing as error:
        raise NotRun(str(error).partition(":")[0]) from error
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-200:]
    return f"vLLM {done.stdout.split()[-1]} is found; rollouts through it are tried by `trimtab train tiny_grpo_vllm`"


ALWAYS = ("kd", "hpd", "grpo", "psft", "mcc_kd", "wspo", "ad_kd_language", "dpo")
CASES: dict[str, Callable[[Context], str]] = {
    "draws equal the CPU's": draws,
    "head and loss equal plain logits": engine,
    **{f"{one}: loss and gradients equal the CPU's": equals_the_cpu(one) for one in ALWAYS if one in battery.NAMES},
    "a run of kd equals the CPU's": as_on_cpu("kd"),
    "a run of hpd equals the CPU's": as_on_cpu("hpd", 5e-3),
    "bf16 autocast": as_plain(5e-2, {"bf16": True}),
    "bf16 weights under an adapter": bf16_weights,
    "fp16": fp16,
    "gradient checkpointing": as_plain(1e-4, {"gradient_checkpointing": True}),
    "packing": as_plain(0.5, {"packing": True, "max_length": 64}),
    "an adapter (LoRA)": lora,
    "a cached teacher": as_plain(1e-4, method="kd", models={"teacher_cache": "memory"}),
    "a teacher of 8 bits": bits(8),
    "a teacher of 4 bits": bits(4),
    "a teacher on another device": other_device,
    "resume": resumed,
    "the same run twice": repeated,
    "sdpa attention": attention("sdpa", False),
    "sdpa attention in packs": attention("sdpa", True),
    "flash attention": attention("flash_attention_2", False),
    "flash attention in packs": attention("flash_attention_2", True),
    "generation with early exit": early,
    "a run of grpo": lambda context: f"loss {context.losses(context.tree('grpo'))[-1]:.4f}",
    "the estimate of memory": estimated,
    "DDP": launched(""),
    "FSDP2": launched("--fsdp"),
    "ZeRO-2": launched("--zero2"),
    "vLLM": served,
    "the tests of a second device": tested,
    **{f"{one}: loss and gradients equal the CPU's": equals_the_cpu(one) for one in battery.NAMES if one not in ALWAYS},
    "torch.compile": as_plain(1e-3, {"torch_compile": True}),
}
