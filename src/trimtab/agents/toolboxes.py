"""Tools by the name that a user gives them."""

from trimtab.agents.mcp_tools import McpTools
from trimtab.agents.python_tools import PythonTools
from trimtab.agents.recorded import Recorded
from trimtab.agents.tools import Toolbox, ToolsError, check_limits
from trimtab.agents.world_tools import WorldTools
from trimtab.common.files import DataError
from trimtab.data.generators.tool_world.world import WorldError
from trimtab.data.sources import SUFFIXES, load_rows

MCP = "mcp:"
SECONDS = 30.0
"""of a call, where no other limit is given"""


def open_toolbox(place: str, seconds: float = SECONDS, longest: int = Toolbox.longest) -> Toolbox:
    """Tools to be used in a `with` block.

    Args:
        place: `TOOLS.py`, functions of a file, which is executed in a process of its own; `mcp:COMMAND` or `mcp:URL`, a
            server of the Model Context Protocol; a .jsonl or .json file of recorded responses or trajectories;
            `trimtab:tools/SPLIT?rows=N[PLACE:]`, the world of the first of these rows.
        seconds: of a call, for the first two.
        longest: characters of an observation.

    Raises:
        ToolsError: if there are no such tools.
    """
    check_limits(seconds, longest)
    if place.startswith(MCP):
        return McpTools(place.removeprefix(MCP), seconds, longest)
    if place.endswith(".py"):
        return PythonTools(place, seconds, longest)
    try:
        if place.startswith("trimtab:"):
            return WorldTools(load_rows(place)[0], longest)
        if place.lower().endswith(SUFFIXES):
            return Recorded(load_rows(place), longest, where=f"{place}: row")
    except WorldError as error:
        raise ToolsError(f"{place}: {error}") from error
    except DataError as error:
        raise ToolsError(str(error)) from error
    raise ToolsError(
        f"{place!r} is no tools: expected TOOLS.py, a .jsonl file of recorded responses, "
        "mcp:COMMAND, mcp:URL or trimtab:tools/SPLIT"
    )
