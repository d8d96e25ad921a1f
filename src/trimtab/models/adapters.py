"""LoRA through PEFT: what an adapter changes while it trains, and the model that comes out."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from trimtab.common.errors import UserError, nearest
from trimtab.models import kept_layers
from trimtab.models.folder import shown
from trimtab.models.layer_lora import LayerLoraError, as_named, check_learns, within
from trimtab.models.masters import compute_as_stored, own_dtype

NEED_DATA = ("eva", "corda", "lora_ga")
"""Initialisations that PEFT computes from rows in a pass of their own."""


FAILURES = (TypeError, ValueError, RuntimeError, ImportError, AttributeError, KeyError)
"""Ways in which PEFT says that something does not fit."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names of files"""


class AdapterError(UserError):
    """Adapter settings that PEFT does not take, or under which no model could be saved."""


def add_lora(model: PreTrainedModel, settings: dict[str, Any], seed: int, *, only: nn.Module | None = None) -> Any:
    """The model with freshly drawn adapters; its own weights are frozen.

    Args:
        model: with `add_objective_forward` or `add_score_forward` already called; a scalar head is trained as a whole.
        settings: arguments of PEFT's LoraConfig.
        seed: of the draw.
        only: the one layer that gets adapters; None: all.

    Raises:
        AdapterError: in PEFT's words, with the name of the setting's place.
    """
    from peft import LoraConfig, get_peft_model

    check_settings(settings)
    modules = settings.get("target_modules") or ()
    set_seed(seed)
    task = "CAUSAL_LM" if model.get_output_embeddings() is not None else "TOKEN_CLS"  # PEFT trains that head whole
    if str(modules).lower() == "all-linear":
        settings = _without(settings, [*_refused(model), *(_head(model) if task == "TOKEN_CLS" else ())])
    if only is not None:
        try:
            settings = within(model, settings, only)
        except LayerLoraError as error:
            raise AdapterError(f"models.lora.{error}") from error
    try:
        layers = num_layers(model)
        with as_named(model) if only is not None else nullcontext():
            policy = get_peft_model(model, LoraConfig(task_type=task, **settings))
        describe_repeated(policy, layers)
    except FAILURES as error:
        raise AdapterError(f"models.lora: {_reason(error)}") from error
    policy.train(model.training)  # a wrapper begins in the mode of training, whatever it wraps
    try:
        _logits(policy)
    except FAILURES as error:  # of layers that are more than linear ones, or stored transposed
        raise AdapterError(
            f"models.lora: {type(model).__name__} cannot run with adapters in {modules or 'these layers'} "
            f"({_reason(error)}); name other models.lora.target_modules, or another init_lora_weights"
        ) from error
    _check_merge(policy)
    if only is not None:
        _check_only(policy, only)
    return policy


def _check_only(policy: Any, layer: nn.Module) -> None:
    """Adapters in one layer train nothing else, and something."""
    inside = {id(parameter) for parameter in layer.parameters()}
    outside = [n for n, p in policy.named_parameters() if p.requires_grad and id(p) not in inside]
    if outside:
        raise AdapterError(f"models.lora: {shown(outside)} would be trained too, and only the identity layer is")
    tables = [(name, p) for name, p in layer.named_parameters() if p.dim() > 1 and ".lora_" not in name]
    zeros = [name.replace(".base_layer", "").removesuffix(".weight") for name, p in tables if not p.count_nonzero()]
    try:
        check_learns(policy, _raw_logits, zeros)
    except LayerLoraError as error:
        raise AdapterError(f"models.lora: {error}") from error


