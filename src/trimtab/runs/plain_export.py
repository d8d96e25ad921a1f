"""A run's model without a dial: at one strength as plain weights, or its adapter for PEFT.

The dial mixes logits, z = (1 - s) z_original + s z_aligned, at the end of two different forwards. At s = 0 and s = 1
there is one forward, so those weights exist; between and beyond there are none. Nor are there for the mixture at the
embedding, h = (1 - s) e + s layer(e): scaling what attention and MLP write by s gives e + s A(e) + s M(e + s A(e)), and
the MLP of the layer reads e + A(e). Any other strength is therefore distilled, by TrRa.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from trimtab.common.files import read_json, write_atomic
from trimtab.models.dial import KEY
from trimtab.models.places import ADAPTER
from trimtab.runs import export_card
from trimtab.runs.exporting import (
    ExportError,
    Source,
    config_with_dial,
    copy_model,
    has_adapter,
    new_folder,
    trained,
    write_json,
)

STEPS, LEARNING_RATE = 200, 2e-5
"""of TrRa, as the paper has them; overridden by KEY=VALUE"""
KEPT = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "bf16", "fp16", "max_grad_norm",
    "gradient_checkpointing", "save_steps", "save_total_limit", "logging_steps", "chat_template_kwargs",
)  # fmt: skip
"""training arguments of the run that its distillation has too"""


def export_exact(source: Source, out: Path, strength: float) -> str:
    """Write plain weights at strength 0 (the original model) or 1 (with one layer more).

    Returns:
        How they were made, in words.
    """
    from trimtab.models.identity_layer import MARK

    assert strength in (0, 1)
    config = config_with_dial(source)
    if strength == 1:
        how = "exact: the trained layer is one more layer of the model"
        with new_folder(out) as part:
            copy_model(source.model, part)
            write_json(part / "config.json", {k: v for k, v in config.items() if k not in (MARK, KEY)})
            _card(part, out, source, strength, how)
        return how
    from trimtab.models import loading
    from trimtab.models.student import keep_layers

    how = "exact: the original model, without the trained layer"
    model = loading.load_model(str(source.model), dtype="auto")
    original = keep_layers(model, range(1, model.config.get_text_config().num_hidden_layers))
    for name in (MARK, KEY):
        if hasattr(original.config, name):
            delattr(original.config, name)
    with new_folder(out) as part:
        copy_model(source.model, part, weights=False)
        original.save_pretrained(part)
        _card(part, out, source, strength, how)
    return how


def distillation(source: Source, out: Path, strength: float) -> dict[str, Any]:
    """The recipe by which TrRa trains the original model to be the mixture of this strength.

    Raises:
        ExportError: if the run does not say what it was trained on.
    """
    config_with_dial(source)
    if source.base is None or not isinstance(source.recipe.get("data"), dict):
        raise ExportError(
            f"{source.name}: strength {strength:g} has no plain weights and has to be distilled, for which the "
            "original model and the rows are needed: name a run whose models.policy is the name of a model"
        )
    before = source.recipe.get("training") or {}
    training = {key: before[key] for key in KEPT if before.get(key) is not None}
    return {
        "method": "trra",
        "models": {
            "policy": source.base,
            "reference": source.base,
            "aligned": str(source.model),
            "dtype": (source.recipe["models"]).get("dtype", "float32"),
        },
        "data": {key: value for key, value in source.recipe["data"].items() if value is not None},
        "options": {"strength": strength},
        "training": {
            **training, "max_steps": STEPS, "learning_rate": LEARNING_RATE, "lr_scheduler_type": "cosine",
            "warmup_steps": STEPS // 10,
        },
        "seed": source.recipe.get("seed", 0),
        "output": str(beside(out, "trra")),
    }  # fmt: skip


def beside(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.name}.{suffix}")


def export_distilled(
    source: Source, out: Path, strength: float, overrides: Sequence[str] = (), console: Console | None = None
) -> str:
    """Distil the mixture of this strength in a run of its own, OUT.trra, and write its model to OUT.

    The run's recipe is OUT.trra.yaml. A run that was stopped goes on when the same call is made again.

    Returns:
        How the weights were made, in words.
    """
    from trimtab.runs.early import check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.run import run

    tree = distillation(source, out, strength)
    file, folder = beside(out, "trra.yaml"), beside(out, "trra")
    new = not file.exists()
    write_atomic(file, yaml.safe_dump(tree, sort_keys=False))
    try:
        recipe: Any = load_recipe(str(file), overrides, first=check_places)
        run(recipe, resume=(folder / "recipe.yaml").exists(), console=console or Console(quiet=True))
    finally:
        if new and not folder.exists():
            file.unlink(missing_ok=True)
    how = f"distilled by TrRa (arXiv:2506.12704), which comes close and is not exact: see {folder}/report.html"
    with new_folder(out) as part:
        copy_model(folder / "model", part)
        _card(part, out, source, strength, how)
    return how


def export_adapter(source: Source, out: Path) -> str:
    """Write the adapter of a run for PEFT, whose base is a model that can be loaded by name.

    Returns:
        The name of the base model.

    Raises:
        ExportError: if PEFT cannot express what was trained.
    """
    from trimtab.models.identity_layer import MARK

    config = source.model / "config.json"
    if config.is_file() and read_json(config).get(MARK):
        raise ExportError(
            f"{source.name}: PEFT cannot express an inserted layer: an adapter changes modules that the base model "
            "has, and this layer is one that it lacks; leave out --adapter"
        )
    if not has_adapter(source):
        raise ExportError(f"{source.name} has no adapter: it was trained without models.lora")
    assert source.run is not None
    base = read_json(source.run / "adapter" / ADAPTER).get("base_model_name_or_path")
    if not base:
        raise ExportError(
            f"{source.name}: the base model of its adapter was made by the run and was not saved, so that PEFT cannot "
            f"load it; {source.model} is the whole model"
        )
    with new_folder(out) as part:
        shutil.copytree(source.run / "adapter", part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.bin"))
        copy_model(source.model, part, weights=False, config=False)
        (part / "README.md").write_text(export_card.of_adapter(out.name, base, trained(source)), encoding="utf-8")
    return base


def _card(part: Path, out: Path, source: Source, strength: float, how: str) -> None:
    card = export_card.of_plain(out.name, source.name, strength, how, trained(source))
    (part / "README.md").write_text(card, encoding="utf-8")
