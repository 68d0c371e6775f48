"""Callbacks of the Trainer: progress, checkpoints, and the record of a run."""
