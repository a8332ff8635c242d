"""Across models: the checkpoints of a training run, models trained apart."""
