"""Tools of an MCP server: a real one, by the package `mcp`, over its standard input and over HTTP."""

import importlib.util
import socket
import subprocess
import sys
import time

import pytest

from trimtab.agents.mcp_tools import McpTools
from trimtab.agents.toolboxes import open_toolbox
from trimtab.agents.tools import ToolsError
from trimtab.data.trajectories import name_of

INSTALLED = importlib.util.find_spec("mcp") is not None
needs_mcp = pytest.mark.skipif(not INSTALLED, reason="mcp is not installed: pip install mcp")
SERVER = '''
import os, sys, time
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("small")
sys.stderr.write("a line of the server's own\\n" * 3000)


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers"""
    return a + b


@server.tool()
def town(name: str) -> dict:
    """Facts of a town"""
    return {"name": name, "people": 3}


@server.tool()
def odd(kind: str) -> str:
    """Does something odd"""
    if kind == "raises":
        raise ToolError("a mistake")
    if kind == "hangs":
        time.sleep(60)
    if kind == "ends":
        os._exit(3)
    return os.environ.get("OF_THE_TEST", "x" * 5000)


port = sys.argv[1:]
server.run("streamable-http", host="127.0.0.1", port=int(port[0])) if port else server.run()
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("mcp") / "server.py"
    path.write_text(SERVER)
    return path


@pytest.fixture
def box(script):
    with open_toolbox(f"mcp:{sys.executable} {script}", seconds=2, longest=1000) as made:
        assert isinstance(made, McpTools)
        yield made


@needs_mcp
def test_the_tools_of_a_server_are_listed_and_called(box, monkeypatch):
    assert [name_of(one) for one in box.schemas] == ["add", "town", "odd"]
    assert box.schemas[0]["function"]["description"] == "Add two numbers"
    assert box.schemas[0]["function"]["parameters"]["properties"]["a"]["type"] == "integer"
    assert box.run("add", '{"a": 2, "b": 3}')[:2] == ("5", False)
    assert box.run("add", '{"a": 2}').text == "3"
    assert '"people": 3' in box.run("town", '{"name": "Bern"}').text
    assert box.run("odd", '{"kind": "long"}').text.endswith(" [cut: 5,000 characters]")


@needs_mcp
def test_what_fails_is_an_observation(box):
    assert box.run("add", '{"a": "2"}').text == 'error: a of add is "2"; it must be a whole number'
    assert box.run("add", "[1]").text.startswith("error: the arguments of add are a list")
    assert box.run("sub", "{}").text.startswith('error: there is no tool "sub"')
    found = box.run("odd", '{"kind": "raises"}')
    assert found.error
    assert "a mistake" in found.text


@needs_mcp
def test_a_call_that_hangs_is_given_up_and_the_server_begun_anew(box):
    found = box.run("odd", '{"kind": "hangs"}')
    assert found[:2] == ("error: odd took longer than 2 s and was given up; the server is started anew", True)
    assert found.seconds < 15
    assert box.run("add", '{"a": 2}').text == "3"


@needs_mcp
def test_a_server_that_ends_is_begun_anew(box):
    found = box.run("odd", '{"kind": "ends"}')
    assert found.error
    assert found.text.startswith("error: odd: the server has ended")
    assert box.run("add", '{"a": 2}').text == "3"


@needs_mcp
def test_a_server_reads_the_environment(script, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", "seen")
    with open_toolbox(f"mcp:{sys.executable} {script}") as box:
        assert box.run("odd", '{"kind": "env"}').text == "seen"


@needs_mcp
@pytest.mark.parametrize(
    "command, said",
    [
        ("no-such-command-here", "MCP server no-such-command-here: it was not started: .*No such file"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"no such town\")'", "it did not answer.*; it said: no such town"),
        ("http://127.0.0.1:9/mcp", "MCP server http://127.0.0.1:9/mcp: it did not answer"),
        ("", "mcp: names no server"),
        ("'", "mcp:' is no command"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(command, said):
    with pytest.raises(ToolsError, match=said) as found:
        open_toolbox(f"mcp:{command}")
    assert "\n" not in str(found.value)


@needs_mcp
def test_a_server_is_reached_over_http(script):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(script), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        with open_toolbox(f"mcp:http://127.0.0.1:{port}/mcp") as box:
            assert box.run("add", '{"a": 2, "b": 3}')[:2] == ("5", False)
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(INSTALLED, reason="mcp is installed")
def test_without_the_package_it_is_named():
    with pytest.raises(ToolsError, match="MCP server x: the package mcp is not installed: pip install mcp"):
        open_toolbox("mcp:x")
