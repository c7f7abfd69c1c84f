"""A page that shows trajectories: a run's records, a training step, a chat."""
