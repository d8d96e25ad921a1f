"""Agents: several small models, or one, that work on tasks with tools."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.agents.loop import Agent, AgentResult, AgentTurn
    from trimtab.agents.making import make_roles
    from trimtab.agents.roles import Roles, load_roles
    from trimtab.agents.toolboxes import open_toolbox
    from trimtab.agents.tools import Toolbox

__all__ = ["Agent", "AgentResult", "AgentTurn", "Roles", "Toolbox", "load_roles", "make_roles", "open_toolbox"]
_ELSEWHERE = {
    "Agent": "loop", "AgentResult": "loop", "AgentTurn": "loop", "Roles": "roles", "Toolbox": "tools",
    "load_roles": "roles", "make_roles": "making", "open_toolbox": "toolboxes",
}  # fmt: skip
"""where to find the public names: a process that runs tools imports no torch"""


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'trimtab.agents' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trimtab.agents.{_ELSEWHERE[name]}"), name)
