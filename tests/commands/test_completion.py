"""Shells complete names, and nothing heavy is imported for it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trimtab import methods
from trimtab.commands import completion

CODE = """
import atexit, sys
atexit.register(lambda: print("HEAVY", *[name for name in ("torch", "transformers", "trl") if name in sys.modules]))
sys.argv = ["trimtab"]
from trimtab.cli import main
main()
"""


def completed(words: str) -> tuple[list[str], list[str]]:
    """What a shell offers behind these words, and the heavy packages that were imported for it."""
    environment = {
        **os.environ, "_TRIMTAB_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    *offered, heavy = done.stdout.split("\n")[:-1]
    return offered, heavy.split()[1:]


@pytest.mark.fast("trimtab tra-*", "trimtab eval*", "trimtab show train*")
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("trimtab tra", "train"),
        ("trimtab train tiny_k", "tiny_kd"),
        ("trimtab show hp", "hpd"),
        ("trimtab eval geom", "geomrel"),
        ("trimtab train demo --dr", "--dry-run"),
        ("trimtab train tiny_kd training.max_s", "training.max_steps="),
        ("trimtab preview tiny_kd data.tra", "data.train="),
        ("trimtab show train models.tea", "models.teacher"),
        ("trimtab list me", "methods"),
    ],
)
def test_a_shell_completes_names_without_torch(words, name):
    offered, heavy = completed(words)
    assert name in offered
    assert not heavy


def test_keys_are_those_of_the_recipes_own_method():
    context = SimpleNamespace(params={"words": ["tiny_kd"]})
    offered = completion.recipes(context, "")
    assert "options.divergence=" in offered
    assert not {"options.epsilon=", "training.num_generations=", "tiny_kd"} & set(offered)
    assert completion.recipes(SimpleNamespace(params={"words": ["nowhere.yaml"]}), "options.epsilon")


def test_what_a_methods_file_declares_is_what_it_has():
    for name in methods.names():
        loaded = methods.load(name)
        assert completion.declared(name) == (list(loaded.config.model_fields), loaded.loop)
