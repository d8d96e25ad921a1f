"""The one folder that weights are read from, and which of its files may be read. Knows nothing of vLLM."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "TRIMTAB_WEIGHTS_FOLDER"
"""environment variable of the server: the folder that trainers write weights to"""
SUFFIX = ".safetensors"


def weights_folder() -> Path:
    """The folder that the server was started with.

    Raises:
        ValueError: if the variable is not set, or names no folder.
    """
    given = os.environ.get(FOLDER, "")
    if not given:
        raise ValueError(f"start the server with {FOLDER}=FOLDER, the folder that trainers write weights to")
    folder = Path(given)
    if not folder.is_absolute() or not folder.is_dir():
        raise ValueError(f"{FOLDER}={given} is not an existing folder, given by its absolute path")
    return folder.resolve()


def check_same(folder: Path, asked: str) -> None:
    """Raise a ValueError if a trainer writes to another folder than the server's."""
    if Path(asked).resolve() != folder:
        raise ValueError(f"the trainer writes weights to {asked}, and the server reads them from {folder}")


def check_model(wanted: Mapping[str, Any], config: Any) -> None:
    """Raise a ValueError that names the values in which a trainer's model is not the one of this config."""
    apart = [
        f"{name} is {getattr(config, name, None)} here and {value} in the trainer"
        for name, value in wanted.items()
        if getattr(config, name, None) != value
    ]
    if apart:
        raise ValueError(f"the server has another model: {', '.join(apart)}")


def file_in(folder: Path, name: str) -> Path:
    """The safetensors file of this name, which lies in the folder itself.

    Raises:
        ValueError: for a path, another kind of file, or a link that leads out of the folder.
        FileNotFoundError: if there is no such file.
    """
    if name != Path(name).name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the plain name of a file")
    if not name.endswith(SUFFIX):
        raise ValueError(f"{name!r} is not a {SUFFIX} file, and no other kind is read")
    path = folder / name
    if path.is_symlink() or path.resolve().parent != folder:
        raise ValueError(f"{name!r} leads out of the folder of the weights")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name!r} in the folder of the weights")
    return path
