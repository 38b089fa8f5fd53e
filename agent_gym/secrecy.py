"""Which settings are secret: what is shown or handed on leaves their values out."""

import re
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from typing import Any

_SECRET = re.compile(r"(?i)(^|[_.-])(api_?key|key|token|password|passwd|secret|credentials?|authorization)$")


def is_secret(name: str) -> bool:
    """Return whether a setting of this name is likely to hold a secret: `api_key` is, `max_tokens` is not."""
    return _SECRET.search(name) is not None


_USERINFO = re.compile(r"\w://[^/?#\s@]+@")
_SETTING = re.compile(
    r"(?:[?&]([\w.-]+)|(?:^|\s)-+([\w.-]+)|(?:^|\s)([A-Z][A-Z0-9_]*))=[^&\s]|(?:^|\s)-+([\w.-]+)\s+[^&\s-]"
)
"""What gives a setting its value: `--api-key=sesame`, `--api-key sesame` and `API_KEY=sesame` in a command line, and
`token=sesame` behind the question mark of an address."""


def secrets_in(value: Any, path: str) -> Iterator[str]:
    """Find settings that are likely to hold secrets, in mappings and lists however deep.

    Args:
        value: What is searched.
        path: Where it is, e.g. "env.options".

    Yields:
        The path of each, e.g. "env.options.tools[0].api_key".
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            if each and is_secret(str(name)):
                yield f"{path}.{name}"
            else:
                yield from secrets_in(each, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from secrets_in(each, f"{path}[{place}]")
        for place, (flag, _) in enumerate(pairwise(value), start=1):
            if isinstance(flag, str) and flag.startswith("-") and is_secret(flag):
                yield f"{path}[{place}]"
    elif isinstance(value, str) and (_USERINFO.search(value) or any(map(is_secret, chain(*_SETTING.findall(value))))):
        yield path
