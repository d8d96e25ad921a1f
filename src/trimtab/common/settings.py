"""The settings of a command: one class, filled by flags, KEY=VALUE words and a YAML file through one parser."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

import typer
from pydantic import ValidationError

from trimtab.common import processes
from trimtab.common.errors import UserError, nearest, wrong_value
from trimtab.common.options import Options
from trimtab.common.yaml_text import parse_value, read_tree

CONFIG = "config"
"""the flag that names a YAML file of settings"""


class SettingsError(UserError):
    """A setting that is unknown, missing, given twice or of the wrong type; or settings that exclude each other."""


@dataclass(frozen=True)
class Shown:
    """Placeholder for a setting's value in the help: Annotated[int, Shown("N")]."""

    metavar: str


@dataclass(frozen=True)
class Bare:
    """Value of a setting whose flag is given alone: Annotated[str, Bare("local", "[a-z]+:[0-9]+")]."""

    value: str
    fits: str
    """pattern of the next word if that is the value"""


class CommandSettings(Options):
    """Base class of a command's settings. The docstring of a field is its help, its name is the flag and the key.

    Words without `=` fill the fields `positional`, of which the last may be a list. KEY=VALUE sets a field, and
    OWNER.KEY=VALUE a setting of a strategy or suite, kept as `options[OWNER][KEY]`.
    """

    positional: ClassVar[tuple[str, ...]] = ()
    rest: ClassVar[str | None] = None
    """field for unparsed KEY=VALUE words: overrides of a recipe"""
    owner: ClassVar[str | None] = None
    """owner of KEY=VALUE without an owner, if the command itself has no such setting"""
    words: ClassVar[str] = ""
    """positional words, for the usage line"""
    complete: ClassVar[Callable[[Any, str], list[str]] | None] = None
    """shell completion of the positional words"""
    alone: ClassVar[bool] = True
    """refuse several processes, which would write the same files"""

    def __init__(self, said: Mapping[str, str] | None = None, /, **given: Any) -> None:
        """`said`: field -> how a command line gave it."""
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _said_of(error, type(self), said or {}) from None

    @classmethod
    def rivals(cls, key: str, given: Mapping[str, Any], plain: Sequence[str]) -> Sequence[str]:
        """OWNER.KEY that a word KEY=VALUE may also mean; `given` and `plain` are flags and words without `=`."""
        return ()

    def owned(self) -> Mapping[str, Sequence[str]]:
        """Owner -> its keys, for owners whose settings are allowed here."""
        return {}

    def check_owned(self) -> Self:
        """Check that settings of strategies and suites belong to selected ones.

        Raises:
            SettingsError: naming a setting of an owner that is not selected.
        """
        known = self.owned()
        for owner, keys in getattr(self, "options", {}).items():
            if owner not in known and keys:
                key = f"{owner}.{next(iter(keys))}"
                there = ", ".join(known) or "none"
                raise SettingsError(f"{key} is a setting of {owner}, which is not selected: {there} is")
        return self


def parse(kind: type[CommandSettings], flags: Mapping[str, Any], words: Sequence[str]) -> CommandSettings:
    """Settings from a command line.

    Args:
        flags: field -> text, True, or a list of texts; None if not given. `config` is a YAML file, which flags
            and words override.
        words: the words besides the flags.

    Raises:
        SettingsError: for a setting that is unknown, missing, given twice, or ambiguous.
    """
    found = _from_file(kind, flags.get(CONFIG))
    said: dict[str, str] = {}
    bare = [word for word in words if "=" not in word]
    for key, value in flags.items():
        if key != CONFIG and value not in (None, [], ()):
            found[key], said[key] = value, flag(key)
    plain: list[str] = []
    kept: list[str] = []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or (Path(word).exists() and len(plain) < len(kind.positional)):
            plain.append(word)
        elif kind.rest is not None:
            kept.append(word)
        else:
            rivals = () if "." in key else kind.rivals(key, flags, bare)
            _set(kind, found, said, key, _value(kind, key, word, value), rivals)
    _place(kind, found, plain)
    if kind.rest is not None and kept:
        found[kind.rest] = kept
    return kind(said, **found)


def flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _said_of(error: ValidationError, kind: type[CommandSettings], said: Mapping[str, str]) -> UserError:
    """The first of pydantic's errors as one line; `said`: field -> how the user wrote it."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", e["type"] != "missing"))
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, UserError):  # from our own validator: the message is complete
        return raised
    key = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] == "extra_forbidden":
        return SettingsError(_unknown(kind, key))
    name = said.get(key, key.upper() if key in kind.positional else flag(key))
    if first["type"] == "missing":
        text = " ".join((kind.model_fields[key].description or "").split()).rstrip(".")
        return SettingsError(f"{name} is missing{f': give {text[0].lower()}{text[1:]}' if text else ''}")
    return SettingsError(f"{name} {wrong_value(first)}")


def _from_file(kind: type[CommandSettings], path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    found: dict[str, Any] = {}
    for key, value in read_tree(Path(path), SettingsError).items():
        if isinstance(value, Mapping) and key not in kind.model_fields:
            for inner, one in value.items():
                _set(kind, found, {}, f"{key}.{inner}", one)
        else:
            _set(kind, found, {}, str(key), value)
    return found


def with_values(kind: type[CommandSettings], words: Sequence[str]) -> list[str]:
    """The words of a command line with the values of flags that are given alone."""
    found = list(words)
    for name, field in kind.model_fields.items():
        bare = next((one for one in field.metadata if isinstance(one, Bare)), None)
        for place in [i for i, word in enumerate(found) if bare and word == flag(name)][::-1]:
            assert bare is not None
            if not re.fullmatch(bare.fits, "".join(found[place + 1 : place + 2])):
                found.insert(place + 1, bare.value)
    return found


def _set(
    kind: type[CommandSettings],
    found: dict[str, Any],
    said: dict[str, str],
    key: str,
    value: Any,
    rivals: Sequence[str] = (),
) -> None:
    """Set one KEY=VALUE, which may also mean one of `rivals`.

    Raises:
        SettingsError: if the key is unknown, given twice, or ambiguous.
    """
    owner, dot, inner = key.strip().rpartition(".")
    name = inner.replace("-", "_")
    known = name in kind.model_fields and name not in (kind.rest, "options")
    meant = [*([flag(name)] if known else []), *rivals]
    if len(meant) > 1:
        raise SettingsError(f"{inner} could mean {' or '.join(meant)}; write one of them in full")
    if rivals and kind.owner is None:
        raise SettingsError(f"unknown setting {key!r}; did you mean {rivals[0]!r}?")
    if not dot and not known and kind.owner is not None:
        owner, dot = kind.owner, "."
    if dot and "options" in kind.model_fields and inner:
        owned = found.setdefault("options", {}).setdefault(owner, {})
        if said.get(f"{owner}.{inner}"):
            raise SettingsError(f"{owner}.{inner} is given twice; give it once")
        owned[inner] = value
        said[f"{owner}.{inner}"] = key
        return
    if dot or not known:
        raise SettingsError(_unknown(kind, key))
    if name in said:
        raise SettingsError(f"{name} is given twice, as {said[name]} and as {key}=; give it once")
    found[name], said[name] = value, key


def _unknown(kind: type[CommandSettings], key: str) -> str:
    known = [name for name in kind.model_fields if name not in (kind.rest, "options", *kind.positional)]
    return f"unknown setting {key!r}; {nearest(key, known, 'settings: ' + ', '.join(known))}"


def _value(kind: type[CommandSettings], key: str, word: str, value: str) -> Any:
    """Parse as YAML; unless the field is a text, so that a model may be called 123."""
    field = kind.model_fields.get(key.strip().replace("-", "_"))
    is_text = field is not None and field.annotation in (str, str | None)
    return value if is_text and value != "null" else parse_value(word, value)


def _place(kind: type[CommandSettings], found: dict[str, Any], plain: Sequence[str]) -> None:
    """Assign words without `=` to the fields `positional`."""
    left = list(plain)
    for name in kind.positional:
        if _is_list(kind, name):
            if left:
                found[name], left = left, []
        elif left:
            found[name] = left.pop(0)
    if left:
        raise SettingsError(f"{left[0]!r} is not a setting; write KEY=VALUE, or see --help")


def _is_list(kind: type[CommandSettings], name: str) -> bool:
    annotation = kind.model_fields[name].annotation
    return any(get_origin(one) in (list, tuple) for one in (annotation, *get_args(annotation)))


# ---------------------------------------------------------------- the command line


def command(name: str, kind: type[CommandSettings], run: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function that typer turns into a command: its options are the fields of the settings."""

    def call(**given: Any) -> Any:
        if kind.alone:
            processes.check_alone(name)
        words = given.pop("words", None) or []
        return run(parse(kind, given, words))

    marks: dict[str, Any] = {}
    if kind.words:
        shown = typer.Argument(metavar=kind.words, help=_meaning(kind), autocompletion=kind.complete)
        marks["words"] = Annotated[list[str] | None, shown]
    own = inspect.get_annotations(kind)
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    for field in sorted(kind.model_fields, key=lambda one: (one not in required, one not in own)):  # shared ones last
        if field not in (*kind.positional, kind.rest, "options"):
            marks[field] = _option(kind, field)
    if kind.rest is None and kind.alone:
        text = "YAML file of settings; flags and KEY=VALUE override it."
        marks[CONFIG] = Annotated[str | None, typer.Option(metavar="FILE.yaml", help=text)]
    keyword = inspect.Parameter.KEYWORD_ONLY
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(key, keyword, default=None, annotation=mark) for key, mark in marks.items()]
    )
    call.__annotations__ = marks
    call.__name__ = name
    return call


