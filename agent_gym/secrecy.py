"""Which settings are secret: what is shown or handed on leaves their values out."""

import re

_SECRET = re.compile(r"(?i)(^|[_.-])(api_?key|key|token|password|passwd|secret|credentials?|authorization)$")


def is_secret(name: str) -> bool:
    """Return whether a setting of this name is likely to hold a secret: `api_key` is, `max_tokens` is not."""
    return _SECRET.search(name) is not None
