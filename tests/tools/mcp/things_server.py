"""A tool server made with the `mcp` package, for the tests: `python things_server.py [http | json | sse] [PORT]`."""

import asyncio
import os
import socket
import sys
from dataclasses import dataclass

import mcp_types as types
import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer

server = MCPServer("things")
notes: dict[str, str] = {}


@dataclass
class Measure:
    width: int
    unit: str


@server.tool()
def put(key: str, value: str, times: int = 1) -> str:
    """Keep a value.

    Args:
        key: What to call it.
    """
    notes[key] = value * times
    return f"kept {key}"


@server.tool()
def get(key: str) -> str:
    """Return a value that was kept."""
    return notes[key]


@server.tool()
def pid() -> int:
    """Return the id of the server's process."""
    return os.getpid()


@server.tool()
def environment() -> list[str]:
    """Return the names of the environment variables."""
    return sorted(os.environ)


@server.tool(structured_output=False)
def picture() -> list[types.ContentBlock]:
    """Return what is no text."""
    return [
        types.TextContent(text="two pictures:"),
        Image(data=b"\x89PNG" + bytes(1230), format="png").to_image_content(),
        types.AudioContent(data="AAAA", mime_type="audio/wav"),
        types.EmbeddedResource(resource=types.TextResourceContents(uri="note://1", text="a note")),
        types.EmbeddedResource(resource=types.BlobResourceContents(uri="blob://1", blob="AA==")),
        types.ResourceLink(uri="file:///plan.txt", name="plan", description="the plan"),
    ]


@server.tool()
def measure() -> Measure:
    """Return something with a structure."""
    return Measure(3, "m")


@server.tool()
def long(size: int) -> str:
    """Return a long text."""
    return "x" * size


@server.tool()
async def stall() -> str:
    """Never return."""
    await asyncio.Event().wait()
    return "no"


@server.tool(name="odd.name/1")
def odd() -> str:
    """Have a name that models cannot write."""
    return "odd"


@server.tool()
async def change(context: Context) -> str:
    """Take a tool away and describe another one anew."""
    server.remove_tool("measure")
    server.remove_tool("get")
    server.add_tool(get, description="Return a value, gladly.")
    await context.session.send_tool_list_changed()
    return "changed"


if __name__ == "__main__":
    if len(sys.argv) == 1:
        server.run()
    else:
        kind, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
        app = server.sse_app() if kind == "sse" else server.streamable_http_app(json_response=kind == "json")
        listener = socket.create_server(("127.0.0.1", port))
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])
