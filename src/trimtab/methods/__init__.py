"""One training system a file. A method is found by its file name: there is no list to edit.

A recipe names one that comes with trimtab, or a file or module of the user's own: `my_method.py`, `package.module`.
"""

from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trimtab.common import by_file
from trimtab.common.errors import UserError, looked_in

if TYPE_CHECKING:
    from trimtab.core import Method, Plan

FORM = "FILE.py or package.module"


class UnknownMethod(UserError):
    """An unknown method, or a user's file that holds no method."""


_FILES = by_file.Catalogue(Path(__file__).parent, __name__, "method", UnknownMethod)
names = _FILES.names


def is_own(name: str) -> bool:
    """Whether `name` is a user's own file or module: FILE.py or package.module."""
    return name.endswith(".py") or ("." in name and all(part.isidentifier() for part in name.split(".")))


def title(name: str) -> str:
    """What a method is called in a folder's name."""
    return Path(name).stem if name.endswith(".py") else name


def summary(name: str) -> str:
    """The first line of the method's docstring; shipped methods and files are not imported for it."""
    if name.endswith(".py"):
        return by_file.summary(Path(name).expanduser().parent, Path(name).stem)
    if is_own(name):
        return (module(name).__doc__ or "").strip().partition("\n")[0]
    return _FILES.summary(name)


def check_name(name: str) -> None:
    """Raise UnknownMethod, with the closest name, if there is no such method; nothing is imported."""
    if not is_own(name):
        beside = Path(f"{name}.py")
        if name not in names() and beside.is_file():
            raise UnknownMethod(f"there is no method {name!r}; to use the file here, set method: {beside}")
        _FILES.check_name(name)
    elif name.startswith("trimtab.methods."):
        raise UnknownMethod(f"{name} ships with trimtab; set method: {name.removeprefix('trimtab.methods.')}")
    elif title(name) in names():
        raise UnknownMethod(
            f"{name} has the name of a method that ships with trimtab; rename the file, or set method: {title(name)}"
        )
    elif name.endswith(".py") and not Path(name).expanduser().is_file():
        raise UnknownMethod(f"there is no file {name}{looked_in(name)}; write your own method as {FORM}")


def module(name: str) -> ModuleType:
    """The module of a method."""
    from trimtab.common import fingerprint, user_code

    check_name(name)
    if not name.endswith(".py"):
        place = name if is_own(name) else f"trimtab.methods.{name}"
        return user_code.load(place, "method", name, FORM, UnknownMethod)
    path = Path(name).expanduser().resolve()
    return _of_file(str(path), fingerprint.of_files([path]))


@lru_cache
def _of_file(path: str, holds: str) -> ModuleType:
    """The module of a file, run again only when its content changed."""
    from trimtab.common import user_code

    return user_code.load(path, "method", Path(path).name, FORM, UnknownMethod)


def load(name: str) -> "Method":
    """The METHOD of a shipped method, or of a user's own file or module."""
    from trimtab.core import Method, MethodConfig

    found = getattr(module(name), "METHOD", None)
    if found is None:
        raise UnknownMethod(f"{name} has no METHOD; end it with METHOD = Method(config=Config, build=build)")
    if not isinstance(found, Method):
        raise UnknownMethod(f"METHOD of {name} is {type(found).__name__}, expected a trimtab Method")
    if not (isinstance(found.config, type) and issubclass(found.config, MethodConfig)):
        shown = found.config.__name__ if isinstance(found.config, type) else type(found.config).__name__
        raise UnknownMethod(f"config of {name} is {shown}, expected a class derived from MethodConfig")
    return found


def plan_of(name: str, policy: Any = None, **options: Any) -> "Plan":
    """A method's plan for your own training loop: you pass its signals with each batch.

        plan = plan_of("kd", divergence="reverse_kl")
        batch = TokenBatch.align(logits, labels, {"teacher": teacher_logits})
        loss = reduce(plan.objective(batch), weights(batch, plan.reduction))

    `plan.objective.needs` names the signals.

    Args:
        name: of the method.
        policy: for methods that need it when they are built.
        options: of the method, see `trimtab show METHOD`; defaults where none are given.

    Raises:
        ValueError: for an unknown method or option, and for a method that runs other models: a reward model or a
            critic; or that reads inside its teacher.
    """
    from trimtab.common.errors import check_settings
    from trimtab.core import Critic, RewardModel
    from trimtab.signals.base import Given

    method = load(name)
    config = check_settings(method.config, options, f"method {name}", "", UserError)
    required = method.requirements(config)
    for kind, what in ((RewardModel, "a reward model"), (Critic, "a critic")):
        if required.model(kind):
            raise UserError(f"method {name} with these options runs {what} on its completions; train it with a recipe")
    if required.inside:
        raise UserError(
            f"method {name} with these options reads inside both models, and a plan sees their outputs alone; train it "
            "with a recipe"
        )
    return method.build(config, policy, **{role: Given(role) for role in required.provides})
