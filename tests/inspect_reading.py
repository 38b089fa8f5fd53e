"""Reads logs with inspect_ai and prints, as JSON, what it finds: run by a Python that has it, never imported."""

import json
import sys
from typing import Any

import inspect_ai.scorer  # noqa: F401 - registers the metrics
from inspect_ai.log import (
    list_eval_logs,
    read_eval_log,
    read_eval_log_sample,
    read_eval_log_sample_summaries,
    read_eval_log_samples,
    recompute_metrics,
)


def main() -> None:
    sys.stdout.write(json.dumps([found(path) for path in sys.argv[1:]]))


def found(path: str) -> dict[str, Any]:
    log = read_eval_log(path)
    assert log.results and log.samples is not None
    written = metrics(log)
    samples = list(read_eval_log_samples(path, all_samples_required=False))
    assert sorted(str(sample.uuid) for sample in samples) == sorted(str(sample.uuid) for sample in log.samples)
    one = read_eval_log_sample(path, id=samples[-1].id, epoch=samples[-1].epoch)
    assert one.uuid == samples[-1].uuid
    heads = {head.uuid: shown(head) for head in read_eval_log_sample_summaries(path)}
    assert heads == {sample.uuid: shown(sample.summary()) for sample in samples}
    listed = list_eval_logs(path.rpartition("/")[0])
    recompute_metrics(log)
    return {
        "listed": len(listed),
        "status": log.status,
        "task": log.eval.task,
        "model": log.eval.model,
        "epochs": log.eval.config.epochs,
        "completed": log.results.completed_samples,
        "headline": log.results.headline.model_dump(exclude_none=True) if log.results.headline else None,
        "written": written,
        "computed": metrics(log),
        "usage": {name: usage.model_dump(exclude_none=True) for name, usage in log.stats.model_usage.items()},
        "samples": [
            {
                "id": sample.id,
                "epoch": sample.epoch,
                "error": sample.error.message if sample.error else None,
                "limit": sample.limit.type if sample.limit else None,
                "scores": {name: score.value for name, score in (sample.scores or {}).items()},
                "messages": [[message.role, message.text] for message in sample.messages],
                "completion": sample.output.completion,
            }
            for sample in samples
        ],
    }


def shown(head: Any) -> dict[str, Any]:
    """Return a head's fields, without what only we read again."""
    fields: dict[str, Any] = head.model_dump(exclude_none=True)
    fields["metadata"].pop("agent_gym", None)
    return fields


def metrics(log: Any) -> dict[str, dict[str, float]]:
    """Return the values of the metrics by scorer and name."""
    return {score.name: {name: metric.value for name, metric in score.metrics.items()} for score in log.results.scores}


if __name__ == "__main__":
    main()
