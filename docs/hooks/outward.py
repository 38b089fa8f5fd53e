"""Links from the pages to files of the repository outside docs/: to where the code lives, or plain words.

On a code host such links lead to the files themselves; the site does not contain them.
"""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of a page that lead out of the documents' folder."""
    docs = Path(config.docs_dir)

    def rewritten(match: re.Match[str]) -> str:
        target = (docs / page.file.src_uri).parent / match[2]
        place = target.resolve()
        if place.is_relative_to(docs) or not place.is_relative_to(docs.parent):
            return match[0]
        if not place.exists():
            # Left as it is, so that the build complains.
            return match[0]
        if not config.repo_url:
            return match[1]
        return f"[{match[1]}]({config.repo_url.rstrip('/')}/blob/main/{place.relative_to(docs.parent).as_posix()})"

    return _LINK.sub(rewritten, markdown)
