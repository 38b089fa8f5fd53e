"""Runs as one HTML file: the same page with its scripts, its styles and a selection of the data inside.

It needs no server and no network. Its size is bounded; what is left out stands at its top.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import permutations, zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent_gym.errors import StoreError
from agent_gym.store.atomic import write_text
from agent_gym.viewer.api import ANSWERS, answered
from agent_gym.viewer.asking import Asked, as_json
from agent_gym.viewer.places import shortened, without_places
from agent_gym.viewer.runs import Runs
from agent_gym.viewer.server import static_files

EPISODES = 100
"""Episodes that a report holds by default."""

BYTES = 24_000_000
"""Size of the data at which no more episodes are added: what a browser opens at once, and a mail may carry."""

TOKENS = 4000
"""Episodes with more tokens than this are shown as text, without a colour for each token."""

GROUPS = 30
POINTS = 600
"""Values of one key in the curves."""

Json = dict[str, Any]

_STYLE = re.compile(r'<link rel="stylesheet" href="/static/([\w.-]+)">')
_SCRIPT = re.compile(r'<script src="/static/([\w.-]+)"></script>')
_PLACE = "</header>"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    size: int
    """Bytes."""
    note: str
    """What the file holds, and what it leaves out."""


@dataclass(slots=True)
class _Answers:
    """Answers of the API by the path that asks for them."""

    runs: Runs
    found: dict[str, Json] = field(default_factory=dict)
    size: int = 0

    def ask(self, name: str, embedded_as: dict[str, Any], **more: Any) -> Json | None:
        """Return an answer and keep it under the path that the page will ask for; None where there is no answer.

        Args:
            name: After /api/.
            embedded_as: The parameters that the page will ask with.
            more: Further parameters, which the file chooses for the page.
        """
        path = f"/api/{name}" + (f"?{urlencode(sorted(embedded_as.items()))}" if embedded_as else "")
        if path in self.found:
            return self.found[path]
        status, answer = answered(self.runs, ANSWERS[name], Asked({k: str(v) for k, v in (embedded_as | more).items()}))
        if status != 200:
            return None
        self.keep(path, answer)
        return answer

    def keep(self, path: str, answer: Json) -> None:
        self.found[path] = answer
        self.size += len(as_json(answer))

    @property
    def full(self) -> bool:
        return self.size > BYTES


def export(places: Sequence[Path], out: Path, *, episodes: int = EPISODES) -> Exported:
    """Write a report of runs.

    Args:
        places: Run folders, or folders that hold some.
        out: The file; an old one is replaced as a whole.
        episodes: How many episodes it holds, at most, over all runs.

    Raises:
        UnknownIdError: There is no run at one of the paths.
        StoreError: No run can be read, one has no configuration, or the file cannot be written.
    """
    runs = Runs(places)
    for run in runs:
        run.header()  # an error of its own where one is gone
    answers = _Answers(runs)
    notes = _gather(answers, runs, max(episodes, 0))
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    note = f"Report of {made}. {' '.join(notes)} All of it: agent-gym view RUN."
    # The reader is on another machine, and is not to learn about this one.
    page = build_page({path: without_places(answer) for path, answer in answers.found.items()}, note)
    write_text(out, page)
    return Exported(out, len(page.encode()), note)


# -- what it holds -----------------------------------------------------------------------------------------------------


def _gather(answers: _Answers, runs: Runs, episodes: int) -> list[str]:
    """Ask for everything that the report holds; return sentences on what it leaves out."""
    broken = {}
    about = (answers.ask("runs", {}) or {}).get("runs", [])
    for run in about:
        run["path"], run["live"] = run["name"], False
        if "error" in run:
            run["error"] = broken[run["index"]] = shortened(run["error"])
    if len(broken) == len(about):
        raise StoreError(next(iter(broken.values()), "There is no run to report on."))
    indices = [run.index for run in runs]
    for index in indices:
        for name, more in (("version", {}), ("metrics", {"points": POINTS}), ("facets", {}), ("evaluation", {})):
            answers.ask(name, {"run": index}, **more)
    for one, other in permutations(indices[:4], 2):
        answers.ask("comparison", {"run": one, "with": other})
    readable = [run for run in runs if run.index not in broken]
    share, odd = divmod(episodes, len(readable))
    notes = [_gather_episodes(answers, run.index, run.name, share + (n < odd)) for n, run in enumerate(readable)]
    return notes + [f"{runs[index].name} cannot be read: {error}" for index, error in broken.items()]


def _gather_episodes(answers: _Answers, run: int, name: str, count: int) -> str:
    """Keep episodes of a run, with their groups; the lists hold these alone, so that every entry can be opened."""
    rows: list[Json] = []
    groups: dict[str, Json] = {}
    plain = 0
    # Those of training first: measuring makes groups of one.
    kinds: list[Json] = [{"phase": "train"}, {}] if count else []
    newest = [_ask(answers, "groups", run, limit=GROUPS, **kind).get("groups", []) for kind in kinds]
    known = {group["group_id"]: group for found in newest for group in found[: GROUPS // 2]}
    for row in _chosen(answers, run, list(known.values()), count):
        if answers.full:
            break
        shown, long = _episode(answers, run, row["id"])
        if shown is not None:
            plain += long
            rows.append(row)
            groups.setdefault(row["group_id"], {})
    for id in [*groups, *known]:
        if answers.full:
            break
        group = answers.ask("group", {"run": run, "id": id})
        if group is not None:
            groups[id] = known.get(id) or _summed(group)
    kept = sorted((group for group in groups.values() if group), key=lambda group: -group["number"])
    rows.sort(key=lambda row: -row["number"])
    _link(answers, run, rows)
    total = _ask(answers, "episodes", run, limit=1).get("total", 0)
    answers.keep(
        f"/api/episodes?run={run}",
        {"episodes": rows, "next": None, "total": len(rows), "total_is_exact": True, "stored": total},
    )
    answers.keep(f"/api/groups?run={run}", {"groups": kept, "next": None, "total": len(kept), "total_is_exact": True})
    text = f", {plain} of them, which are long, as text without their tokens" if plain else ""
    return f"{name}: {len(rows):,} of {total:,} episodes{text}."


def _episode(answers: _Answers, run: int, id: str) -> tuple[Json | None, bool]:
    """Keep an episode, as text alone where it has too many tokens; return it, and whether it has."""
    long = _ask(answers, "episode", run, id=id, max_tokens=1).get("token_count", 0) > TOKENS
    return answers.ask("episode", {"run": run, "id": id}, **({"tokens": 0} if long else {})), long


def _ask(answers: _Answers, name: str, run: int, **parameters: Any) -> Json:
    """Return an answer that is not kept; nothing where there is none."""
    asked = Asked({key: str(value) for key, value in ({"run": run} | parameters).items()})
    status, answer = answered(answers.runs, ANSWERS[name], asked)
    return answer if status == 200 else {}


def _chosen(answers: _Answers, run: int, groups: Sequence[Json], count: int) -> Iterator[Json]:
    """Yield episodes of many kinds, one of each in turn: of the newest groups, successes, failures, failed ones."""
    if not count:
        return

    def newest(**parameters: Any) -> list[Json]:
        found: list[Json] = _ask(answers, "episodes", run, limit=min(count, 500), **parameters).get("episodes", [])
        return found

    ends = [row for order in ("-reward", "-turns", "oldest") for row in newest(order=order)[:5]]
    kinds = [
        [row for group in groups[:4] for row in newest(group=group["group_id"])],
        newest(success=1, failed=0),
        newest(success=0, failed=0),
        newest(failed=1),
        ends,
        newest(),
    ]
    seen: set[str] = set()
    for rows in zip_longest(*kinds):
        for row in rows:
            if row is not None and row["id"] not in seen:
                if len(seen) == count:
                    return
                seen.add(row["id"])
                yield row


def _link(answers: _Answers, run: int, rows: Sequence[Json]) -> None:
    """Have each episode's neighbours be those in the file."""
    ids = [None, *(row["id"] for row in rows), None]
    for before, id, after in zip(ids, ids[1:], ids[2:], strict=False):
        shown = answers.found[f"/api/episode?{urlencode({'id': id, 'run': run})}"]
        shown["previous"], shown["next"] = before, after


