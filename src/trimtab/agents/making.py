"""A roles folder from finished runs: adapters side by side with the name of their base, or whole models."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab.agents.roles import FILE, KINDS, VERSION, adapters_of, check_tokenizers, read_roles
from trimtab.agents.speakers import EndpointSpeaker, RolesError, is_endpoint
from trimtab.common.disk import check_writable
from trimtab.common.errors import looked_in
from trimtab.common.files import write_atomic
from trimtab.common.workdir import RECIPE
from trimtab.models.builtin import BUILTIN
from trimtab.models.folder import TOKENIZER_FILES
from trimtab.models.places import ADAPTER, adapter_at, place_of

BASE = "base"
"""folder of a copied base"""


def make_roles(out: Path, given: Mapping[str, str], *, copy: bool = False, whole: bool = False) -> list[str]:
    """Write a roles folder; on an error nothing is left of it.

    Args:
        out: a new folder.
        given: role -> a finished run, a model, an adapter, or http://HOST/v1#MODEL.
        copy: copy whole models and the base into the folder too; adapters always are.
        whole: take the merged models of runs with adapters.

    Returns:
        What is to be said, a line each.

    Raises:
        RolesError: for roles that do not belong together, or a run of another role.
        ModelNotFound: for what is not there.
    """
    if sorted(given) not in [sorted(kind) for kind in KINDS]:
        raise RolesError(
            f"{', '.join(sorted(given)) or 'nothing'}: a roles folder has --planner, --caller and --summarizer, or "
            "--backbone alone, or --all alone"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RolesError(f"{out} exists; choose another folder, or remove it")
    check_writable(out, RolesError, "choose another folder")
    notes: list[str] = []
    templates: dict[str, str] = {}
    places = {role: _place_in(role, name, whole, templates, notes) for role, name in given.items()}
    local = {role: name for role, name in places.items() if not is_endpoint(name)}
    check_tokenizers(local)
    adapters = adapters_of(local, None)
    base = next((adapter.base for adapter in adapters.values()), None)
    for name in given.values():
        if is_endpoint(name):
            EndpointSpeaker.at(name, "")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write(part, places, [*adapters], base, templates, copy)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    read_roles(out)
    kinds = {role: "on a server" if is_endpoint(name) else "a whole model" for role, name in places.items()}
    kinds |= {role: f"an adapter on {_absolute(str(base))}" for role in adapters}
    return [*notes, *(f"{role}: {kind}" for role, kind in kinds.items())]


def roles_of_stages(run: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Roles of a run of stages: planner, caller and summariser where it has all three, or else one model for all.

    Args:
        given: role -> what plays it instead.

    Returns:
        role -> the folder of its stage, or what is given.

    Raises:
        RolesError: if a role is missing, or two stages were trained as it.
    """
    if not run.is_dir():
        raise RolesError(f"--stages {run} is no folder{looked_in(run)}")
    found: dict[str, list[str]] = {}
    for recipe in sorted(run.glob(f"*/{RECIPE}")):
        agent = _agent_of(recipe)
        if agent is not None:
            found.setdefault(str(agent.get("role")), []).append(str(recipe.parent))
    found |= {role: [name] for role, name in given.items()}
    kind = next((one for one in KINDS if all(role in found for role in one) and given.keys() <= set(one)), None)
    if kind is None:
        raise RolesError(
            f"--stages {run}: there are stages for {', '.join(sorted(found)) or 'no role of an agent'}; a roles folder "
            "needs planner, caller and summarizer, or one model for all; finish the run, or name other runs"
        )
    if several := next((role for role in kind if len(found[role]) > 1), None):
        raise RolesError(f"--stages {run}: {' and '.join(found[several])} are both {several}; name one by --{several}")
    return {role: found[role][0] for role in kind}


def _place_in(role: str, name: str, whole: bool, templates: dict[str, str], notes: list[str]) -> str:
    """The model or adapter that a run has made, or what is named itself; the templates that it was trained with."""
    folder = Path(name).expanduser()
    if is_endpoint(name) or not (folder / RECIPE).is_file():
        return name
    agent = _agent_of(folder / RECIPE)
    if agent is None:
        notes.append(f"{name} was not trained by data.agent, so that it may not know what a {role} writes")
    elif agent.get("role") != role:
        raise RolesError(f"{name} was trained as {agent.get('role')}; give it as --{agent.get('role')}")
    else:
        templates |= {key: text for key, text in (agent.get("templates") or {}).items() if role in (key, "all")}
    wanted = [folder / "adapter", folder / "model"]
    found = next((one for one in wanted[whole:] if one.is_dir()), None)
    if found is None:
        raise RolesError(f"{name} is a run without a finished model; finish it with trimtab train ... --resume")
    return str(found)


def _agent_of(recipe: Path) -> dict[str, Any] | None:
    """`data.agent` of a run's recipe."""
    try:
        given = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"].get("agent")
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        raise RolesError(f"{recipe} is not the recipe of a run") from None
    return {"role": given} if isinstance(given, str) else given


def _write(
    part: Path, places: Mapping[str, str], adapters: list[str], base: str | None, templates: dict[str, str], copy: bool
) -> None:
    """All that the folder holds, roles.json last."""
    shown_base = None if base is None else _absolute(base)
    if copy and base is not None:
        shutil.copytree(_local(base), part / BASE)
        shown_base = BASE
    roles = {}
    for role, name in places.items():
        if role in adapters:
            _copy_adapter(Path(place_of(name).path), part / role, f"../{BASE}" if copy else shown_base)
            roles[role] = role
        elif copy and not is_endpoint(name):
            shutil.copytree(_local(name), part / role)
            roles[role] = role
        else:
            roles[role] = name if is_endpoint(name) else _absolute(name)
    made = {"version": VERSION, "format": "text", "base": shown_base, "roles": roles}
    if templates:
        made["templates"] = templates
    write_atomic(part / FILE, json.dumps(made, indent=2, ensure_ascii=False) + "\n")


def _copy_adapter(source: Path, target: Path, base: str | None) -> None:
    if not source.is_dir():
        raise RolesError(f"the adapter {source} is on the hub; download it, and name its folder")
    target.mkdir()
    names = (ADAPTER, "adapter_model.safetensors", "README.md", *TOKENIZER_FILES)
    for path in (source / name for name in names):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    settings = json.loads((target / ADAPTER).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base
    write_atomic(target / ADAPTER, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _absolute(name: str) -> str:
    """A folder by its whole path, so that it is found from everywhere; another model by its name."""
    local = Path(name).expanduser()
    return str(local.resolve()) if name not in BUILTIN and local.is_dir() else name


def _local(name: str) -> Path:
    """A model's files.

    Raises:
        RolesError: for one on the hub.
    """
    place = place_of(name)
    if not Path(place.path).is_dir():
        raise RolesError(
            f"--copy-models: {name} is on the hub, from where it is loaded everywhere; leave out --copy-models"
        )
    if adapter_at(place, name) is not None:
        raise RolesError(f"--copy-models: {name} is an adapter on an adapter; merge one of them")
    return Path(place.path)
