"""State, optimisers, THE train step, checkpoints, the loop."""
