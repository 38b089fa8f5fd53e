"""Episodes as a table of columns, for pandas, polars, DuckDB, datasets: one row an episode, a row group at a time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from agent_gym.errors import MissingExtraError
from agent_gym.evaluation.exchange.records import OFFSETS

_GROUP_EPISODES: Final = 1024
_GROUP_BYTES: Final = 32 * 2**20
"""A row group is written when it has so many episodes, or about so many bytes."""


def write_parquet(path: Path, records: Iterable[dict[str, Any]], *, messages: bool, tokens: bool) -> int:
    """Write records of one kind; return how many there were.

    Args:
        path: The file.
        records: From `as_record`, or with `messages` from `as_conversation`.
        messages: See there.
        tokens: With columns of tokens.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError.of("parquet", "Writing parquet") from error
    schema = _schema(messages=messages, tokens=tokens)
    count, size, rows = 0, 0, []
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for record in records:
            rows.append(record)
            size += _size(record)
            count += 1
            if len(rows) >= _GROUP_EPISODES or size >= _GROUP_BYTES:
                writer.write_table(_table(rows, schema))
                rows, size = [], 0
        if rows:
            writer.write_table(_table(rows, schema))
    return count


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.Table.from_pylist(rows, schema)
    except UnicodeEncodeError:
        return pyarrow.Table.from_pylist([_speakable(row) for row in rows], schema)


def _speakable(value: Any) -> Any:
    """Put question marks in the place of lone surrogates, which UTF-8 cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_speakable(name): _speakable(part) for name, part in value.items()}
    return [_speakable(part) for part in value] if isinstance(value, list) else value


def _size(record: dict[str, Any]) -> int:
    """Return about how many bytes a record takes in memory."""
    texts = (text for part in record.get("turns", record.get("messages", ())) for text in part.values())
    return sum(len(text) for text in texts if isinstance(text, str)) + 100 * len(record.get("token_ids", ()))


def _schema(*, messages: bool, tokens: bool) -> Any:
    """Return the columns and their types, in the order in which they stand in the file."""
    import pyarrow as pa

    text, integer, number, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    texts = pa.map_(text, text)
    if messages:
        message = pa.struct({"role": text, "content": text})
        return pa.schema(
            {
                "messages": pa.list_(message),
                **dict.fromkeys(("id", "task_id", "env_id", "goal"), text),
                **{"success": flag, "score": number, "reward": number, "error": text},
                **{"step": integer, "phase": text, "model": text, "metadata": texts},
            }
        )
    turn = dict.fromkeys(("observation", "text", "action"), text)
    turn |= dict.fromkeys(OFFSETS, integer) if tokens else {}
    turn |= {"reward": number, "invalid_action": flag, "tool_calls": integer, "finish_reason": text}
    turn |= {"engine_version": integer, "engine_seconds": number, "env_seconds": number}
    turn |= {"prompt_tokens": integer, "generated_tokens": integer}
    columns = dict.fromkeys(("task_id", "env_id", "id", "group_id"), text)
    columns |= {"seed": integer, "goal": text, "final_observation": text, "success": flag, "score": number}
    columns |= {"terminated": flag, "truncated": flag, "error": text, "parent_id": text}
    columns |= {"branch_turn": integer, "branch_offset": integer, "reward": number, "step": integer, "phase": text}
    columns |= {"model": text, "metadata": texts, "turns": pa.list_(pa.struct(turn))}
    if tokens:
        single = pa.list_(pa.float32())
        columns |= {"token_ids": pa.list_(pa.int32()), "action_mask": pa.list_(pa.uint8())}
        columns |= {"logprobs": single, "entropies": single, "signals": pa.map_(text, single)}
    return pa.schema(columns)
