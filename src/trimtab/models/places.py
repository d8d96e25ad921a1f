"""Locating a model: a builtin, a folder, a repository on the hub, or an adapter on one of these."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.common import hub
from trimtab.common.errors import looked_in, nearest
from trimtab.models.builtin import BUILTIN, ModelNotFound, builtin_folder, check_wheel
from trimtab.models.folder import INDEX, WEIGHTS, nowhere, shown

ADAPTER = "adapter_config.json"
FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx")
"""endings of files of weights"""
IS_FOLDER = "a model is a folder with config.json, safetensors and a tokenizer, a builtin name, or ORG/NAME on the hub"


@dataclass(frozen=True)
class Place:
    """Arguments of `from_pretrained`."""

    path: str
    """a folder, or a name on the hub"""
    revision: str | None = None
    """branch, tag or commit on the hub"""
    only_cached: bool = False
    """the hub cannot be reached, so only its cache is used"""

    def arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {} if self.revision is None else {"revision": self.revision}
        return {**found, "local_files_only": True} if self.only_cached else found

    def named(self) -> str:
        """As a user writes it."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or a repository, with the name of its base model."""

    place: Place
    base: str
    settings: dict[str, Any]


class OnModel(str):
    """The name of an adapter to use on another base model than the one it names."""

    base: str

    def __new__(cls, adapter: str, base: str) -> "OnModel":
        found = super().__new__(cls, adapter)
        found.base = base
        return found


def place_of(name: str) -> Place:
    """The place of a model. `ORG/NAME@REVISION` is on the hub; a folder may have an @ in its name.

    Raises:
        ModelNotFound: if there is no such folder or repository.
    """
    if name in BUILTIN:
        return Place(str(builtin_folder(name)))
    path = Path(name).expanduser()
    if path.is_dir():
        for link in (path / "config.json", path / ADAPTER):
            if link.is_symlink() and not link.exists():
                raise ModelNotFound(f"the model folder {name} could not be loaded: {nowhere(link)}")
        if not (path / "config.json").is_file() and not (path / ADAPTER).is_file():
            raise ModelNotFound(_no_model(name, path))
        return Place(str(path))
    if path.is_file():
        raise ModelNotFound(f"{name} is a file; {IS_FOLDER}")
    if path.suffix.lower() in FILES and path.parent.is_dir():
        raise ModelNotFound(f"there is no file {name}, and {IS_FOLDER}")
    repository, sign, revision = name.partition("@")
    if name.startswith((".", "/", "~")) or repository.count("/") > 1:
        raise ModelNotFound(f"there is no folder {name}")
    if sign and (not repository or not revision):
        raise ModelNotFound(f"{name!r} is not a revision of a model; write ORG/NAME@REVISION")
    if sign and repository in BUILTIN:
        raise ModelNotFound(f"{name!r}: a builtin model has no revisions; write {repository}")
    if sign and Path(repository).is_dir():
        raise ModelNotFound(f"{name!r}: {repository} is a folder, which has no revisions; write {repository}")
    try:
        reach = hub.reach("models", repository, revision or None)
    except hub.HubError as error:
        raise not_given(name, str(error)) from None
    return Place(repository, revision or None, reach == "unreachable")


def _no_model(name: str, folder: Path) -> str:
    """Why a folder without a config is no model, with the model of the run that it may be."""
    inside = [f"{name.rstrip('/')}/{path.parent.relative_to(folder)}" for path in _models_below(folder)]
    is_run = (folder / "recipe.yaml").is_file() or any(one.endswith("/model") for one in inside)
    if is_run and inside:
        return f"the folder {name} is a run; did you mean {' or '.join(inside[:3])}?"
    if is_run:
        return f"the folder {name} is a run without a finished model; finish it with trimtab train ... --resume"
    said = f"the folder {name} holds no config.json, so it is not a Hugging Face model"
    if found := sorted(path.name for path in folder.glob("*.gguf")):
        return f"{said}; its weights are GGUF ({shown(found)}): use the folder that they were converted from"
    return said


def _models_below(folder: Path) -> list[Path]:
    """Configs of a run's model, else of its stages' models, else of its checkpoints, the newest first."""
    for pattern in ("model/config.json", "*/model/config.json", "checkpoints/checkpoint-*/config.json"):
        if found := sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True):
            return found
    return []


def not_given(name: str, reason: str) -> ModelNotFound:
    """The error for a name that is not a model."""
    hint = nearest(name, BUILTIN, "")
    return ModelNotFound(
        f"could not load the model {name!r}: it is not a builtin model ({', '.join(BUILTIN)}), not a local folder"
        f"{looked_in(name)}, and it could not be fetched from the hub ({reason}){hint and '; ' + hint}"
    )


def check_there(name: str, where: str) -> None:
    """Check that a model exists, without loading it; `where` it is named is for the message."""
    if name in BUILTIN:
        return check_wheel(name)
    try:
        place = place_of(name)
        reason = None if Path(place.path).is_dir() else hub.why_not("models", place.path, place.revision)
    except ModelNotFound as error:
        looked = looked_in(name) if str(error) == f"there is no folder {name}" else ""
        bare = where == "--adapter" and Path(name).expanduser().is_dir()
        raise ModelNotFound(f"{where}: {f'the folder {name} holds no {ADAPTER}' if bare else error}{looked}") from None
    if reason is not None:
        raise ModelNotFound(f"{where}: {not_given(name, reason)}")
    return None


def adapter_at(place: Place, name: str) -> Adapter | None:
    """The adapter at a place; None if it is a whole model.

    Raises:
        ModelNotFound: if it cannot be read, does not name its base model, or a whole model is in the same folder.
    """
    folder = Path(place.path)
    if folder.is_dir():
        path = folder / ADAPTER
        if not path.is_file():
            return None
        if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
            raise ModelNotFound(
                f"the folder {name} has both a whole model and an adapter; move one of them into another folder"
            )
    else:
        from transformers.utils.peft_utils import find_adapter_config_file  # heavy, and not needed to find a folder

        found = find_adapter_config_file(place.path, **place.arguments())
        if found is None:
            return None
        path = Path(found)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
        if isinstance(name, OnModel):
            return Adapter(place, name.base, settings)
    except (ValueError, AttributeError) as error:
        raise ModelNotFound(f"{name}: {ADAPTER} is not valid JSON with settings of an adapter ({error})") from error
    if base is None and (folder.parent / "model" / "config.json").is_file():  # as a run leaves it
        raise ModelNotFound(
            f"the base model of the adapter {name} was made by its run (kept layers, added rows or an added layer) and "
            f"was not saved; use the merged model {folder.parent / 'model'}"
        )
    if not isinstance(base, str) or not base:
        raise ModelNotFound(
            f"the adapter {name} does not name its base model (base_model_name_or_path in {ADAPTER}); use the merged "
            "model, or add the name there"
        )
    beside = folder / Path(base).expanduser()  # an absolute path stays what it is
    if folder.is_dir() and beside.is_dir():
        if beside.resolve() == folder.resolve():
            raise ModelNotFound(f"the adapter {name} names itself as its base model; fix {ADAPTER}")
        return Adapter(place, str(beside), settings)
    return Adapter(place, f"{base}@{revision}" if revision and "@" not in base else base, settings)