def _meaning(kind: type[CommandSettings]) -> str | None:
    """Help of the positional words."""
    texts = (kind.model_fields[name].description for name in (*kind.positional, *filter(None, (kind.rest,))))
    said = [" ".join(text.split()) for text in texts if text]
    if kind.rest is None and "KEY=VALUE" in kind.words:
        owners = "; OWNER.KEY=VALUE sets one of a strategy or a suite" if "options" in kind.model_fields else ""
        said.append(f"KEY=VALUE sets an option, as in seed=1{owners}.")
    return " ".join(said) or None


def _option(kind: type[CommandSettings], name: str) -> Any:
    field = kind.model_fields[name]
    text = " ".join((field.description or "").split())
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(flag(name), help=text or None)]
    shown = next((one.metavar for one in field.metadata if isinstance(one, Shown)), None)
    if shown is None and _is_list(kind, name):
        text = f"{text} May be repeated.".strip()
    shown = shown or _choices(field.annotation) or _placeholder(field.annotation)
    if field.is_required():
        text = f"{text} [required]".strip()
    elif field.default not in (None, (), []) and not field.default_factory:
        text = f"{text} [default: {_shown(field.default)}]".strip()
    given = list[str] | None if _is_list(kind, name) else str | None
    return Annotated[given, typer.Option(flag(name), metavar=shown, help=text or None)]


def _shown(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _placeholder(annotation: Any) -> str:
    """A value's placeholder by its type: N, X, PATH or TEXT."""
    kinds = {annotation, *get_args(annotation)}
    return next((shown for kind, shown in ((int, "N"), (float, "X"), (Path, "PATH")) if kind in kinds), "TEXT")


def _choices(annotation: Any) -> str | None:
    for one in (annotation, *get_args(annotation)):
        if get_origin(one) is Literal:
            return f"[{'|'.join(map(str, get_args(one)))}]"
    return None
