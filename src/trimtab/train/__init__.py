"""Loops on TRL; all of TRL that trimtab touches sits in this folder. Called, it trains:

    trimtab.train("recipe.yaml", training={"max_steps": 20}, output="runs/mine")

takes a recipe's file or name and overrides of its keys, runs it, and returns a `Result` with the run's `folder` and
`report`; `resume=True` resumes it, `edited=True` even if its code was edited since. A mistake is a `UserError`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Trains(ModuleType):
    """Makes the package callable: the folder and the public function share a name, and Python keeps only one."""

    @property
    def __wrapped__(self) -> Any:
        """The function itself, whose signature `inspect` and `help` show."""
        return importlib.import_module("trimtab.commands.train").train_recipe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


sys.modules[__name__].__class__ = _Trains
