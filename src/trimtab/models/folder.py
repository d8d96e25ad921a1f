"""Diagnoses what is wrong with a model's folder from its files, to replace the message of a failed loader."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
POINTER = b"version https://git-lfs"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "merges.txt", "tekken.json",
)  # fmt: skip
SETTINGS_OF_TOKENIZERS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""without another file these are no tokenizer, except with code that comes with the model"""
_SHOWN = 3


def weights_fault(folder: Path) -> str | None:
    """Why no weights can be read from a folder; None if its files are complete."""
    return next(_weights(folder), None)


def tokenizer_fault(folder: Path) -> str | None:
    """Why no tokenizer can be read from a folder; None if its files are complete."""
    return next(_tokenizer(folder), None)


def config_fault(folder: Path) -> str | None:
    """Why a folder's config cannot be read; None if it is complete."""
    path = folder / "config.json"
    if (fault := next(_text(path), None)) is not None or not path.is_file():
        return fault
    if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
        return f"{path.name} is not a JSON object; copy it again"
    return None


def shown(names: list[str]) -> str:
    """The first few of many names, and how many there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _weights(folder: Path) -> Iterator[str]:
    yield from _dangling(sorted(folder.glob("*.safetensors*")))
    yield from _text(folder / "config.json")
    names = [WEIGHTS] if (folder / WEIGHTS).is_file() else []
    if not names and (folder / INDEX).is_file():
        yield from _text(folder / INDEX)
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            yield f"{INDEX} holds no weight_map from names of tensors to files; copy the folder again"
            return
        names = sorted(set(shards.values()))
        if gone := [name for name in names if not (folder / name).is_file()]:
            yield f"{INDEX} names {shown(gone)}, which the folder lacks; copy the folder again, with all files"
    if not names:
        yield _without_weights(folder)
    found: set[str] = set()
    for name in names:
        yield from _safetensors(folder / name, found)
    if gone := holes(found):
        yield f"it lacks {len(gone)} of its experts' tensors: {shown(gone)}; use the complete folder"


def holes(names: Iterable[str]) -> list[str]:
    """Names of tensors that one expert of a layer has and another one lacks."""
    experts: dict[str, set[str]] = defaultdict(set)
    parts: dict[str, set[str]] = defaultdict(set)
    names = set(names)
    for name in names:
        if found := re.fullmatch(r"(.*\bexperts\.)(\d+)(\..*)", name):
            experts[found[1]].add(found[2])
            parts[found[1]].add(found[3])
    whole = (f"{layer}{i}{part}" for layer, ids in experts.items() for i in ids for part in parts[layer])
    return sorted(set(whole) - names)


def _without_weights(folder: Path) -> str:
    if pickles := sorted(
        path.name for kind in PICKLES for path in folder.glob(kind) if path.name != "training_args.bin"
    ):
        return (
            f"its weights are pickles ({shown(pickles)}), which can run code when they are loaded; only safetensors "
            "are read here: if you trust it, load the folder with transformers and save it with save_pretrained"
        )
    if found := sorted(path.name for path in folder.glob("*.gguf")):
        return f"its weights are GGUF ({shown(found)}), not safetensors; use the folder that they were converted from"
    if found := sorted(path.name for path in folder.glob("*.safetensors")):
        return f"it has {shown(found)}, but neither {WEIGHTS} nor {INDEX}, which lists the tensors of each file"
    return f"it has no weights ({WEIGHTS}, or {INDEX} and the files it names)"


def _safetensors(path: Path, names: set[str]) -> Iterator[str]:
    """Checks an 8-byte length, a JSON header of that length with the offsets of all tensors, and the tensors; adds
    their names to `names`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(len(POINTER))
        if first.startswith(POINTER):
            yield _pointer(path)
            return
        length = int.from_bytes(first[:8], "little")
        cut = f"{path.name} is cut off ({size:,} bytes"
        if size < 8 + length:
            if length <= 100_000_000:  # the most that the format allows
                yield f"{cut}, and its header alone has {length + 8:,}); copy it again"
            else:
                yield f"{path.name} is not a safetensors file; copy it again"
            return
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [entry["data_offsets"][1] for entry in header.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            yield f"{path.name} is not a safetensors file; copy it again"
            return
    if size < 8 + length + max(ends, default=0):
        yield f"{cut} of {8 + length + max(ends):,}); copy it again"
    names.update(header)


def _tokenizer(folder: Path) -> Iterator[str]:
    yield from _dangling(folder / name for name in TOKENIZER_FILES)
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not found:
        yield "it has no tokenizer (tokenizer.json, or tokenizer.model); save the model's own into it"
    elif not any(path.name not in SETTINGS_OF_TOKENIZERS for path in found):
        yield (
            f"it has settings of a tokenizer ({shown([path.name for path in found])}), but not the tokenizer itself "
            "(tokenizer.json, or tokenizer.model); save the model's own into it"
        )
    for path in found:
        yield from _text(path)
    whole = folder / "tokenizer.json"
    if whole.is_file():
        made = json.loads(whole.read_text(encoding="utf-8"))
        if not isinstance(made, dict) or "model" not in made:
            yield "tokenizer.json is not a tokenizer (it has no key 'model'); save the model's own into the folder"


def _dangling(paths: Iterable[Path]) -> Iterator[str]:
    """Links whose files are gone, as in a cache of the hub that was cleared by hand."""
    for path in paths:
        if path.is_symlink() and not path.exists():
            yield nowhere(path)


def nowhere(link: Path) -> str:
    return f"{link.name} is a broken link ({link.readlink()} does not exist); download the model again"


def _text(path: Path) -> Iterator[str]:
    """Files that Git LFS did not fetch, and invalid JSON."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            yield _pointer(path)
            return
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            yield f"{path.name} is not UTF-8 text (at byte {error.start}); copy it again"
        except json.JSONDecodeError as error:
            yield f"{path.name} is not valid JSON: {error.msg} at line {error.lineno}; copy it again"


def _pointer(path: Path) -> str:
    return f"{path.name} is a Git LFS pointer, not the file itself; run `git lfs pull` in the folder"
