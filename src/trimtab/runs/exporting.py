"""Write a run's model as a folder that other software takes: with the dial, at one strength, or as an adapter."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from trimtab.common import fingerprint
from trimtab.common.disk import check_writable, made, writing_to
from trimtab.common.errors import UserError, looked_in
from trimtab.common.files import read_json, write_atomic, write_together
from trimtab.common.workdir import RECIPE
from trimtab.models import folder as model_folder
from trimtab.models.dial import KEY, LIMITS, DialConfig, is_span, read_dial
from trimtab.models.places import ADAPTER
from trimtab.runs import export_card

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""kinds of models (`model_type`) whose exported dial is tested token for token"""
SWEEP = "sweep.json"
"""what `trimtab sweep` has measured"""
CODE = "custom_generate/generate.py"
KINDS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""files of a model and its tokenizer"""
ANOTHER = "choose another OUT"


class ExportError(UserError):
    """A run that cannot be exported in the way that was asked for."""


@dataclass(frozen=True)
class Source:
    """What is exported."""

    model: Path
    """the folder of the trained model"""
    run: Path | None
    """the folder of its run, if that is around it"""
    recipe: dict[str, Any]
    """of the run; empty if it is not known"""

    @property
    def name(self) -> str:
        return str(self.run or self.model)

    @property
    def base(self) -> str | None:
        """The name of the original model; None if it was made by the run."""
        policy = (self.recipe.get("models") or {}).get("policy")
        return policy if isinstance(policy, str) else None

    @property
    def method(self) -> str | None:
        return self.recipe.get("method")


def source_of(place: Path) -> Source:
    """The model of a finished run, or of a folder.

    Raises:
        ExportError: if there is none, its config cannot be read, or the run is not finished.
    """
    place = place.expanduser()
    if not place.is_dir():
        raise ExportError(f"there is no folder {place}{looked_in(place)}; name a run, such as runs/NAME")
    if (place / "config.json").is_file():
        if (fault := model_folder.config_fault(place)) is not None:
            raise ExportError(f"{place}: {fault}")
        run = place.parent if place.name == "model" and (place.parent / RECIPE).is_file() else None
        return Source(place, run, _recipe_of(run))
    if not (place / RECIPE).is_file():
        stages = [str(path.parent) for path in sorted(place.glob(f"*/{RECIPE}"))]
        hint = f"did you mean {' or '.join(stages[-3:])}?" if stages else "name a run, such as runs/NAME"
        raise ExportError(f"{place} is neither a run nor the folder of a model; {hint}")
    from trimtab.runs.folder import is_finished

    if not is_finished(place) or not (place / "model" / "config.json").is_file():
        raise ExportError(f"{place} is not finished; finish it with: trimtab train {place / RECIPE} --resume")
    return Source(place / "model", place, _recipe_of(place))


def _recipe_of(run: Path | None) -> dict[str, Any]:
    if run is None:
        return {}
    try:
        found = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    return found if isinstance(found, dict) else {}


def config_with_dial(source: Source) -> dict[str, Any]:
    """The config of a model that has an inserted layer, of a kind that is supported, and whose files are complete.

    Raises:
        ExportError: naming what is missing.
    """
    from trimtab.models.identity_layer import MARK

    faults = (model_folder.weights_fault, model_folder.tokenizer_fault)
    if not (source.model / ADAPTER).is_file():  # beside quantised weights
        for fault in faults:
            if (found := fault(source.model)) is not None:
                raise ExportError(f"{source.model}: {found}")
    config = read_json(source.model / "config.json")
    if not config.get(MARK):
        way = "add --adapter to write its adapter" if has_adapter(source) else "train one with clm or inra"
        raise ExportError(f"{source.name} has no dial: no layer was inserted into its model; {way}")
    if (source.model / ADAPTER).is_file() or config.get("quantization_config"):
        raise ExportError(f"{source.name}: quantised weights cannot be exported; train without models.load_in")
    if config.get("model_type") not in SUPPORTED:
        raise ExportError(
            f"{source.name}: the dial of a model of kind {config.get('model_type')} cannot be exported; supported are "
            f"{', '.join(SUPPORTED)}. trimtab generate --strength takes every kind"
        )
    return config


def has_adapter(source: Source) -> bool:
    return source.run is not None and (source.run / "adapter" / ADAPTER).is_file()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside OUT that becomes it when all is written, and is removed otherwise.

    Raises:
        ExportError: if OUT exists or cannot be written.
    """
    out = out.expanduser()
    if out.exists() or out.is_symlink():
        raise ExportError(f"{out} exists; {ANOTHER}")
    check_writable(out.parent, ExportError, ANOTHER, shown=out)
    with made(out.parent):
        part = out.with_name(f".{out.name}.{os.getpid()}.part")
        part.mkdir()
        try:
            yield part
            with writing_to(out):
                part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def export_dial(
    source: Source, out: Path, recommended: tuple[float, float] | None = None, *, link: bool = False
) -> DialConfig:
    """Write the folder with the dial; the weights are those of the run, byte for byte.

    Args:
        recommended: [low, high]; by default what the model's config says, or between the two models.
        link: to the weights, in place of a copy.

    Raises:
        UserError: if there is no dial, or the folder has one of another version.
    """
    config = config_with_dial(source)
    before = read_dial(source.model) if KEY in config else DialConfig(())
    dial = DialConfig(
        (inserted_module(source.model),), recommended=recommended or before.recommended,
        base=source.base or before.base, method=source.method or before.method,
    )  # fmt: skip
    with new_folder(out) as part:
        copy_model(source.model, part, link=link)
        write_json(part / "config.json", config | {KEY: dial.tree()})
        code = part / CODE
        code.parent.mkdir()
        code.write_text((files("trimtab.decoding") / "dial" / CODE).read_text(encoding="utf-8"), encoding="utf-8")
        (part / "README.md").write_text(export_card.of_dial(out.name, dial, trained(source)), encoding="utf-8")
    return dial


