"""One file per family of public checkpoints: its config.json and its weight names, read both ways."""
