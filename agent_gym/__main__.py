"""The command line as a module, for launchers: torchrun -m agent_gym train ... and accelerate launch -m agent_gym."""

from agent_gym.cli import main

main()
