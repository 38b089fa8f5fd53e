"""Environments; each is a TextEnv."""
