"""Measuring agents: runs over tasks, statistics, pictures."""