def check_settings(settings: Mapping[str, Any]) -> None:
    """What can be said of adapter settings without a model.

    Raises:
        AdapterError: naming the setting.
    """
    from peft import LoraConfig

    check_names(settings, {field.name for field in fields(LoraConfig) if field.init})
    modules = settings.get("target_modules") or ()
    if isinstance(modules, list) and "lm_head" in modules:
        raise AdapterError("models.lora.target_modules holds lm_head, which TRL's trainer does not take; leave it out")
    if (init := settings.get("init_lora_weights")) in NEED_DATA:
        raise AdapterError(
            f"models.lora.init_lora_weights={init} is computed from rows before training, which is not built; choose "
            "another, for example pissa or olora"
        )
    for key, (least, most) in RANGES.items():
        value = settings.get(key, least)
        if not isinstance(value, (int, float)) or not least <= value <= most:  # nan lies nowhere
            upto = "" if most == math.inf else f" to {most:g}"
            raise AdapterError(f"models.lora.{key} is {value!r}; give a number from {least:g}{upto}")
    try:
        LoraConfig(**settings)
    except FAILURES as error:
        raise AdapterError(f"models.lora: {_reason(error)}") from error


RANGES = {"r": (1, math.inf), "lora_alpha": (0, math.inf), "lora_dropout": (0, 1)}
"""numbers that PEFT looks at when the model is there, or not at all"""


def num_layers(model: Any) -> int | None:
    """As its config says."""
    return getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)


def describe_repeated(policy: Any, layers: int | None) -> None:
    """Where PEFT has repeated layers, what the config says of each layer follows.

    Args:
        layers: that the model had before.
    """
    for config in policy.peft_config.values():
        if repeated := getattr(config, "layer_replication", None):
            text = policy.get_base_model().config.get_text_config(decoder=True)
            text.num_hidden_layers = layers  # PEFT has counted them, and changed nothing else
            kept_layers.cut(text, [i for start, end in repeated for i in range(start, end)])


def _head(model: PreTrainedModel) -> list[str]:
    """The head that gives scores is trained whole, so that it gets no adapter where all linear layers get one."""
    return ["score" if hasattr(model, "score") else "classifier"]


def _refused(model: PreTrainedModel) -> list[str]:
    """Linear layers, by the ends of their names, that PEFT refuses in this class (Mamba's)."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check

    found = set()
    for end in {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}:
        try:
            check(LoraConfig(), model, end)
        except ValueError:
            found.add(end)
    return sorted(found)


def _without(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings under which modules whose names end like this get no adapter."""
    if not names:
        return settings
    given = settings.get("exclude_modules") or []
    if isinstance(given, str):
        return {**settings, "exclude_modules": f"({given})|(.*\\.)?({'|'.join(names)})"}
    return {**settings, "exclude_modules": [*given, *names]}


ALIASES = {
    "rank": "r", "lora_r": "r", "dim": "r", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "targets": "target_modules", "modules": "target_modules", "layers": "layers_to_transform",
    "init": "init_lora_weights", "rslora": "use_rslora", "dora": "use_dora",
}  # fmt: skip
"""what others call settings of PEFT"""


