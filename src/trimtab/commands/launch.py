"""Train a recipe in several processes: write the file of accelerate, print the command, and run it."""

import importlib.util
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import typer
import yaml
from pydantic import Field, model_validator

from trimtab.commands.train import RecipeSettings
from trimtab.common.disk import made
from trimtab.common.errors import Interrupted
from trimtab.common.files import write_atomic
from trimtab.common.processes import ZERO_ON_A_CPU, ProcessError
from trimtab.common.settings import SettingsError, Shown


class LaunchSettings(RecipeSettings):
    """How many devices, and what of a training they split."""

    alone = True
    words: ClassVar[str] = "RECIPE [KEY=VALUE]..."
    devices: Annotated[int, Shown("N")] = Field(ge=2)
    """Number of processes, one for each device."""
    fsdp: bool = False
    """Split weights, gradients and optimizer states (FSDP2); on GPUs only."""
    zero2: bool = False
    """Split gradients and optimizer states (DeepSpeed ZeRO-2)."""
    zero3: bool = False
    """Not built: with DeepSpeed ZeRO-3 transformers makes models that are split before they are checked; see --fsdp."""
    resume: bool = False
    """Resume an unfinished run of this recipe."""
    edited: bool = False
    """With --resume: accept that your code (a reward, a method) was edited since."""
    dry_run: bool = False
    """Print the file, the command and an estimate of the memory that each device needs, and exit."""
    gpu_memory: Annotated[float | None, Shown("GB")] = Field(None, gt=0)
    """With --dry-run: estimate for GPUs with so many GB each (of 10^9 bytes), which this machine need not have."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        chosen = [flag for flag in ("fsdp", "zero2", "zero3") if getattr(self, flag)]
        if len(chosen) > 1:
            raise SettingsError(f"{' and '.join(f'--{one}' for one in chosen)} exclude each other; leave one out")
        if self.gpu_memory is not None and not self.dry_run:
            raise SettingsError("--gpu-memory: a run takes the devices that are there; add --dry-run")
        if self.edited and not self.resume:
            raise SettingsError("--edited: a new run takes the code as it is; leave it out, or add --resume")
        return self

    @property
    def kind(self) -> str:
        """In the words of `Wrapping.kind`."""
        return "FSDP2" if self.fsdp else "ZeRO-2" if self.zero2 else "ZeRO-3" if self.zero3 else "DDP"


SETTINGS = LaunchSettings


def main(settings: LaunchSettings) -> None:
    """Launch, and end with the exit code of the training."""
    from trimtab.common.terminal import quiet
    from trimtab.runs.early import check_outputs, check_places
    from trimtab.runs.parse import load_recipe

    def first(runs: Sequence[Any]) -> None:
        check_places(runs)
        if not settings.dry_run:
            check_outputs(runs, settings.resume)

    quiet()
    loaded = load_recipe(settings.recipe, settings.overrides, first=first)
    try:
        gpus, missing = check_machine(settings.devices, settings.kind), ""
    except ProcessError as error:
        if not settings.dry_run or settings.kind == "ZeRO-3":
            raise
        gpus, missing = settings.devices, f"# not on this machine: {error}\n"
    if settings.gpu_memory is not None and gpus == 0:
        gpus, missing = settings.devices, "# not on this machine: it has no GPU\n"
    check_rollouts(loaded, settings.kind)
    output = Path(loaded.output)
    file = output.with_name(f"{output.name}.accelerate.yaml")
    text = yaml.safe_dump(accelerate_file(settings.devices, settings.kind, on_cpu=gpus == 0), sort_keys=False)
    given, command = command_of(settings, file, on_cpu=gpus == 0)
    words = [f"{name}={value}" for name, value in given.items()]
    said = shlex.join([*words, *command])
    if settings.dry_run:
        from trimtab.commands.memory_table import commented
        from trimtab.runs.estimated_split import Split

        split = Split(settings.devices, settings.kind, "cuda" if gpus else None)
        typer.echo(f"# {file}\n{text}# {said}\n{missing}{commented(loaded, split, settings.gpu_memory)}", nl=False)
        return
    with made(file.parent):
        write_atomic(file, text)
        typer.echo(f"{settings.kind} in {settings.devices} processes, see {file}; running: {said}")
        try:
            code = run(["env", *words, *command] if words else command)
        finally:
            if not output.exists():  # nothing was begun
                file.unlink(missing_ok=True)
    raise typer.Exit(code)


def check_rollouts(loaded: Any, kind: str) -> None:
    """Refuse split weights where completions are sampled, before any process is started.

    Raises:
        ProcessError: naming the run.
    """
    for run in getattr(loaded, "stages", None) or [loaded]:
        if run.reward and kind != "DDP":
            raise ProcessError(
                f"{run.output}: method {run.method} samples completions with the whole policy, and trains under DDP "
                f"alone, not {kind}; leave out --fsdp and --zero2"
            )


def check_machine(devices: int, kind: str) -> int:
    """Check that the machine can do what is asked.

    Returns:
        The number of its GPUs.

    Raises:
        ProcessError: for FSDP on a CPU, ZeRO-3, ZeRO-2 without DeepSpeed, too few GPUs, or a torch without NCCL.
    """
    if kind == "ZeRO-3":
        raise ProcessError(
            "--zero3: with ZeRO-3 transformers makes models that are split from the start, and trimtab checks and "
            "changes whole ones before it trains; use --fsdp, which splits as much, or --zero2"
        )
    if kind.startswith("ZeRO") and importlib.util.find_spec("deepspeed") is None:
        raise ProcessError(
            "--zero2 needs DeepSpeed, which is not installed: pip install deepspeed (with DS_BUILD_OPS=0 in the "
            "environment where there is no CUDA compiler), or leave out --zero2"
        )
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0 and kind == "FSDP2":
        raise ProcessError(
            "--fsdp: accelerate has no FSDP on a CPU and would silently make DDP of it; leave out --fsdp, or start it "
            "on a machine with GPUs"
        )
    if 0 < gpus < devices:
        raise ProcessError(f"--devices {devices}: this machine has {gpus}; give --devices {gpus} or fewer")
    if gpus and not torch.distributed.is_nccl_available():
        raise ProcessError(
            "this torch was built without NCCL, over which GPUs exchange gradients; install a torch for CUDA "
            "(https://pytorch.org/get-started/locally)"
        )
    return gpus


def accelerate_file(devices: int, kind: str, *, on_cpu: bool) -> dict[str, Any]:
    """What `accelerate launch --config_file` reads.

    On a CPU the type is MULTI_GPU with `use_cpu`: accelerate starts a single process of MULTI_CPU.
    """
    types = {"DDP": "MULTI_GPU", "FSDP2": "FSDP", "ZeRO-2": "DEEPSPEED"}
    found: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE", "distributed_type": types[kind]}
    if kind == "FSDP2":
        found["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # the layers that the model's class names
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",  # checkpoints that any number of processes reads
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_offload_params": False,
        }
    if kind.startswith("ZeRO"):
        found["deepspeed_config"] = {
            "zero_stage": int(kind[-1]),
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "zero3_init_flag": False,
        }
    return {
        **found,
        "num_processes": devices,
        "num_machines": 1,
        "machine_rank": 0,
        "main_process_port": 0,  # a free one
        "use_cpu": on_cpu,
        "mixed_precision": "no",  # that of the recipe is set by transformers
    }


def command_of(settings: LaunchSettings, file: Path, *, on_cpu: bool) -> tuple[dict[str, str], list[str]]:
    """Variables of the environment, and the command."""
    zero = settings.kind.startswith("ZeRO")
    given = {"DS_ACCELERATOR": "cpu"} if zero else {"ACCELERATE_USE_CPU": "true"}
    more = [ZERO_ON_A_CPU] if zero and on_cpu else []
    flags = [f"--{name}" for name in ("resume", "edited") if getattr(settings, name)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    train = ["-m", "trimtab", "train", settings.recipe, *settings.overrides, *more, *flags]
    return (given if on_cpu else {}), [*launcher, *train]


def run(command: Sequence[str]) -> int:
    """Run the launcher, without the traceback that it adds to a failure of its processes.

    The first Ctrl-C is passed on to the processes, which stop after their step; a second one ends them at once.

    Returns:
        The exit code of the process that failed first, 0 if none has.

    Raises:
        Interrupted: after Ctrl-C; what is kept was said by the training.
    """
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    interrupts: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        interrupts.append(number)
        if not (number == signal.SIGINT and len(interrupts) == 1 and _interrupt_processes(child.pid)):
            child.terminate()  # which ends its processes

    before = {one: signal.signal(one, pass_on) for one in (signal.SIGINT, signal.SIGTERM)}
    assert child.stderr is not None
    failed: int | None = None
    try:
        for line, code in filtered(child.stderr):
            failed = code
            if len(interrupts) < 2 and signal.SIGTERM not in interrupts:  # then what the launcher says is its own end
                print(line, end="", file=sys.stderr, flush=True)
        child.wait()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if signal.SIGTERM in interrupts:
        return 128 + signal.SIGTERM
    if interrupts:
        raise Interrupted("the processes were stopped")
    code = child.returncode if failed is None else failed
    return code if code >= 0 else 128 - code


FAILED = re.compile(r"torch/distributed/elastic/.*failed \(exitcode: (-?\d+)\)")
OF_LAUNCHER = re.compile(r"^[EWI]\d{4} .*torch/distributed/(elastic|run)")


def filtered(lines: Iterable[str]) -> Iterable[tuple[str, int | None]]:
    """Lines of the processes, without those of the launcher; each with the exit code of the process that failed first,
    as far as it is known. What comes after that is the launcher's traceback."""
    failed: int | None = None
    for line in lines:
        if failed is None and (found := FAILED.search(line)):
            failed = int(found[1])
            yield "", failed
        elif failed is None and not OF_LAUNCHER.search(line):
            yield line, failed


def _interrupt_processes(launcher: int) -> bool:
    """Whether there were any: in its first moments a launcher has none."""
    import psutil

    sent = False
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(launcher).children():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGINT)
                sent = True
    return sent
