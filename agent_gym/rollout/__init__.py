"""The agent loop: environment and engine take turns, and everything is recorded."""
