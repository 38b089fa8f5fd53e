"""Weights over NCCL as far as it goes without GPUs: what servers are told, and what is broadcast to whom."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import run, small_llama
from openai_server import Reply, refused
from vllm_fake import FakeVllm, vllm_serving

from agent_gym.engines import nccl
from agent_gym.engines.fingerprint import WeightSums
from agent_gym.engines.nccl import NcclPusher, can_transfer
from agent_gym.engines.retrying import Patience
from agent_gym.engines.vllm_http import VllmServer
from agent_gym.errors import EngineError
from agent_gym.tools.web import Retries

MEET = "/init_weight_transfer_engine"
SENT = [
    "/pause", "/collective_rpc", "/start_weight_update", "/update_weights", "/update_weights", "/finish_weight_update",
    "/collective_rpc",
]  # fmt: skip
FINISHED = "/finish_weight_update"
TOLD = ["/update_weight_version", "/reset_prefix_cache", "/resume"]


class Group:
    """What vLLM's group would be."""

    def __init__(self, meeting: dict[str, Any]) -> None:
        self.meeting = meeting
        self.sent: list[torch.Tensor] = []
        self.destroyed = False

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        assert src == 0 and tensor.is_contiguous()
        self.sent.append(tensor)

    def arrive(self, *fakes: FakeVllm) -> None:
        """Let servers hold what was sent last."""
        sums = WeightSums(torch.float32)
        list(sums.passing((str(place), tensor) for place, tensor in enumerate(self.sent[-2:])))
        for fake in fakes:
            fake.held = sums.cast

    def destroy(self) -> None:
        self.destroyed = True


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """The groups that are made, by vLLM's own function of that name."""
    made: list[Group] = []

    def trainer_init(meeting: dict[str, Any]) -> Group:
        made.append(Group(meeting))
        return made[-1]

    module = ModuleType("nccl_common")
    vars(module)["trainer_init"] = trainer_init
    for name in ("vllm", "vllm.distributed", "vllm.distributed.weight_transfer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.nccl_common", module)
    # Two chunks for the weights below.
    monkeypatch.setattr(nccl, "_CHUNK_BYTES", 64)
    return made


def weights(moved: float = 0.0) -> Iterator[tuple[str, torch.Tensor]]:
    yield "a", torch.ones(4, 4).t() * (1 + moved)
    yield "b", torch.zeros(3, dtype=torch.bfloat16)


def server(fake: FakeVllm) -> VllmServer:
    patience = Patience(Retries(tries=1), request=20.0)
    return VllmServer(fake.url, key=None, key_name="KEY", patience=patience)


def test_all_workers_of_all_servers_meet_once_and_every_tensor_is_announced_and_sent(groups: list[Group]) -> None:
    with vllm_serving() as one, vllm_serving() as two:
        two.workers = 4
        one.replies[FINISHED] = lambda asked: groups[0].arrive(one, two)
        pusher, servers = NcclPusher(20.0, torch.device("cpu")), [server(one), server(two)]
        for label in ("1", "2"):
            assert run(pusher.push(servers, weights(), label)) == {}
        assert len(groups) == 1 and groups[0].meeting["world_size"] == 1 + 2 + 4
        assert [fake.called(MEET)[0].body["init_info"]["rank_offset"] for fake in (one, two)] == [1, 3]
        assert one.order() == [MEET, *SENT, *TOLD, *SENT, *TOLD] and one.label == two.label == "2"
        announced = [each.body["update_info"] for each in two.called("/update_weights")[:2]]
        assert announced[0] == {"names": ["a"], "dtype_names": ["float32"], "shapes": [[4, 4]]}
        assert announced[1] == {"names": ["b"], "dtype_names": ["bfloat16"], "shapes": [[3]]}
        assert [tuple(tensor.shape) for tensor in groups[0].sent] == [(4, 4), (3,)] * 2
        pusher.close()
        assert groups[0].destroyed


def test_a_server_that_fails_while_weights_are_sent_is_named_and_the_group_is_made_anew(groups: list[Group]) -> None:
    with vllm_serving() as one, vllm_serving() as two:
        pusher, servers = NcclPusher(20.0, torch.device("cpu")), [server(one), server(two)]
        two.replies["/update_weights"] = lambda asked: refused(500, "shapes differ")
        given = weights()
        with pytest.raises(EngineError, match="shapes differ") as caught:
            run(pusher.push(servers, given, "1"))
        assert two.url in str(caught.value) and next(given, None) is None
        two.replies.clear()
        run(pusher.push(servers, weights(), "2"))
        assert len(groups) == 2


def test_a_server_that_does_not_come_is_named_with_what_it_lacks(groups: list[Group]) -> None:
    with vllm_serving() as fake:
        fake.replies[MEET] = lambda asked: refused(400, "no weight transfer")
        with pytest.raises(EngineError, match=r"no weight transfer.*--weight-transfer-config"):
            run(NcclPusher(20.0, torch.device("cpu")).push([server(fake)], weights(), "1"))
        assert "/pause" not in fake.order()


def test_a_server_that_keeps_its_weights_is_found_out_however_small_the_update(groups: list[Group]) -> None:
    with vllm_serving() as fake:
        pusher = NcclPusher(20.0, torch.device("cpu"))
        fake.replies[FINISHED] = lambda asked: groups[0].arrive(fake)
        run(pusher.push([server(fake)], weights(), "1"))
        fake.replies.clear()
        with pytest.raises(EngineError, match=f"{fake.url} has taken new weights and does not hold them"):
            run(pusher.push([server(fake)], weights(1e-6), "2"))
        assert fake.order()[-1] == "/resume"


def test_weights_that_lack_tensors_are_refused_before_the_servers_use_them(groups: list[Group]) -> None:
    with vllm_serving() as fake:
        pusher = NcclPusher(20.0, torch.device("cpu"), frozenset({"a", "b", "c"}))
        with pytest.raises(EngineError, match="1 are missing, 'c' among them"):
            run(pusher.push([server(fake)], weights(), "1"))
        assert FINISHED not in fake.order() and fake.order()[-1] == "/resume"


def test_weights_are_sent_in_this_way_only_between_gpus_to_servers_that_take_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with vllm_serving() as fake:
        transfer: dict[str, Any] = {"backend": "nccl"}
        fake.replies["/server_info"] = lambda asked: Reply({"vllm_config": {"weight_transfer_config": transfer}})
        reached = server(fake)
        assert not can_transfer([reached], small_llama())
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert not can_transfer([reached], small_llama()), "the model is on a CPU"
        monkeypatch.setattr(nccl, "_on_gpu", lambda model: True)
        monkeypatch.setattr(nccl, "_can_send", lambda: True)
        assert can_transfer([reached], small_llama())
        transfer = {"backend": "ipc"}
        assert not can_transfer([reached], small_llama()), "the server takes them in another way"
