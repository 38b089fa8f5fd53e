"""The paths under /api: what each takes and gives back. Anything that a request names is looked up, never opened."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import agent_gym
from agent_gym.errors import AgentGymError, ConfigError, MissingExtraError, UnknownIdError
from agent_gym.store.episodes import EpisodeFilter
from agent_gym.viewer import evaluations, queries
from agent_gym.viewer.asking import ApiError, Asked, as_json
from agent_gym.viewer.metrics import POINTS
from agent_gym.viewer.runs import Run, Runs

logger = logging.getLogger(__name__)

Json = dict[str, Any]
Answer = Callable[[Runs, Asked], Json]

PAGE = 50
LARGEST_PAGE = 500


def routes(runs: Runs) -> list[Route]:
    """Return the routes under /api."""
    return [Route(f"/api/{name}", partial(_respond, runs, answer)) for name, answer in ANSWERS.items()]


async def _respond(runs: Runs, answer: Answer, request: Request) -> Response:
    """Answer a request in a thread of its own; what goes wrong becomes a status and a sentence."""
    status, value = await run_in_threadpool(answered, runs, answer, Asked(request.query_params))
    return Response(as_json(value), status, media_type="application/json")


def answered(runs: Runs, answer: Answer, asked: Asked) -> tuple[int, Json]:
    """Return a status of HTTP and the answer."""
    try:
        return 200, answer(runs, asked)
    except ApiError as error:
        return error.status, {"error": str(error)}
    except ConfigError as error:
        return 400, {"error": str(error)}
    except UnknownIdError as error:
        return 404, {"error": str(error)}
    except MissingExtraError as error:
        return 501, {"error": str(error)}
    except AgentGymError as error:
        return 503, {"error": str(error)}
    except Exception as error:
        logger.exception("an answer failed")
        return 500, {"error": f"The viewer could not answer ({type(error).__name__}): its terminal says more."}


def _run(runs: Runs, asked: Asked) -> Run:
    return runs[asked.count("run", 0)]


def all_runs(runs: Runs, asked: Asked) -> Json:
    """Return what there is to look at."""
    asked.done()
    runs.refresh()
    return {"runs": [_about(run) for run in runs], "version": agent_gym.__version__}


def _about(run: Run) -> Json:
    about: Json = {"index": run.index, "name": run.name, "path": str(run.path)}
    try:
        return about | run.cached(("about",), partial(_header, run)) | {"live": run.is_live()}
    except AgentGymError as error:
        return about | _EMPTY | {"error": str(error)}


_EMPTY: Json = {
    "kind": "train",
    "created": None,
    "env": "",
    "split": None,
    "algorithm": None,
    "model": None,
    "suites": [],
    "step": 0,
    "total_steps": None,
    "episodes": 0,
    "live": False,
    "config": {},
    "versions": {},
}


def _header(run: Run) -> Json:
    header = run.header()
    config = header["config"]
    with run.store() as store:
        episodes = run.cached(("count",), store.count) if store is not None else 0
        suites = sorted({suite for _, suite, _ in store.kinds()} - {""}) if store is not None else []
    algorithm, model, env = (config.get(name) for name in ("algorithm", "model", "env"))
    measured = config.get("measure")
    return {
        "kind": "train" if algorithm else "eval",
        "created": header.get("created"),
        "env": env.get("id", "") if isinstance(env, dict) else "",
        "split": measured.get("split") if isinstance(measured, dict) else config.get("split"),
        "algorithm": algorithm.get("name") if isinstance(algorithm, dict) else None,
        "model": model.get("path") if isinstance(model, dict) else model,
        "suites": suites,
        "step": run.metrics.last_step(),
        "total_steps": config.get("steps"),
        "episodes": episodes,
        "config": config,
        "versions": header.get("versions") or {},
    }


def version(runs: Runs, asked: Asked) -> Json:
    """Return a text that changes when anything was written."""
    run = _run(runs, asked)
    asked.done()
    return {"version": run.version(), "live": run.is_live()}


def metrics(runs: Runs, asked: Asked) -> Json:
    """Return records of metrics.jsonl from line `since` on, thinned where they are many."""
    run = _run(runs, asked)
    since, generation = asked.count("since", 0), asked.text("generation")
    points = asked.count("points", POINTS, low=10, high=100_000)
    asked.done()
    page = run.metrics.page(since, generation, points=points)
    if not page.next:
        run.header()  # says so where the run is gone
    return {name: getattr(page, name) for name in ("records", "since", "next", "generation", "thinned")}


def _filter(asked: Asked) -> EpisodeFilter:
    return EpisodeFilter(
        phase=asked.text("phase"),
        suite=asked.text("suite"),
        step=asked.integer("step"),
        group_id=asked.text("group"),
        task_id=asked.text("task"),
        task_type=asked.text("type"),
        success=asked.flag("success"),
        failed=asked.flag("failed"),
        text=asked.text("q"),
        min_reward=asked.number("min_reward"),
        max_reward=asked.number("max_reward"),
        min_turns=asked.integer("min_turns"),
        max_turns=asked.integer("max_turns"),
    )


def episodes(runs: Runs, asked: Asked) -> Json:
    """Return a page of episodes."""
    run, wanted, order = _run(runs, asked), _filter(asked), asked.choice("order", queries.ORDERS)
    limit, after = asked.count("limit", PAGE, low=1, high=LARGEST_PAGE), asked.text("after")
    asked.done()
    return queries.episode_list(run, wanted, order=order, limit=limit, after=after)


def facets(runs: Runs, asked: Asked) -> Json:
    """Return what there is to choose from."""
    run = _run(runs, asked)
    asked.done()
    return run.cached(("facets",), partial(queries.facets, run))


def groups(runs: Runs, asked: Asked) -> Json:
    """Return a page of groups."""
    run, wanted, rewards = _run(runs, asked), _filter(asked), asked.choice("rewards", queries.REWARDS)
    limit, after = asked.count("limit", PAGE, low=1, high=LARGEST_PAGE), asked.text("after")
    asked.done()
    return queries.group_list(run, wanted, rewards=rewards, limit=limit, after=after)


def group(runs: Runs, asked: Asked) -> Json:
    """Return one group."""
    run, id = _run(runs, asked), asked.needed("id")
    asked.done()
    return queries.group(run, id)


def episode(runs: Runs, asked: Asked) -> Json:
    """Return one episode, and its neighbours in the list that the same parameters ask for."""
    run, id, wanted = _run(runs, asked), asked.needed("id"), _filter(asked)
    order = asked.choice("order", queries.ORDERS)
    tokens, first, limit = asked.flag("tokens"), asked.count("from_turn", 0), asked.integer("limit", low=1)
    budget = asked.integer("max_tokens", low=1, high=200_000)
    asked.done()
    return queries.episode(
        run,
        id,
        wanted=wanted if wanted != EpisodeFilter() else None,
        order=order,
        with_tokens=tokens is not False,
        first=first,
        limit=limit,
        budget=budget,
    )


def evaluation(runs: Runs, asked: Asked) -> Json:
    """Return the tables of an evaluation."""
    run, phase = _run(runs, asked), asked.text("phase")
    asked.done()
    return evaluations.report(run, phase)


def comparison(runs: Runs, asked: Asked) -> Json:
    """Return how two runs differ on the tasks that both played."""
    run, other = _run(runs, asked), runs[asked.count("with", 1)]
    suite, limit = asked.text("suite"), asked.count("limit", PAGE, low=1, high=LARGEST_PAGE)
    after = asked.count("after", 0)
    asked.done()
    return evaluations.comparison(run, other, suite=suite, limit=limit, after=after)


ANSWERS: dict[str, Answer] = {
    "runs": all_runs,
    "version": version,
    "metrics": metrics,
    "episodes": episodes,
    "facets": facets,
    "groups": groups,
    "group": group,
    "episode": episode,
    "evaluation": evaluation,
    "comparison": comparison,
}
"""By the name after /api/."""