def _summed(group: Json) -> Json:
    """Return the entry in a list of a group that is not among the newest."""
    valid = [row for row in group["episodes"] if row["error"] is None]
    rewards = [row["reward"] for row in valid]
    return {
        **{name: group[name] for name in ("group_id", "task_id", "goal", "step", "phase", "count")},
        "number": max(row["number"] for row in group["episodes"]),
        "successes": sum(row["success"] for row in valid),
        "failed": len(group["episodes"]) - len(valid),
        "reward_mean": sum(rewards) / len(rewards) if rewards else None,
        "reward_min": min(rewards, default=None),
        "reward_max": max(rewards, default=None),
        "spread": max(rewards) - min(rewards) if rewards else None,
    }


# -- the file ----------------------------------------------------------------------------------------------------------


def build_page(answers: dict[str, Json], note: str) -> str:
    """Return the page with everything inside.

    Args:
        answers: Answers of the API by path.
        note: What stands at the top.
    """
    table = static_files()
    page = table["index.html"].read_text(encoding="utf-8")
    styles, scripts = _STYLE.findall(page), _SCRIPT.findall(page)
    css = {name: _inline_style(table[name].read_text(encoding="utf-8")) for name in styles}
    code = {name: _inline_script(table[name].read_text(encoding="utf-8")) for name in scripts}
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, code.values()))}; "
        f"style-src {' '.join(map(_hash, css.values()))}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
    data = f'<script type="application/json" id="embedded">{embeddable(answers)}</script>'
    page = page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)
    page = _STYLE.sub(lambda found: f"<style>{css[found[1]]}</style>", page)
    page = _SCRIPT.sub(lambda found: f"<script>{code[found[1]]}</script>", page)
    # Before the scripts, which look for it as they begin.
    told = f'<p class="report-note" role="note">{html.escape(note)}</p>'
    return page.replace(_PLACE, f"{_PLACE}\n{told}\n{data}", 1)


def embeddable(value: Any) -> str:
    """Return JSON that can stand in a script element whatever its texts hold: no tag or comment begins in it."""
    return as_json(value).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _inline_script(code: str) -> str:
    return code.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _inline_style(css: str) -> str:
    return css.replace("\r\n", "\n").replace("</style", "<\\/style")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
