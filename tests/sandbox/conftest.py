"""The fixtures of all tests of sandboxes."""

from sandboxes import attacks, bubblewrap, docker_options, isolating, sandbox

__all__ = ["attacks", "bubblewrap", "docker_options", "isolating", "sandbox"]
