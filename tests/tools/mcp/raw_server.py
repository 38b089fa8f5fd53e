"""A tool server that speaks the protocol by hand, badly where it is asked to: `python raw_server.py [HABIT ...]`."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOLS = ["put", "get", "pid", "roll", "die", "freeze", "garble", "break", "long", "child"]
SCHEMA = {"type": "object", "properties": {"key": {"type": "string"}, "value": True, "size": {"type": "integer"}}}

habits = sys.argv[1:]
notes: dict[str, Any] = {}


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def answer(number: Any, **content: Any) -> None:
    # The result comes first, as in servers that are written in TypeScript.
    write(json.dumps({**content, "jsonrpc": "2.0", "id": number}))


def call(number: int, name: str, arguments: dict[str, Any]) -> Any:
    match name:
        case "put":
            notes[arguments["key"]] = arguments.get("value")
            return "kept"
        case "get":
            return notes.get(arguments["key"], "nothing")
        case "pid":
            return os.getpid()
        case "roll":
            return random.random()
        case "die":
            sys.stderr.write("dying of it\n")
            sys.stderr.flush()
            os._exit(9)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "garble":
            write("this is no message")
            write('{"jsonrpc": "2.0", "id": 99999, "result": {}}')
            write('{"jsonrpc": "2.0", "method": "notifications/nonsense"}')
            return "said"
        case "break":
            write(f'{{"result": {{"content": ["\\ud800"]}}, "jsonrpc": "2.0", "id": {number}}}')
        case "long":
            return "x" * arguments["size"]
        case "child":
            return subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL).pid
    return None


def main() -> None:
    if "PID_FILE" in os.environ:
        Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
    if "crash" in habits:
        sys.exit("first line\nno such library")
    if "banner" in habits:
        write("Welcome to the server!")
    if "stubborn" in habits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        message = json.loads(line)
        number, parameters = message.get("id"), message.get("params", {})
        if "silent" in habits or number is None:
            continue
        match message["method"]:
            case "initialize" if "modern" in habits:
                data = {"supported": ["2026-07-28"], "requested": parameters["protocolVersion"]}
                answer(number, error={"code": -32022, "message": "no handshake here", "data": data})
            case "initialize":
                info = {"name": "raw", "version": "1"}
                version = parameters["protocolVersion"]
                answer(number, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
            case "server/discover":
                found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
                answer(number, result={**found, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"})
            case "tools/list":
                listed = [{"name": name, "inputSchema": SCHEMA} for name in TOOLS]
                answer(number, result={"tools": listed, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"})
            case "tools/call":
                text = call(number, parameters["name"], parameters.get("arguments", {}))
                if text is not None:
                    content = [{"type": "text", "text": str(text)}]
                    answer(number, result={"content": content, "resultType": "complete"})
    while "stubborn" in habits:
        signal.pause()


main()
