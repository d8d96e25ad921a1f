"""Methods are found by their file names, and listing them costs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab import methods
from trimtab.core import Method

FOLDER = Path(methods.__file__).parent


def test_the_names_are_those_of_the_files():
    assert methods.names() == sorted(p.stem for p in FOLDER.glob("[a-z]*.py"))
    assert {"hpd", "kd", "sft"} <= set(methods.names())


def test_names_and_summaries_import_neither_torch_nor_transformers():
    code = (
        "import sys; from trimtab import methods\n"
        "print([methods.summary(n) for n in methods.names()])\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    summaries, heavy = map(ast.literal_eval, done.stdout.splitlines())
    assert heavy == []
    assert len(summaries) == len(methods.names())


@pytest.mark.parametrize("name", methods.names())
def test_a_summary_is_the_first_line_of_the_docstring(name):
    loaded = __import__(f"trimtab.methods.{name}", fromlist=["METHOD"])
    assert methods.summary(name) == loaded.__doc__.splitlines()[0]
    assert methods.summary(name)


@pytest.mark.parametrize("name", methods.names())
def test_load_gives_the_method_of_the_file(name):
    method = methods.load(name)
    assert method is sys.modules[f"trimtab.methods.{name}"].METHOD
    assert isinstance(method, Method)
    assert all((method.paper, method.claim, method.equation))
    method.config()  # every setting has a default


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(methods.UnknownMethod, match="^there is no method 'hdp'; did you mean 'hpd'\\?$"):
        methods.load("hdp")


@pytest.mark.parametrize("name", ["zzzzzz", "", "__init__", "../core/plan"])
def test_a_name_that_is_near_none_gets_them_all(name):
    with pytest.raises(methods.UnknownMethod) as caught:
        methods.load(name)
    assert f"there are: {', '.join(methods.names())}" in str(caught.value)
    assert isinstance(caught.value, ValueError)
