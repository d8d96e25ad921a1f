"""Tell failures of machine, network and libraries from bugs, and describe them in one line."""

import re
import sysconfig
import traceback
from pathlib import Path

from trimtab.common.disk import FULL, reason
from trimtab.common.errors import FailedOutside

MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "DefaultCPUAllocator", "std::bad_alloc")
MACHINE = (
    "CUDA error", "CUDA driver", "CUBLAS", "CUDNN", "cuDNN", "NCCL", "Gloo", "gloo", "DataLoader worker",
    "can't start new thread", "unable to mmap", "unable to open shared memory", "Too many open files",
    "No space left", "os error", "onnection", "timed out", "HIP error",
)  # fmt: skip
"""phrases in torch's errors when the machine, its drivers or its network failed"""
RUST = re.compile(r"\(os error (\d+)\)")
"""in tokenizers' and safetensors' errors of a failed disk: plain exceptions with the system's errno"""
LESS_MEMORY = (
    "lower training.per_device_train_batch_size (and raise gradient_accumulation_steps as much), training.max_length "
    "or eval.batch_size, or set training.gradient_checkpointing: true"
)
OURS = (
    "trimtab", "torch", "transformers", "trl", "peft", "accelerate", "numpy", "safetensors", "tokenizers", "datasets",
)  # fmt: skip
"""packages whose errors count as bugs unless they mention the machine"""
HINT = "TRIMTAB_TRACEBACK=1 shows where"


def said(error: BaseException) -> str | None:
    """One line about a failure of the machine, its network or another library, with a fix if one is known; None if it
    may be a bug."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _holds(text, MEMORY)):
        return f"out of memory ({text or 'of the machine'}): {LESS_MEMORY}"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        room = "; make room" if is_full(error) else ""
        return f"{place}{reason(error, Path(str(error.filename)))}{room}"
    if (number := RUST.search(text)) is not None:
        return f"{text}; make room" if int(number[1]) in FULL else text
    if isinstance(error, RuntimeError) and _holds(text, MACHINE):
        return text
    package = _package(error)
    if package is not None and package not in OURS and not isinstance(error, (AssertionError, NotImplementedError)):
        return f"{package} failed: {type(error).__name__}: {text}"
    return None


def is_full(error: BaseException) -> bool:
    """Whether a disk is full."""
    return isinstance(error, OSError) and error.errno in FULL


def comes_from_outside(error: BaseException) -> bool:
    """Whether an error was raised by a library, not by one of our checks."""
    return isinstance(error, FailedOutside) or _package(error) not in ("trimtab", None)


def _holds(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _package(error: BaseException) -> str | None:
    """The installed package whose code raised it; None for the standard library and the user's own code."""
    ours = Path(__file__).parents[1]
    libraries = {Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib")}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(ours):
            return "trimtab"
        for folder in libraries:
            if path.is_relative_to(folder):
                return path.relative_to(folder).parts[0].removesuffix(".py")
    return None
