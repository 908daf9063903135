"""Server-side tools: Python functions that the model calls and the server runs; see ``docs/tools.md``."""

from infs.toolbox.functions import ServerTool, ToolContext, tool
from infs.toolbox.offering import equip, load_tools
from infs.toolbox.rounds import Toolbox

__all__ = ["ServerTool", "ToolContext", "Toolbox", "equip", "load_tools", "tool"]