def check_names(settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises an AdapterError for the first setting that LoraConfig has not, with the one that may be meant."""
    for key in settings:
        if key in known:
            continue
        meant = ALIASES.get(str(key).lower(), str(key))
        said = nearest(meant, known, f"its keys: {', '.join(sorted(known))}")
        raise AdapterError(f"models.lora: PEFT's LoraConfig has no {key!r}; {said}")


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _check_merge(policy: Any) -> None:
    """PEFT merges at the end of training, and finds then that it cannot."""
    for name, module in policy.named_modules():
        biased = getattr(module, "lora_bias", None)
        if isinstance(biased, Mapping) and any(biased.values()) and module.get_base_layer().bias is None:
            raise AdapterError(
                f"models.lora.lora_bias: {name.rpartition('model.')[2]} has no bias that the adapter's could be merged "
                "into; leave it out"
            )


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """As `_raw_logits`, detached."""
    return _raw_logits(model).detach().clone()


def _raw_logits(model: Any) -> Tensor:
    """[1, T, V] of a few tokens, in eval mode; of a model with a scalar head its scores."""
    config = model.config.get_text_config(decoder=True)
    device = next(model.parameters()).device
    ids = (torch.arange(6, device=device)[None] * 37 + 5) % config.vocab_size
    was_training = model.training
    model.eval()
    try:
        return model(input_ids=ids, use_cache=False).logits
    finally:
        model.train(was_training)


def start_logits(model: PreTrainedModel) -> Tensor:
    """What `off_is_start` compares with, of the model before it gets adapters."""
    return _logits(model)


def off_is_start(policy: Any, start: Tensor) -> bool:
    """Whether the policy without its adapter stays the model that it started from, whatever training does.

    Found by trying: everything that is trained is moved, the adapter is switched off, and the logits must be those of
    the start. PiSSA and OLoRA take a part out of the model's own weights; `bias` trains the model's own.

    Args:
        start: of `start_logits`.
    """
    with _moved(policy), policy.disable_adapter():
        return _same(_logits(policy), start)


def base_is_whole(policy: Any, start: Tensor) -> bool:
    """Whether an adapter that was added a moment ago has left the model's own weights alone."""
    with policy.disable_adapter():
        return _same(_logits(policy), start)


def _same(found: Tensor, start: Tensor) -> bool:
    spread = start.float().std().clamp(min=1e-6).item()
    return torch.allclose(found.float(), start.float(), rtol=1e-4, atol=1e-4 * spread)


@contextmanager
def _moved(policy: nn.Module) -> Iterator[None]:
    """Everything that is trained is another for a moment."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    try:
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(1.0)
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(trained, kept):
                parameter.copy_(before)


def merged(policy: Any) -> PreTrainedModel:
    """The model with its adapters added to its weights.

    Where an adapter is on an embedding that the head is tied to, the head keeps the weights that it had in training;
    the two are tied again only if they are still equal.
    """
    base = policy.get_base_model()
    if any(getattr(config, "layer_replication", None) for config in policy.peft_config.values()):
        _untie_layers(base)
    untied = _untie_adapted(base)
    found = policy.merge_and_unload()
    if untied:
        _tie_if_equal(found)
    return found


def _untie_adapted(model: nn.Module) -> bool:
    """Give each name of a weight that is shared, and that an adapter is on, a weight of its own."""
    shared = [group for group in _shared(model) if any(".base_layer." in name for name in group)]
    _untie(model, shared)
    return bool(shared)


def _untie_layers(model: Any) -> None:
    """Give repeated layers, which share their weights while adapters train, weights of their own."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    _untie(model, [group for group in _shared(model) if id(model.get_parameter(group[0])) not in kept])


def _shared(model: nn.Module) -> list[list[str]]:
    """Names of each parameter that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _untie(model: nn.Module, groups: list[list[str]]) -> None:
    for name in [name for group in groups for name in group[1:]]:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        weight = getattr(module, own)
        setattr(module, own, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))


def _tie_if_equal(model: PreTrainedModel) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        return
    if torch.equal(embedding.weight, head.weight):  # type: ignore[arg-type]
        model.tie_weights()
        return
    for config in {id(one): one for one in (model.config, model.config.get_text_config(decoder=True))}.values():
        config.tie_word_embeddings = False
    model.tie_weights()  # recomputes what is tied: nothing


# ---------------------------------------------------------------- saving


_FACTOR = re.compile(r"\.lora_(embedding_)?([AB])(\.weight)?$")
"""an adapter's matrices, by their names in its file"""


def remember_initial(policy: Any) -> None:
    """Keep what an adapter began with, for `save`, where it has taken a part out of the model's own weights."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(policy)
    policy._trimtab_initial = {
        name: value.detach().cpu().clone() for name, value in found.items() if _FACTOR.search(name)
    }


def save(policy: Any, folder: Path, base: str | None) -> None:
    """The adapter as PEFT stores one, on the weights that the model has in its own folder.

    An adapter that has taken its initial part out of those (`remember_initial`) is stored with that part, so that the
    sum is right on the whole weights: delta W = s (B A - B0 A0), with twice the rank, as PEFT converts PiSSA.

    Args:
        base: the name of the model that it belongs on; None where there is no folder of that.
    """
    config = policy.peft_config["default"]
    revision = None
    if base is not None and not Path(base).expanduser().is_dir():
        base, _, revision = base.partition("@")
    config.base_model_name_or_path, config.revision = base, revision or None
    policy.save_pretrained(folder)
    if base is None:  # PEFT names the model that the layers or the rows came from
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


def answers_without(policy: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """As `answers_of`, of a policy whose adapter is lost."""
    with policy.disable_adapter():
        return answers_of(policy, batch)


@torch.no_grad()
def answers_of(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """[N, V] float32 logits at the places of a batch that are no padding; N of a scalar head's scores [N, 1]."""
    was_training = model.training
    model.eval()
    try:
        mask = batch["attention_mask"]
        logits = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
    finally:
        model.train(was_training)
    return logits[mask.bool()].float().cpu()


def same_answers(found: Tensor, wanted: Tensor, without: Tensor, *, rounded: bool = False) -> bool:
    """Whether two ways to the same weights give the same, in float32: apart by little of the logits' spread, and by
    little of what the adapter does, so that an adapter that is lost is seen however little it has learnt.

    Args:
        found: of `answers_of`, as the others.
        wanted: of the trained model.
        without: of it without its adapter.
        rounded: the weights behind `found` were rounded to 8 or 11 bits otherwise, which may hide a small adapter.
    """
    if found.shape != wanted.shape:
        return False
    finite = wanted.isfinite() & found.isfinite() & without.isfinite()
    spread = wanted[finite].std().clamp(min=1e-3)
    if rounded:
        return bool(_apart(found, wanted, finite) <= ROUNDED * spread)
    most = torch.minimum(EXACT * spread, 0.1 * _apart(without, wanted, finite)) + NOISE * spread
    return bool(_apart(found, wanted, finite) <= most)


def _apart(one: Tensor, other: Tensor, where: Tensor) -> Tensor:
    return (one - other)[where].square().mean().sqrt()


EXACT, ROUNDED, NOISE = 1e-3, 5e-2, 1e-5
"""of the root mean square, as shares of the logits' spread"""


def kept_share(found: Tensor, trained: Tensor, without: Tensor) -> float:
    """How much of what an adapter does is left in `found`: 1 for all, 0 for nothing. Noise beside it counts little.

    The projection <found - without, trained - without> / |trained - without|^2.
    """
    finite = trained.isfinite() & found.isfinite() & without.isfinite()
    done, left = (trained - without)[finite].double(), (found - without)[finite].double()
    if done.square().mean().sqrt() <= NOISE * trained[finite].double().std():
        return 1.0
    return float((left * done).sum() / done.square().sum())


_WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save\.default)(?=\.)")
"""what PEFT puts into the names of the model's own tensors"""


def in_float32(policy: Any) -> dict[str, torch.dtype]:
    """Compute in float32 from now on, with the same weights; a model for which the GPU has no room goes to the CPU.

    Returns:
        The dtypes that the tensors of the model below had, by their names without an adapter, for `in_own_dtypes`.
    """
    base, device = policy.get_base_model(), next(policy.parameters()).device
    had: dict[str, torch.dtype] = {}
    for name, value in (*base.named_parameters(remove_duplicate=False), *base.named_buffers(remove_duplicate=False)):
        if "modules_to_save" not in name:
            had[_WRAPPED.sub("", name)] = own_dtype(value)
    size = 4 * sum(value.numel() for value in policy.parameters())
    if device.type == "cuda" and policy.dtype != torch.float32 and torch.cuda.mem_get_info(device)[0] < 2 * size:
        policy.to("cpu")
    policy.float()
    compute_as_stored(policy)
    return had


@torch.no_grad()
def in_own_dtypes(model: PreTrainedModel, had: Mapping[str, torch.dtype]) -> PreTrainedModel:
    """The merged model in the dtypes of `in_float32`, in place."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        value.data = value.data.to(had.get(name, value.dtype))
    return model
