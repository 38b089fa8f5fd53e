"""`agent-gym play`: a person plays."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from agent_gym.registry import make


def run_play(env_id: str, options: dict[str, Any], *, task: str | None, seed: int | None) -> None:
    """Show observations and ask for actions until the episode ends."""
    console = Console(highlight=False)
    env = make(env_id, **options)
    observation, info = env.reset(seed=seed, options={"task": task} if task else None)
    console.print(f"[dim]task {escape(info['task_id'])}; ? lists what you can do, Ctrl-D ends[/dim]\n")
    console.print(escape(observation))
    ended = False
    while not ended:
        try:
            action = console.input("\n[bold green]> [/bold green]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print("\nended by you")
            break
        if action == "?":
            actions = info["admissible_actions"]
            console.print(escape("\n".join(actions)) if actions else "This environment lists no actions.")
            continue
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        console.print(escape(observation))
    if ended:
        verdict = "solved" if info["success"] else "not solved"
        console.print(f"\n[bold]{verdict}[/bold] after {info['turn']} turns, score {info['score']:.2f}")
    env.close()
