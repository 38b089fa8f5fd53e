"""How tools of one episode find each other."""

import threading
from collections.abc import Hashable

from agent_gym.tools.episode import current_episode, tools_of


def test_the_tools_of_a_toolbox_see_the_same_and_those_of_another_do_not() -> None:
    first, second = object(), object()
    seen: list[Hashable] = []
    for box in (first, first, second):
        with tools_of(box):
            seen.append(current_episode())
    assert seen[0] == seen[1] != seen[2]
    assert current_episode() not in seen


def test_without_a_toolbox_a_thread_is_an_episode() -> None:
    seen: list[Hashable] = []
    barrier = threading.Barrier(2)  # both live at once: the number of a thread that has ended is given away again

    def look() -> None:
        seen.append(current_episode())
        barrier.wait()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] != seen[1]
    assert current_episode() == current_episode()
