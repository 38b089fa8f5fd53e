"""What a run leaves on disk: its folder, its trajectories, its checkpoints."""
