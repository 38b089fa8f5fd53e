"""Training: one file a method, and the machinery that they share."""
