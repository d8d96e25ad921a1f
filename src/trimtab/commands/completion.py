"""Shell completion: what may stand at each place of a command line; imports nothing heavy."""

import ast
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def recipes(ctx: Any, incomplete: str) -> list[str]:
    """Shipped recipes and YAML files; after one of them, the keys of its method as KEY=."""
    from trimtab.runs.shipped import shipped

    words = _words(ctx)
    if not words:
        return _begin([*shipped(), *_files(incomplete)], incomplete)
    return _begin([f"{key}=" for key in _keys(words)], incomplete)


def named(ctx: Any, incomplete: str) -> list[str]:
    """What `trimtab show` explains; after `train`, the keys of recipes."""
    from trimtab import decoding, methods
    from trimtab.data.synthetic import DATASETS
    from trimtab.evals import suites
    from trimtab.models.builtin import BUILTIN
    from trimtab.runs.shipped import shipped

    if _words(ctx)[:1] == ["train"]:
        keys = _keys(())
        return _begin([*dict.fromkeys(key.partition(".")[0] for key in keys), *keys], incomplete)
    data = (f"trimtab:{name}" for name in DATASETS)
    names = [*methods.names(), *decoding.known(), *suites.names(), *BUILTIN, *data, *shipped(), "train"]
    return _begin(names, incomplete)


def suite_names(ctx: Any, incomplete: str) -> list[str]:
    """Suites; after one of them, its settings as SUITE.KEY= too."""
    from trimtab.evals import suites

    chosen = [name for name in _words(ctx) if name in suites.names()]
    keys = [f"{name}.{key}=" for name in chosen for key in suites.load(name).options.model_fields]
    return _begin([*suites.names(), *keys], incomplete)


def kinds(ctx: Any, incomplete: str) -> list[str]:
    """What `trimtab list` lists."""
    from typing import get_args

    from trimtab.commands.list import Kind

    return _begin(get_args(Kind), incomplete)


def _keys(words: Sequence[str]) -> list[str]:
    """Keys of recipes, for the methods of the one that is named first, or for all."""
    from trimtab import methods
    from trimtab.common.errors import UserError
    from trimtab.common.yaml_text import read_tree
    from trimtab.runs.keys import SECTIONS, TOP, methods_of, training_of
    from trimtab.runs.recipe import RecipeError
    from trimtab.runs.shipped import find

    tree: Any = {}
    with suppress(UserError):  # the command itself says what is wrong
        tree = read_tree(find(words[0]), RecipeError) if words else {}
    said = [declared(name) for name in methods_of(tree) or methods.names()]
    known = {name: list(kind.model_fields) for name, kind in SECTIONS.items()}
    known["options"] = list(dict.fromkeys(key for options, _ in said for key in options))
    known["training"] = list(training_of({loop for _, loop in said}))
    inside = [f"{section}.{key}" for section, keys in known.items() for key in keys]
    return [*(key for key in TOP if key not in known), *inside]


def declared(method: str) -> tuple[list[str], Any]:
    """The options and the loop of a method, read from its file without running it."""
    from trimtab import methods

    path = Path(method if method.endswith(".py") else f"{Path(methods.__file__).parent / method}.py")
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    config = next((one for one in body if isinstance(one, ast.ClassDef) and one.name == "Config"), None)
    fields = [one.target for one in config.body if isinstance(one, ast.AnnAssign)] if config else []
    given = [word for one in body for word in ast.walk(one) if isinstance(word, ast.keyword) and word.arg == "loop"]
    loops = [word.value.value for word in given if isinstance(word.value, ast.Constant)]
    return [one.id for one in fields if isinstance(one, ast.Name)], loops[0] if loops else "supervised"


def _words(ctx: Any) -> list[str]:
    """The words before the one that is completed."""
    return list(ctx.params.get("words") or ())


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> list[str]:
    folder = Path(incomplete).parent if "/" in incomplete else Path()
    return sorted(str(path) for path in folder.glob("*.yaml")) if folder.is_dir() else []
