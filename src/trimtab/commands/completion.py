"""Shell completion; imports nothing heavy."""

from pathlib import Path


def recipes(incomplete: str) -> list[str]:
    """Shipped recipes, and YAML files."""
    from trimtab.runs.shipped import shipped

    return _begin([*shipped(), *_files(incomplete)], incomplete)


def named(incomplete: str) -> list[str]:
    """What `trimtab show` explains: methods, strategies, suites, and `train` for the keys of recipes."""
    from trimtab import decoding, methods
    from trimtab.evals import suites

    return _begin([*methods.names(), *decoding.known(), *suites.names(), "train"], incomplete)


def suite_names(incomplete: str) -> list[str]:
    """Suites."""
    from trimtab.evals import suites

    return _begin(suites.names(), incomplete)


def _begin(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> list[str]:
    folder = Path(incomplete).parent if "/" in incomplete else Path()
    return sorted(str(path) for path in folder.glob("*.yaml")) if folder.is_dir() else []
