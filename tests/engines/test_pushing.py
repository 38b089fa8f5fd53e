"""Weights pushed to servers of vLLM: in which order, what each of them then holds, and what breaks a push off."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import run, small_llama
from openai_server import Reply
from vllm_fake import VOCABULARY, FakeVllm
from vllm_reached import PLAIN, PROMPT, adapted, cut_off, hanging, once, reached, weights

from agent_gym.engines.adapters import CONFIG, WEIGHTS, adapter_weights
from agent_gym.engines.base import Completion
from agent_gym.engines.pushing import ADAPTER, FilePusher, choose_pusher, held_back
from agent_gym.engines.vllm_http import VllmServer
from agent_gym.engines.vllm_server import connect
from agent_gym.errors import EngineError, RefusedError
from agent_gym.sections import EngineSection

PUSHED = ["/pause", "/collective_rpc", "/update_weight_version", "/reset_prefix_cache", "/resume"]


def test_every_server_takes_the_same_weights_and_forgets_what_it_read_under_the_old_ones(tmp_path: Any) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes, sync_folder=str(tmp_path)) as engine:
        assert run(engine.score(PROMPT)) == [-2.0] * 3
        run(engine.sync(weights(1.25)))
        assert [fake.order() for fake in fakes] == [PUSHED, PUSHED]
        assert [(fake.bias, fake.label) for fake in fakes] == [(1.25, "1")] * 2
        assert run(engine.score(PROMPT)) == [-1.25] * 3 and engine.version == 1
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_keeps_its_weights_is_found_out_however_small_the_update() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:
        run(engine.sync(weights(1.0)))
        fakes[1].keeps = True
        with pytest.raises(EngineError, match=f"{fakes[1].url} has taken new weights and does not hold them") as caught:
            run(engine.sync(weights(1.0 + 1e-6)))
        # The comparison of log-probabilities would not have seen it.
        assert run(engine.score(PROMPT)) == pytest.approx([-1.0] * 3, abs=1e-5)
        assert f"{fakes[0].url} hold the new ones" in str(caught.value) and engine.version == 1


def test_weights_that_lack_tensors_reach_no_server(tmp_path: Any) -> None:
    fake = FakeVllm()
    with reached(fake, sync_folder=str(tmp_path)) as engine:
        some = ((name, tensor) for name, tensor in weights(1.0) if "layers.0" not in name)
        with pytest.raises(EngineError, match=r"The new weights are not all: \d+ are missing, 'model.layers.0"):
            run(engine.sync(some))
        assert fake.order() == [] and engine.version == 0 and list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_see_all_files_is_named() -> None:
    fake = FakeVllm()

    def half(asked: Any) -> Reply:
        return Reply({"results": [{"tensors": 1, "read": [1.0, 1.0, 4.0], "given": [1.0] * 3, "held": [1.0] * 3}]})

    fake.replies["/collective_rpc"] = half
    with reached(fake) as engine, pytest.raises(EngineError, match=r"has read 1 tensors in .* on a disk that both see"):
        run(engine.sync(weights(1.0)))


def test_an_answer_says_which_weights_it_is_of_even_where_the_version_is_set_anew() -> None:
    fake = FakeVllm()
    with reached(fake) as engine:
        assert once(engine).engine_version == 0
        run(engine.sync(weights(1.0)))
        engine.version = 40
        assert once(engine).engine_version == 40
        run(engine.sync(weights(1.5)))
        assert once(engine).engine_version == 41
        # What was held back or is late may still be of the weights before.
        fake.label = "1"
        assert once(engine).engine_version == 40


def test_a_server_that_cannot_load_is_named_and_what_the_others_hold_is_said(tmp_path: Any) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    fakes[1].replies["/collective_rpc"] = lambda asked: Reply({"results": [{"error": "KeyError: 'a'", "tensors": 1}]})
    with reached(*fakes, sync_folder=str(tmp_path)) as engine:
        with pytest.raises(EngineError) as caught:
            run(engine.sync(weights(1.25)))
        sentence = str(caught.value)
        assert f"{fakes[1].url} cannot load the weights (KeyError: 'a')" in sentence
        assert f"What {fakes[1].url} now hold is not known; {fakes[0].url} hold the new ones" in sentence
        assert [fake.order()[-1] for fake in fakes] == ["/resume", "/resume"]
        assert engine.version == 0 and list(tmp_path.iterdir()) == []


def test_no_server_is_changed_where_one_cannot_be_told() -> None:
    fakes = [FakeVllm(), FakeVllm(dev=False)]
    with reached(*fakes) as engine:
        with pytest.raises(EngineError, match=r"serve-model.*No server has been changed") as caught:
            run(engine.sync(weights(1.25)))
        assert fakes[1].url in str(caught.value)
        assert fakes[0].order() == ["/pause", "/resume"] and fakes[0].bias == 2.0


def test_a_server_that_dies_before_a_push_is_left_out_and_is_used_again_once_it_is_back() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:
        for path in ("/pause", "/health"):
            fakes[0].replies[path] = lambda asked: Reply({}, cut=True)
        run(engine.sync(weights(1.25)))
        assert list(engine.lost) == [fakes[0].url] and fakes[1].bias == 1.25
        fakes[0].replies.clear()
        run(engine.sync(weights(1.5)))
        assert not engine.lost and [fake.bias for fake in fakes] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"/pause": hanging}, "has not answered /pause?mode=wait within 2 s"),
        ({"/collective_rpc": hanging}, "has not answered /collective_rpc within 2 s"),
        ({"/resume": hanging}, "has not answered /resume within 2 s"),
        ({"/collective_rpc": cut_off, "/update_weight_version": cut_off, "/resume": cut_off}, "has died"),
    ],
)
def test_a_server_that_hangs_or_dies_within_a_push_is_left_out_and_the_others_go_on(broken: Any, said: str) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes, sync_timeout=2.0) as engine:
        fakes[0].replies = dict(broken)
        run(engine.sync(weights(1.25)))
        assert list(engine.lost) == [fakes[0].url] and said in engine.lost[fakes[0].url]
        assert engine.version == 1 and fakes[1].bias == 1.25 and fakes[1].order() == PUSHED
        assert once(engine).engine_version == 1


def test_a_server_that_does_not_forget_what_it_read_under_the_old_weights_ends_the_run() -> None:
    fake = FakeVllm()
    fake.replies["/reset_prefix_cache"] = lambda asked: Reply({"success": False})
    with reached(fake) as engine, pytest.raises(EngineError, match="keeps what it has cached under the old weights"):
        run(engine.sync(weights(1.25)))
    assert fake.order()[-1] == "/resume"


def test_a_push_that_is_broken_off_lets_the_servers_go_on_and_leaves_no_files(tmp_path: Any) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    fakes[0].replies["/collective_rpc"] = hanging
    with reached(*fakes, sync_folder=str(tmp_path)) as engine:

        async def begin_and_cancel() -> None:
            task = asyncio.ensure_future(engine.sync(weights(1.25)))
            while not fakes[0].called("/collective_rpc"):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(begin_and_cancel())
        assert [fake.order()[-1] for fake in fakes] == ["/resume"] * 2
        assert engine.version == 0 and list(tmp_path.iterdir()) == []


def test_weights_that_break_off_leave_no_files_and_no_server_is_told(tmp_path: Any) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.ones(2)
        raise RuntimeError("out of memory")

    fake = FakeVllm()
    with reached(fake, sync_folder=str(tmp_path)) as engine:
        with pytest.raises(RuntimeError, match="out of memory"):
            run(engine.sync(broken()))
        assert fake.order() == [] and list(tmp_path.iterdir()) == []


def test_weights_are_written_beside_the_loop_in_which_episodes_are_played(tmp_path: Path) -> None:
    fake, turns = FakeVllm(), threading.Event()

    def slow() -> Iterator[tuple[str, torch.Tensor]]:
        assert turns.wait(10), "nothing is played while weights are written"
        yield from weights(1.25)

    with reached(fake, sync_folder=str(tmp_path)) as engine:

        async def play() -> None:
            writing = asyncio.ensure_future(engine.sync(slow()))
            while not any(tmp_path.iterdir()):
                await asyncio.sleep(0)
            await engine.generate(PROMPT, PLAIN)
            turns.set()
            await writing
            await engine.disconnect()

        run(play())
    assert fake.bias == 1.25


def test_what_waits_for_new_weights_is_not_too_slow() -> None:
    fake = FakeVllm()
    with reached(fake, timeout=1.0) as engine:
        server, held = engine.servers[fake.url], []
        fake.replies["/collective_rpc"] = lambda asked: held.append(server.held)
        run(engine.sync(weights(1.25)))
        assert held == [True] and not server.held

        async def play(tries: int) -> Completion:
            fake.replies["/inference/v1/generate"] = hanging
            before = len(fake.called("/inference/v1/generate"))
            with held_back([server]):
                task = asyncio.ensure_future(engine.generate(PROMPT, PLAIN))
                while len(fake.called("/inference/v1/generate")) < before + tries:
                    await asyncio.sleep(0.01)
            if tries > 1:
                fake.replies.clear()
            try:
                return await task
            finally:
                await engine.disconnect()

        assert run(play(3)).logprobs == [-1.25] * 4 and not engine.lost
        # One that goes on hanging is found out all the same.
        with pytest.raises(RefusedError, match="has not answered within"):
            run(play(1))


def test_servers_that_disagree_are_named() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:
        fakes[0].bias = 2.5
        with pytest.raises(EngineError, match="hold different weights") as caught:
            run(engine.score(PROMPT))
        assert all(fake.url in str(caught.value) for fake in fakes)


def test_a_process_that_does_not_push_reads_the_weights_to_their_end_and_counts_along() -> None:
    fake = FakeVllm()
    with reached(fake, pushes=False) as engine:
        given = weights(1.0)
        run(engine.sync(given))
        assert next(given, None) is None and engine.version == 1 and fake.order() == []


def test_a_process_that_does_not_push_samples_from_the_adapter_all_the_same(tmp_path: Any) -> None:
    fake, model = FakeVllm(adapters=True), adapted()
    with reached(fake, model=model, pushes=False, sync_folder=str(tmp_path)) as engine:
        assert engine.takes_adapter
        run(engine.sync(adapter_weights(model)))
        once(engine)
        assert fake.called("/inference/v1/generate")[-1].body["model"] == ADAPTER
    assert fake.order() == [] and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    said = r"cannot be written to .*file/inside.*engine.sync_folder"
    with (
        reached(FakeVllm(), sync_folder=str(tmp_path / "file" / "inside")) as engine,
        pytest.raises(EngineError, match=said),
    ):
        run(engine.sync(weights(1.0)))


def test_an_adapter_is_swapped_in_where_every_server_loads_them(tmp_path: Any) -> None:
    fake, model = FakeVllm(adapters=True), adapted()
    with reached(fake, model=model, sync_folder=str(tmp_path)) as engine:
        assert engine.takes_adapter
        run(engine.sync(adapter_weights(model)))
        loaded = fake.called("/load_lora_adapter")[0].body
        assert loaded["load_inplace"] and Path(loaded["lora_path"]).is_relative_to(tmp_path)
        assert {path.name for path in Path(loaded["lora_path"]).iterdir()} >= {WEIGHTS, CONFIG}
        once(engine)
        assert fake.called("/inference/v1/generate")[-1].body["model"] == loaded["lora_name"]
    assert fake.order() == ["/pause", "/load_lora_adapter", *PUSHED[2:]] and list(tmp_path.iterdir()) == []


def test_an_adapter_is_replaced_only_while_the_servers_stand_still(tmp_path: Any) -> None:
    fake, model = FakeVllm(adapters=True), adapted()
    with reached(fake, model=model, sync_folder=str(tmp_path)) as engine:
        run(engine.sync(adapter_weights(model)))
        place = Path(fake.called("/load_lora_adapter")[0].body["lora_path"])
        before, at_pause = (place / WEIGHTS).read_bytes(), []
        fake.replies["/pause"] = lambda asked: at_pause.append((place / WEIGHTS).read_bytes())
        run(engine.sync((name, tensor + 1) for name, tensor in adapter_weights(model)))
        assert at_pause == [before] and (place / WEIGHTS).read_bytes() != before
        with pytest.raises(EngineError, match="The new weights are not all"):
            run(engine.sync(iter([])))


def test_without_servers_that_load_adapters_the_merged_weights_go_by_file() -> None:
    with reached(FakeVllm(adapters=True), FakeVllm(), model=adapted()) as engine:
        assert not engine.takes_adapter
    with pytest.raises(EngineError, match="--lora-rank 2"), reached(FakeVllm(), model=adapted(), sync="lora"):
        pass
    with pytest.raises(EngineError, match=r"set model\.lora"), reached(FakeVllm(adapters=True), sync="lora"):
        pass


def test_a_server_on_another_machine_needs_a_folder_that_both_see(tmp_path: Any) -> None:
    far = VllmServer("http://192.0.2.7:8000", key=None, key_name="KEY")
    model = small_llama(VOCABULARY)
    with pytest.raises(EngineError, match=r"http://192\.0\.2\.7:8000 is on another machine.*engine\.sync_folder"):
        choose_pusher(EngineSection(kind="server", urls=[far.url]), [far], model, str(tmp_path))
    shared = EngineSection(kind="server", urls=[far.url], sync_folder=str(tmp_path))
    assert isinstance(choose_pusher(shared, [far], model, str(tmp_path)), FilePusher)


def test_weights_go_to_other_machines_only_where_the_network_is_trusted() -> None:
    section = EngineSection(kind="server", urls=["http://vllm.invalid:8000"])
    with pytest.raises(EngineError, match=r"engine\.trust_network=true"):
        connect(section, model=small_llama(VOCABULARY), max_batch=4)
