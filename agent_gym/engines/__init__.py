"""Engines turn token prompts into sampled tokens."""
