"""The plugin for vLLM, of which what knows nothing of vLLM is imported here as it would be there."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "trimtab-vllm"


@pytest.fixture
def plugin_module(monkeypatch) -> Iterator[Callable[[str], ModuleType]]:
    """A module of the package trimtab_vllm, by its name."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    yield lambda name: importlib.import_module(f"trimtab_vllm.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "trimtab_vllm"]:
        del sys.modules[name]
