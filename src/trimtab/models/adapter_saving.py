"""An adapter as PEFT stores it, with what is not in its weights."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_FACTOR = re.compile(r"\.lora_(embedding_)?([AB])(\.weight)?$")
"""names of an adapter's matrices"""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's file names"""


def remember_initial(policy: Any) -> None:
    """Keep the initial weights of an adapter that took a part out of the base weights, for `save`."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(policy)
    policy._trimtab_initial = {
        name: value.detach().cpu().clone() for name, value in found.items() if _FACTOR.search(name)
    }


def save(policy: Any, folder: Path, base: str | None) -> None:
    """Save the adapter as PEFT does, for the unchanged base weights.

    One that took its initial part out of them (`remember_initial`) is converted as PEFT converts PiSSA, to twice the
    rank: delta W = s (B A - B0 A0).

    Args:
        base: the name of the base model; None if it was not saved anywhere.
    """
    config = policy.peft_config["default"]
    revision = None
    if base is not None and not Path(base).expanduser().is_dir():
        base, _, revision = base.partition("@")
    config.base_model_name_or_path, config.revision = base, revision or None
    policy.save_pretrained(folder)
    if base is None:  # PEFT names the model that the layers came from
        _set_config(folder, base_model_name_or_path=None, revision=None)
    initial = getattr(policy, "_trimtab_initial", None)
    if not initial:
        return
    path = folder / WEIGHTS
    weights = load_file(path)
    for name, before in initial.items():
        now, before = weights[name], before.to(weights[name].dtype)
        pair, dim = ([now, -before], 1) if _FACTOR.search(name)[2] == "B" else ([now, before], 0)  # type: ignore[index]
        weights[name] = torch.cat(pair, dim=dim).contiguous()  # [out, 2r] and [2r, in]
    save_file(weights, path, {"format": "pt"})
    settings = _config(folder)
    scale = 2**0.5 if settings.get("use_rslora") else 2
    _set_config(
        folder,
        r=2 * settings["r"],
        lora_alpha=scale * settings["lora_alpha"],
        init_lora_weights=True,
        rank_pattern={key: 2 * r for key, r in (settings.get("rank_pattern") or {}).items()},
        alpha_pattern={key: scale * a for key, a in (settings.get("alpha_pattern") or {}).items()},
    )


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def _set_config(folder: Path, **changes: Any) -> None:
    text = json.dumps(_config(folder) | changes, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
