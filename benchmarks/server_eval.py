"""Measures evaluation against a server: 64 episodes in flight, a server with a latency in a process of its own.

Prints what a turn costs on this side, in microseconds of processor time, the latency not counted, and what a bare
request of httpx costs. It must not grow faster with the length of an episode than the history that is sent.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from loop import OBSERVATION, TrivialEnv

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from openai_server import MODEL, FakeServer, Reply, chat

from agent_gym.engines.base import Sampling
from agent_gym.engines.openai import ChatEngine
from agent_gym.engines.server import Answer, Server
from agent_gym.rollout.chat import MessageChat
from agent_gym.rollout.episode import Episode, EpisodeSettings

IN_FLIGHT = 64
_BARE = 5
"""Requests in turn that are measured without anything of ours."""
ANSWER = json.dumps(chat("go to cabinet 1", usage=(100, 5)).body).encode()
PROMPT = "You act in a household. Solve the task with one action a turn."


def serve(pipe: Connection, latency: float) -> None:
    """Answer until told to stop, and then say how many requests there were at once."""
    reply = Reply(ANSWER)
    server = FakeServer(lambda asked, number: reply, latency=latency)

    async def work() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.fileno(), stop.set)
        await server.serve(pipe.send, stop)

    asyncio.run(work())
    pipe.send((len(server.asked), server.most_in_flight, server.connections))


class Canned(Server):
    """Answers at once, without HTTP: what is left is what is ours."""

    async def post(self, path: str, body: bytes) -> Answer:
        """Return the answer."""
        return Answer(json.loads(ANSWER), 0)


async def play(engine: ChatEngine, turns: int) -> list[float]:
    """Play episodes of so many turns; return the processor seconds of each tenth of them."""
    settings = EpisodeSettings(Sampling(max_tokens=64))
    chat_ = MessageChat(system_prompt=PROMPT)
    episodes = [Episode(TrivialEnv(max_turns=10**6), engine, chat_, settings, seed=n) for n in range(IN_FLIGHT)]
    for episode in episodes:
        await episode.start()
    spent = []

    async def some(episode: Episode, count: int) -> None:
        for _ in range(count):
            await episode.take_turn()

    for _ in range(10):
        began = time.process_time()
        await asyncio.gather(*(some(episode, turns // 10) for episode in episodes))
        spent.append(time.process_time() - began)
    await engine.disconnect()
    return spent


async def bare(url: str, body: bytes, *, shared: bool) -> float:
    """Return the microseconds of a request that httpx sends, without anything of ours.

    Args:
        url: The server's.
        body: What is sent.
        shared: Use one client with a pool for all requests, or a client of its own for each that is in flight.
    """
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    verify = httpx.create_ssl_context()
    clients = [httpx.AsyncClient(limits=limits, verify=verify) for _ in range(1 if shared else IN_FLIGHT)]

    async def some(client: httpx.AsyncClient) -> None:
        for _ in range(_BARE):
            response = await client.post(url + "/chat/completions", content=body)
            json.loads(response.content)

    async def all_() -> None:
        await asyncio.gather(*(some(clients[number % len(clients)]) for number in range(IN_FLIGHT)))

    await all_()
    began = time.process_time()
    await all_()
    seconds = time.process_time() - began
    for client in clients:
        await client.aclose()
    return seconds / (_BARE * IN_FLIGHT) * 1e6


def body_of(turn: int) -> bytes:
    """Return what a request of that turn looks like."""
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": OBSERVATION.format(1, 1)}]
    for number in range(turn):
        messages += [{"role": "assistant", "content": "go to cabinet 1"}]
        messages += [{"role": "user", "content": OBSERVATION.format(number % 20, number % 20)}]
    return json.dumps({"messages": messages, "model": MODEL, "max_tokens": 64}).encode()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--latency", type=float, default=0.05)
    arguments = parser.parse_args()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, arguments.latency))
    process.start()
    url: Any = here.recv()
    middle = body_of(arguments.turns // 2)
    pool, alone = (asyncio.run(bare(url, middle, shared=shared)) for shared in (True, False))
    engine = ChatEngine(Server(url, connections=IN_FLIGHT), MODEL)
    ours = asyncio.run(play(ChatEngine(Canned(url), MODEL), arguments.turns))
    began = time.perf_counter()
    spent = asyncio.run(play(engine, arguments.turns))
    seconds = time.perf_counter() - began
    here.send("stop")
    requests, most, connections = here.recv()
    process.join()
    turns = IN_FLIGHT * arguments.turns
    ideal = arguments.turns * arguments.latency
    print(
        f"{IN_FLIGHT} episodes of {arguments.turns} turns, latency {arguments.latency * 1e3:.0f} ms: {seconds:.1f} s "
        f"({ideal:.1f} s of it latency), {IN_FLIGHT / seconds:.1f} episodes/s, {turns / seconds:.0f} turns/s"
    )
    for what, each in (("processor time a turn", spent), ("of it without HTTP", ours)):
        first, last = each[0] / turns * 1e7, each[-1] / turns * 1e7
        print(f"{what}: {sum(each) / turns * 1e6:.0f} us (first tenth {first:.0f}, last {last:.0f})")
    print(f"a bare request of httpx: {alone:.0f} us with a client for each in flight, {pool:.0f} us with one for all")
    print(f"{requests} requests, at most {most} at once, over {connections} connections")


if __name__ == "__main__":
    main()
