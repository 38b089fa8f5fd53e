"""The commands around evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from agent_gym.cli.base import (
    Assignments,
    ConfigFile,
    EnvId,
    RayAddress,
    Runs,
    Seed,
    Track,
    Workers,
    example,
    merge,
    workers_keys,
)

app = typer.Typer()


@app.command("eval", epilog=example("agent-gym eval --suite alfworld/generated_tiny --model expert --n 4 --name first"))
def evaluate(
    config: ConfigFile = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite", metavar="NAME", help="A suite, or a YAML file of one; several with commas, or repeated."
        ),
    ] = None,
    env: EnvId = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model folder, a run folder, 'vllm:FOLDER', an address (http://...), 'scripted:FILE', 'expert', "
            "'random', 'human' or 'file.py:Engine'."
        ),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="What the server calls the model \\[default: the only one that it has].")
    ] = None,
    api: Annotated[
        str | None, typer.Option(help="How a server is asked: 'chat' or 'completions' \\[default: chat].")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="The model's tokenizer, for --api completions.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable with the server's key \\[default: OPENAI_API_KEY].")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="READ,GENERATED", help="Dollars for a million tokens read, and for a million generated."),
    ] = None,
    prices: Annotated[
        str | None, typer.Option(metavar="FILE", help="A YAML file of prices: 'model: \\[read, generated]'.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which tasks of --env \\[default: a split held out].")] = None,
    tasks: Annotated[
        int | None, typer.Option(help="How many tasks, spread evenly \\[default: 100, or all of a suite].")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option("--attempts", "--n", help="Episodes a task \\[default: 1, or what the suite says].")
    ] = None,
    k: Annotated[str | None, typer.Option(metavar="1,4,8", help="Compute pass@k for these k.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling; 0 is greedy \\[default: 1].")] = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    seed: Seed = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; one is made up if not given.")] = None,
    runs: Runs = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of that name, if there is one.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Play the failed episodes of that run again, and nothing else.")
    ] = False,
    max_tokens_total: Annotated[
        int | None, typer.Option(help="Begin no episode after so many tokens, read and generated.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Begin no episode after so many dollars.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after so long; drops the episodes in flight.")] = None,
    episode_timeout: Annotated[float | None, typer.Option(help="Seconds after which an episode has failed.")] = None,
    track: Track = None,
    set_: Assignments = None,
) -> None:
    """Measure an agent's success on tasks."""
    from agent_gym.cli.evaluating import named_suites, price_of, run_evaluation

    overrides = {
        "suites": named_suites(suite) if suite else None,
        "env.id": env,
        "model": model,
        "server.name": model_name,
        "server.api": api,
        "server.tokenizer": tokenizer,
        "server.api_key_env": api_key_env,
        "server.price": price_of(price),
        "server.prices": prices,
        "split": split,
        "tasks": tasks,
        "attempts": attempts,
        "k": k.split(",") if k else None,
        "temperature": temperature,
        **workers_keys(workers, ray_address),
        "seed": seed,
        "limits.tokens": max_tokens_total,
        "limits.cost": max_cost,
        "limits.seconds": max_seconds,
        "limits.episode_seconds": episode_timeout,
        "tracking": track,
    }
    run_evaluation(config, merge(overrides, set_), name=name, runs=runs, resume=resume, retry_failed=retry_failed)


@app.command("suites", epilog=example("agent-gym suites alfworld/valid_unseen"))
def suites(
    name: Annotated[str | None, typer.Argument(help="Describe this one: its tasks, prompt, references.")] = None,
) -> None:
    """List the suites and say which data are at hand, or describe one."""
    from agent_gym.cli.suites import describe_suite, list_suites

    list_suites() if name is None else describe_suite(name)


@app.command("rescore", epilog=example("agent-gym rescore runs/first --grader environment"))
def rescore(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    metric: Annotated[str | None, typer.Option(help="Measure success, score or reward.")] = None,
    grader: Annotated[
        str | None,
        typer.Option(help="Grade the episodes again: 'environment', module:function or file.py:function."),
    ] = None,
) -> None:
    """Compute the numbers of a run again from its stored episodes, without the model."""
    from agent_gym.cli.rescoring import run_rescore

    run_rescore(run, metric=metric, grader=grader)


