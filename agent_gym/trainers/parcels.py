"""Episodes as bytes, for another process: their long lists become arrays, which are smaller and made faster."""

import pickle
from array import array
from dataclasses import replace
from typing import Any

from agent_gym.trajectory import Group, Trajectory

_KINDS = {"token_ids": "q", "action_mask": "b", "logprobs": "d", "entropies": "d"}


def pack(value: Any) -> bytes:
    """Return a value, or a list of values, as bytes; trajectories and groups compactly."""
    return pickle.dumps(_compact(value), protocol=pickle.HIGHEST_PROTOCOL)


def unpack(data: Any) -> Any:
    """Return what `pack` was given. Only for what a process of the same run has packed."""
    return _restored(pickle.loads(data))


def _compact(value: Any) -> Any:
    if isinstance(value, list):
        return [_compact(each) for each in value]
    if isinstance(value, Group):
        return replace(value, trajectories=_compact(value.trajectories))
    if isinstance(value, Trajectory):
        arrays: dict[str, Any] = {name: array(kind, getattr(value, name)) for name, kind in _KINDS.items()}
        return replace(value, **arrays)
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if isinstance(value, Group):
        value.trajectories = _restored(value.trajectories)
    elif isinstance(value, Trajectory):
        for name in _KINDS:
            setattr(value, name, getattr(value, name).tolist())
    return value
