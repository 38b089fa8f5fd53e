"""The code that runs inside, packed so that it needs no file there: compiled for the same interpreter, or as source."""

import json
import marshal
from functools import cache
from pathlib import Path
from typing import Final

_MODULES: Final = (
    *("frames", "kernel", "streams", "belongings", "worker"),
    *("processes", "copying", "branching", "files", "supervisor", "main"),
)
"""Each imports only those before it."""
_LOAD: Final = """
import sys
def load(parts):
    package = sys.modules["inside"] = type(sys)("inside")
    package.__path__ = []
    for name, code in parts:
        module = type(sys)("inside." + name)
        module.__package__ = "inside"
        sys.modules["inside." + name] = module
        setattr(package, name, module)
        exec(code, module.__dict__)
    return package.main.main
"""
BOOT_COMPILED: Final = (
    _LOAD
    + """
import marshal
sys.path[:0] = sys.argv[2].split(":")
with open(int(sys.argv[1]), "rb") as file:
    main = load(marshal.load(file))
main(sys.argv[3:])
"""
)
"""For `python -c`: a descriptor of `compiled()`, folders to import from, and what `inside.main` is told."""


@cache
def compiled() -> bytes:
    """Return the modules for `BOOT_COMPILED`; they fit the interpreter of this process alone."""
    folder = Path(__file__).parent / "inside"
    parts = [(name, compile((folder / f"{name}.py").read_text(), f"inside/{name}.py", "exec")) for name in _MODULES]
    return marshal.dumps(parts)


@cache
def boot_source() -> str:
    """Return a program for `python -c` that has the modules in it, for any interpreter from Python 3.10 on."""
    folder = Path(__file__).parent / "inside"
    parts = {name: (folder / f"{name}.py").read_text() for name in _MODULES}
    packed = json.dumps(parts)
    return (
        _LOAD
        + f"""
import json
parts = json.loads({packed!r})
main = load([(name, compile(source, "inside/" + name + ".py", "exec")) for name, source in parts.items()])
main(sys.argv[1:])
"""
    )