@app.command("compare", epilog=example("agent-gym compare runs/first runs/second --by-type"))
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Run folders; the others are compared with the first. RUN:PHASE, RUN@STEP or RUN:PHASE@STEP is one "
            "measurement of a training run; such a run alone is compared before and after.",
        ),
    ],
    suite: Annotated[str | None, typer.Option(help="Only this suite; otherwise all that they share.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Measure success, score or reward; otherwise what the suite says.")
    ] = None,
    by_type: Annotated[bool, typer.Option("--by-type", help="Also by type of task.")] = False,
    tasks: Annotated[int, typer.Option(min=0, help="List so many of the tasks that differ.")] = 0,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of intervals and tests.")] = 0.95,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit code 1 where one is worse than the first and the test tells, or where nothing can be told.",
        ),
    ] = False,
) -> None:
    """Say whether a run is really better than another, task by task."""
    from agent_gym.cli.comparing import Wanted, run_compare

    wanted = Wanted(suite, metric, level, by_type, tasks)
    run_compare(runs, wanted, as_json=json, fail_if_worse=fail_if_worse)


@app.command("power", epilog=example("agent-gym power --difference 5 --rate 0.7"))
def power(
    difference: Annotated[
        list[float] | None,
        typer.Option(help="Points by which two runs differ; may be repeated; otherwise 1 to 20 are shown."),
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Say what so many tasks can show.")] = None,
    rate: Annotated[float, typer.Option(help="Success of the first run.")] = 0.5,
    correlation: Annotated[
        float | None, typer.Option(help="Between the runs' successes over tasks; otherwise three are shown.")
    ] = None,
    power: Annotated[float, typer.Option(help="How often the difference must be seen.")] = 0.8,
    level: Annotated[float, typer.Option(help="Of the test.")] = 0.95,
) -> None:
    """Say how many tasks it takes to see a difference between two runs."""
    from agent_gym.cli.planning import run_power

    run_power(difference or [], tasks=tasks, rate=rate, correlation=correlation, power=power, level=level)


@app.command("export", epilog=example("agent-gym export runs/first --format inspect"))
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    format: Annotated[str, typer.Option(help="jsonl, parquet, or inspect for a log of inspect_ai.")] = "jsonl",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to; for inspect a folder, or a file that ends in .eval.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Only episodes of this suite.")] = None,
    phase: Annotated[str | None, typer.Option(help="Only episodes of this phase: before, train, after, eval.")] = None,
    successes: Annotated[bool, typer.Option("--successes", help="Only episodes that succeeded.")] = False,
    messages: Annotated[
        bool, typer.Option("--messages", help="As chats (role and content), to fine-tune with other trainers.")
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="With token ids, action mask, log-probabilities, entropies, signals.")
    ] = False,
) -> None:
    """Write a run's episodes for other tools."""
    from agent_gym.cli.exporting import run_export
    from agent_gym.evaluation.exchange.reading import Selection

    run_export(run, format, out, Selection(phase, suite, successes), messages=messages, tokens=tokens)


@app.command("import", epilog=example("agent-gym import logs/2026-01-02_gsm8k_abc.eval --name gsm8k-theirs"))
def import_(
    file: Annotated[Path, typer.Argument(help="A log of inspect_ai (.eval, .json), or exported episodes (.jsonl).")],
    name: Annotated[str, typer.Option(help="Name of the run.")],
    runs: Runs = Path("runs"),
    scorer: Annotated[
        str | None, typer.Option(help="The score that counts \\[default: the log's headline]; SCORER.KEY for a part.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Call the suite so, to compare it with that suite of another run.")
    ] = None,
    max_mib: Annotated[int, typer.Option(min=1, help="Refuse episodes that are larger.")] = 128,
) -> None:
    """Make a run of a log of inspect_ai, to compare it and look at it."""
    from agent_gym.cli.exporting import run_import

    run_import(file, runs / name, scorer=scorer, suite=suite, max_mib=max_mib)
