"""An environment with tools: the agent may calculate before it answers."""

import agent_gym
from agent_gym.envs.tool_env import Grade


class Squares(agent_gym.ToolEnv):
    """What is the square of a number?"""

    def tasks(self, split):
        return [agent_gym.Task(str(number), split) for number in range(10, 100)]

    def _ask(self, task, rng):
        return f"What is {task.id} squared?"

    def _grade(self, answer):
        return Grade(float(answer == str(int(self.task.id) ** 2)))


env = Squares(tools=["calculator"])
env.reset(options={"task": "12"})
print(env.step('<tool_call>{"name": "calculator", "arguments": {"expression": "12 ** 2"}}</tool_call>')[0])
print(env.step("<answer>144</answer>")[1])
