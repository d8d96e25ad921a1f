"""A roles folder: planner, caller and summariser as adapters on one base, as whole models, or as one model that plays
all; any of them may be on a server.

`roles.json` says where each is: {"version": 1, "format": "text", "base": MODEL, "roles": {"planner": PLACE, ...},
"templates": {...}}. Places are relative to the folder, or names of models, or http://HOST/v1#MODEL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.agents.speakers import EndpointSpeaker, LocalModel, LocalSpeaker, RolesError, Speaker, is_endpoint
from trimtab.common.errors import looked_in, nearest
from trimtab.common.files import loads, read_text
from trimtab.data.agent_roles import ROLES, AgentRole, Prompter, prompter_of
from trimtab.data.sources import DataError
from trimtab.models import loading
from trimtab.models.adapter_models import UNFAITHFUL, weights_of
from trimtab.models.inference import LoadOptions, load_for_inference
from trimtab.models.places import Adapter, adapter_at, place_of
from trimtab.models.tokenizers import TokenizerMismatch, check_same_tokens

FILE, VERSION = "roles.json", 1
KEYS = ("version", "format", "base", "roles", "templates", "end")
ALL = "all"
"""one model that is asked as each of the three"""
KINDS = (ROLES, ("backbone",), (ALL,))
"""which roles a folder may hold"""
END = "</s>"
"""what ends a turn where all roles are on servers, whose tokenizers are not known"""


@dataclass(frozen=True)
class RolesFile:
    """What a roles.json says."""

    folder: Path
    roles: Mapping[str, str]
    """role -> the name of a model or of an adapter, or an address"""
    base: str | None = None
    """the model of the adapters"""
    templates: Mapping[Any, str] | None = None
    end: str = END

    @property
    def local(self) -> dict[str, str]:
        """Roles whose models are loaded here."""
        return {role: name for role, name in self.roles.items() if not is_endpoint(name)}


@dataclass(frozen=True)
class Roles:
    """Who plans, calls and sums up, or does all in one."""

    speakers: Mapping[AgentRole, Speaker]
    """planner, caller and summarizer, or backbone"""
    prompter: Prompter
    name: str = "roles"

    @property
    def single(self) -> bool:
        """Whether one model writes thought and call in one."""
        return "backbone" in self.speakers


def read_roles(folder: str | Path) -> RolesFile:
    """The roles.json of a folder.

    Raises:
        RolesError: naming what is wrong with it.
    """
    folder = Path(folder).expanduser()
    path = folder / FILE
    if not path.is_file():
        there = "holds no roles.json" if folder.is_dir() else f"is no folder{looked_in(folder)}"
        raise RolesError(
            f"{folder} {there}; make a roles folder of finished runs: trimtab agent roles {folder} --planner RUN "
            "--caller RUN --summarizer RUN, or --backbone RUN for one model"
        )
    try:
        given = loads(read_text(path), str(path))
    except DataError as error:
        raise RolesError(str(error)) from None
    if not isinstance(given, dict):
        raise RolesError(f"{path} is no mapping with version, roles and base; make it with trimtab agent roles")
    if given.get("version") != VERSION:
        raise RolesError(
            f"{path} is of version {given.get('version')!r}, and this trimtab reads version {VERSION}; make the folder "
            "again with trimtab agent roles"
        )
    if (other := next((key for key in given if key not in KEYS), None)) is not None:
        hint = nearest(str(other), KEYS, f"its keys: {', '.join(KEYS)}")
        raise RolesError(f"{path} has the key {other!r}; {hint}")
    if given.get("format") != "text":
        raise RolesError(f"{path}: format is {given.get('format')!r}, and only 'text' is known, alpha-UMi's")
    roles, base = given.get("roles"), given.get("base")
    known = isinstance(roles, dict) and any(sorted(kind) == sorted(roles) for kind in KINDS)
    if not isinstance(roles, dict) or not known or not all(isinstance(one, str) and one for one in roles.values()):
        raise RolesError(f"{path}: roles must name planner, caller and summarizer, or backbone, or all, each by a text")
    if not isinstance(base, str | None):
        raise RolesError(f"{path}: base is {base!r}; it must be the name or folder of a model, or null")
    templates, end = given.get("templates") or {}, given.get("end") or END
    faults = [role for role, text in dict(templates).items() if not isinstance(text, str) or "{history}" not in text]
    if faults:
        raise RolesError(f"{path}: templates.{faults[0]} must be a text with a place for {{history}}")
    placed = {role: _placed(folder, name) for role, name in roles.items()}
    return RolesFile(folder, placed, None if base is None else _placed(folder, base), templates, str(end))


def _placed(folder: Path, name: str) -> str:
    """A place beside roles.json as a path, anything else as it is."""
    beside = folder / Path(name).expanduser()
    return str(beside) if not is_endpoint(name) and beside.is_dir() else name


def load_roles(
    folder: str | Path, how: LoadOptions | None = None, *, reuse: bool = True, context: int | None = 4096
) -> Roles:
    """Roles that can speak: adapters of one base are loaded on one model in memory.

    Args:
        folder: of a roles.json.
        how: models are loaded.
        reuse: each role keeps the keys and values of its last prompt.
        context: most tokens of a prompt and what follows it, 4096 in the paper; a model that reads fewer has its own.

    Raises:
        RolesError: for adapters of another base, roles of different tokenizers, one without an end token.
        ModelNotFound, BrokenModel: for models that cannot be loaded.
    """
    file = read_roles(folder)
    tokenizer = check_tokenizers(file.local)
    prompter = Prompter(file.end, (file.end,), file.templates or {})
    if tokenizer is not None:
        prompter = prompter_of(tokenizer, file.templates)
    adapters = adapters_of(file.local, file.base)
    loaded: dict[str, LocalModel] = {}
    speakers: dict[AgentRole, Speaker] = {}

    def model(name: str) -> LocalModel:
        if name not in loaded:
            assert tokenizer is not None
            loaded[name] = LocalModel(load_for_inference(name, how), tokenizer, name)
        return loaded[name]

    def speaker(role: str) -> Speaker:
        name = file.roles[role]
        if is_endpoint(name):
            return EndpointSpeaker.at(name, prompter.end)
        if role not in adapters:
            return LocalSpeaker(model(name), None, reuse, context)
        owner = model(adapters[role].base)
        owner.add(role, name, [*weights_of(adapters[role])])
        return LocalSpeaker(owner, role, reuse, context)

    for role in file.roles:
        one = speaker(role)
        if role != ALL:
            speakers[role] = one  # type: ignore[index]
            continue
        for each in ROLES:  # each with what it has read
            own = isinstance(one, LocalSpeaker)
            speakers[each] = LocalSpeaker(one.owner, one.adapter, reuse, context) if own else one
    return Roles(speakers, prompter, str(folder))


def adapters_of(local: Mapping[str, str], base: str | None) -> dict[str, Adapter]:
    """Those of the roles that are adapters, each with its base as it is to be loaded.

    Args:
        local: role -> name of a model or an adapter.
        base: that of the folder; None takes that of the adapters.

    Raises:
        RolesError: for an adapter of another base, or of a kind that is not switched.
    """
    found: dict[str, Adapter] = {}
    first: tuple[str, str] | None = None if base is None else ("roles.json", base)
    for role, name in local.items():
        adapter = adapter_at(place_of(name), name)
        if adapter is None:
            continue
        first = first or (f"the {role}", adapter.base)
        if _place(adapter.base) != _place(first[1]):
            raise RolesError(
                f"the {role} is an adapter of {adapter.base}, and {first[0]} is of {first[1]}; train all adapters on "
                "one base, or use the merged models of their runs (--whole)"
            )
        init = adapter.settings.get("init_lora_weights")
        if adapter.settings.get("peft_type") != "LORA" or (isinstance(init, str) and init.startswith(UNFAITHFUL)):
            kind = adapter.settings.get("peft_type") if init in (None, True, False) else f"init_lora_weights={init}"
            raise RolesError(f"the {role} is an adapter of kind {kind}, which cannot be switched; use a merged model")
        found[role] = Adapter(adapter.place, first[1], adapter.settings)
    return found


def _place(name: str) -> tuple[str, str | None]:
    place = place_of(name)
    local = Path(place.path)
    return (str(local.resolve()), None) if local.is_dir() else (place.path, place.revision)


def check_tokenizers(local: Mapping[str, str]) -> PreTrainedTokenizerBase | None:
    """The one tokenizer of all roles; None if all are on servers.

    Raises:
        RolesError: if two differ, or there is no token that ends a turn.
    """
    first: tuple[str, Any, int] | None = None
    for role, name in local.items():
        tokenizer, size = loading.load_tokenizer(name), loading.load_config(name).get_text_config().vocab_size
        if not isinstance(tokenizer.eos_token, str):
            raise RolesError(f"the tokenizer of the {role} ({name}) has no end token, which ends the turns of an agent")
        if first is None:
            first = (role, tokenizer, size)
            continue
        try:
            check_same_tokens(first[1], tokenizer, first[2], size, role)
        except TokenizerMismatch as error:
            said = str(error).replace("policy", first[0])
            raise RolesError(f"roles read each other's turns and need one tokenizer: {said}") from None
        if tokenizer.eos_token != first[1].eos_token:
            raise RolesError(
                f"the {role} ends its turns with {tokenizer.eos_token!r} and the {first[0]} with "
                f"{first[1].eos_token!r}; use models with one end token"
            )
    return None if first is None else first[1]
