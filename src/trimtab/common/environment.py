"""Versions and hardware, for signatures."""

import os
import platform
from importlib.metadata import version

import torch


def environment() -> dict[str, str]:
    """Versions and hardware, for signatures."""
    libraries = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "versions": ", ".join(f"{name} {version(name)}" for name in libraries),
        "hardware": f"{device}; {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
