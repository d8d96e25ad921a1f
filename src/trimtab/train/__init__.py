"""Loops on TRL; all of TRL that trimtab touches sits in this folder. Called, it trains:

    trimtab.train("recipe.yaml", training={"max_steps": 20}, output="runs/mine")

takes a recipe's file or name and changes of it, carries it out, and returns a `Result` with the run's `folder` and
`report`; `resume=True` goes on with it, `edited=True` also where its code was edited since. A mistake is a `UserError`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Trains(ModuleType):
    """The folder has the name that the public function has to have, and Python keeps one of the two."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("trimtab.commands.train").train_recipe(*args, **kwargs)


sys.modules[__name__].__class__ = _Trains