def measured_beside(source: Source) -> Path:
    """The folder that `trimtab sweep` writes by default."""
    place = source.run or source.model
    place = place if place.name not in ("", "..") else place.resolve()
    return place.with_name(f"{place.name}.sweep")


def weights_of(source: Source) -> str:
    """Fingerprint of the files of weights."""
    return fingerprint.of_files(sorted(source.model.glob("*.safetensors")))


def measured_range(source: Source) -> tuple[float, float] | None:
    """The range that `trimtab sweep` recommends; None if nothing was measured.

    Raises:
        ExportError: if other weights were measured, or the file holds no range.
    """
    path = measured_beside(source) / SWEEP
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or not is_span(found.get("recommended")):
        raise ExportError(f"{path} holds no range; measure again with trimtab sweep --force, or give --range")
    if found.get("weights") != weights_of(source):
        raise ExportError(f"{path} is of other weights; measure them with trimtab sweep --force, or give --range")
    return parse_span(",".join(map(str, found["recommended"])))


def write_recommended(folder: Path, recommended: tuple[float, float]) -> None:
    """Write a range into an exported folder: its config and its model card."""
    dial = read_dial(folder)
    config, card = read_json(folder / "config.json"), folder / "README.md"
    config |= {KEY: replace(dial, recommended=recommended).tree()}
    texts = {folder / "config.json": json.dumps(config, indent=2)}
    if card.is_file():
        before, now = (export_card.range_line(span) for span in (dial.recommended, recommended))
        texts[card] = card.read_text(encoding="utf-8").replace(before, now, 1).rstrip("\n")
    write_together({path: text + "\n" for path, text in texts.items()})


def copy_model(model: Path, out: Path, *, weights: bool = True, config: bool = True, link: bool = False) -> None:
    """Copy a model and its tokenizer, and nothing else that lies there.

    Args:
        weights, config: whether to copy these too.
        link: to the files of weights, in place of copies.
    """
    left = {*(() if config else ("config.json", "generation_config.json")), *(() if weights else (model_folder.INDEX,))}
    kinds = KINDS if weights else KINDS[1:]
    for path in sorted({path for kind in kinds for path in model.glob(kind) if path.is_file()}):
        if path.name in left:
            continue
        if link and path.match(KINDS[0]):
            (out / path.name).symlink_to(path.resolve())
        else:
            with writing_to(out / path.name):
                shutil.copyfile(path, out / path.name)
    if (more := model / "additional_chat_templates").is_dir():
        shutil.copytree(more, out / more.name)


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(tree, indent=2) + "\n")


def inserted_module(model: Path) -> str:
    """The first layer, as `get_submodule` finds it; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trimtab.models.student import find_layers

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    return f"{find_layers(empty, config.get_text_config().num_hidden_layers)[0]}.0"


def trained(source: Source) -> str:
    """The model card of the run, without its front matter; empty if there is none."""
    card = source.model / "README.md"
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    return text.split("---\n", 2)[-1].strip() if text.startswith("---\n") else text.strip()


def parse_span(text: str) -> tuple[float, float]:
    """LOW,HIGH as two numbers.

    Raises:
        ExportError: for anything else.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ExportError(f"--range: {text!r} is not LOW,HIGH; write two numbers, such as -0.5,1.5") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ExportError(f"--range: {text} needs a lower and a higher number")
    if low < LIMITS[0] or high > LIMITS[1]:
        raise ExportError(f"--range: {text} leaves the limits of the dial, {LIMITS[0]:g} to {LIMITS[1]:g}")
    return low, high
