"""A typed function is a tool: an agent in a household may ask for prices."""

import agent_gym


@agent_gym.tool
def price(item: str, count: int = 1) -> str:
    """Look up what something costs.

    Args:
        item: Its name.
        count: How many of it.
    """
    return f"{count} x {item}: {3 * count} dollars"


env = agent_gym.make("alfworld", size="tiny", wrappers=[{"id": "tools", "tools": [price]}])
env.reset(seed=0)
print(env.step('<tool_call>{"name": "price", "arguments": {"item": "mug", "count": 2}}</tool_call>')[0])
