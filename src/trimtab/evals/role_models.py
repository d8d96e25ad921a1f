"""The models of a roles folder, or one model that plays them all, as who answers the prompts of a suite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.agents.roles import FILE, Roles, RolesFile, check_tokenizers, load_roles, read_roles
from trimtab.agents.speakers import EndpointSpeaker, LocalModel, LocalSpeaker
from trimtab.common.errors import Unanswered
from trimtab.data.agent_roles import ROLES, prompter_of
from trimtab.evals.models import HFModel, Reply
from trimtab.evals.suite import SPEAKER, Messages, SuiteError
from trimtab.models import loading
from trimtab.models.inference import LoadOptions, load_for_inference
from trimtab.models.limits import Limits

SUITE = "tools"
"""the one suite that roles answer"""


@dataclass(frozen=True)
class RolesAsked:
    """A roles folder whose models are yet to be loaded."""

    file: RolesFile
    tokenizer: Any
    limits: Limits

    @property
    def prompt(self) -> str:
        """The suite's prompt that these roles answer."""
        return "backbone" if "backbone" in self.file.roles else "roles"

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the suite: the templates that the roles were trained with."""
        return {"templates": dict(self.file.templates)} if self.file.templates else {}


def asked_roles(folder: str, suites: Sequence[str], prompt: str | None) -> RolesAsked:
    """A roles folder that is to answer these suites.

    Raises:
        RolesError: naming what is wrong with it.
        SuiteError: if roles do not answer such a suite or prompt, or none of them is loaded here.
    """
    if others := [name for name in suites if name != SUITE]:
        raise SuiteError(f"{folder} is a roles folder, which answers the suite {SUITE} and not {', '.join(others)}")
    file = read_roles(folder)
    tokenizer = check_tokenizers(file.local)
    if tokenizer is None:
        raise SuiteError(f"{folder}: all its roles are on servers; one of them must be loaded here, for its tokenizer")
    known = [loading.limits(name) for name in file.local.values()]
    found = RolesAsked(file, tokenizer, smallest(known))
    if prompt not in (None, found.prompt):
        raise SuiteError(f"{folder} is a roles folder that answers the prompt {found.prompt} and not {prompt}")
    return found


def smallest(known: Sequence[Limits]) -> Limits:
    """What all models can read."""
    places = min((one.places for one in known if one.places is not None), default=None)
    trained = min((one.trained for one in known if one.trained is not None), default=None)
    return Limits(min(one.vocab for one in known), places, trained)


def roles_on(model: HFModel, prompt: str, templates: Mapping[Any, str]) -> Roles:
    """A model that plays all roles, or in one text."""
    owner = LocalModel(model.model, model.tokenizer, model.name)
    names = ("backbone",) if prompt == "backbone" else ROLES
    speakers: Any = {name: LocalSpeaker(owner) for name in names}
    return Roles(speakers, prompter_of(model.tokenizer, templates), model.name)


def load_agent(name: str, how: LoadOptions | None = None) -> Roles:
    """A roles folder, or one model that plays all in one text.

    Raises:
        RolesError, ModelNotFound: for what cannot be loaded.
    """
    if (Path(name).expanduser() / FILE).is_file():
        return load_roles(name, how, context=None)
    return roles_on(HFModel(load_for_inference(name, how), loading.load_tokenizer(name), name), "backbone", {})


class RolesModel:
    """Roles that answer each prompt whose message names them.

    Args:
        how: of `HFModel`, for those that are loaded here.
    """

    def __init__(self, roles: Roles, *, seed: int = 0, batch: int = 32, **how: Any):
        self.roles, self.name, self.seed, self.batch = roles, roles.name, seed, batch
        self.local = {role: one for role, one in roles.speakers.items() if isinstance(one, LocalSpeaker)}
        owners = {id(one.owner): one.owner for one in self.local.values()}
        self.models = {
            key: HFModel(owner.model, owner.tokenizer, owner.name, seed=seed, batch=batch, **how)
            for key, owner in owners.items()
        }
        first = next(iter(self.models.values()))
        self.tokenizer, self.strategy = first.tokenizer, first.strategy
        self.limits = smallest([one.limits for one in self.models.values()])

    @classmethod
    def load(cls, folder: str, how: LoadOptions, **more: Any) -> "RolesModel":
        """Raises:
        RolesError: see `load_roles`.
        """
        return cls(load_roles(folder, how, context=None), **more)

    def facts(self) -> dict[str, str]:
        parts = [one.facts() for one in self.models.values()]
        who = [f"{role} {self._place(one)}" for role, one in self.roles.speakers.items()]
        return {**parts[0], "model": ", ".join(part["model"] for part in parts), "roles": "; ".join(who)}

    def _place(self, speaker: Any) -> str:
        if isinstance(speaker, LocalSpeaker):
            return f"adapter on {speaker.owner.name}" if speaker.adapter else speaker.owner.name
        return f"{speaker.url}#{speaker.model}"

    def answer(self, chats: Sequence[Messages], max_new_tokens: int) -> list[Reply]:
        found: dict[int, Reply] = {}
        by_role: dict[Any, list[int]] = {}
        for place, chat in enumerate(chats):
            by_role.setdefault(chat[0].get(SPEAKER, "backbone"), []).append(place)
        for role, places in by_role.items():
            if role not in self.roles.speakers:
                raise SuiteError(f"{self.name} has no {role}; its roles answer the suite {SUITE} with its own prompt")
            speaker = self.roles.speakers[role]
            asked = [chats[place] for place in places]
            if isinstance(speaker, LocalSpeaker):
                speaker.owner.use(speaker.adapter)
                said = self.models[id(speaker.owner)].answer(asked, max_new_tokens)
            else:
                assert isinstance(speaker, EndpointSpeaker)
                said = [self._served(speaker, chat[0]["content"], max_new_tokens) for chat in asked]
            found |= zip(places, said)
        return [found[place] for place in range(len(chats))]

    def _served(self, speaker: EndpointSpeaker, prompt: str, max_new_tokens: int) -> Reply:
        try:
            return Reply(speaker.write(prompt, max_new_tokens=max_new_tokens, temperature=0.0, seed=self.seed).text)
        except Unanswered as error:
            return Reply("", str(error))

    def compare(self, chats: Sequence[Messages], labels: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        raise SuiteError(f"{self.name} is a roles folder, which writes answers; use --mode generate")
