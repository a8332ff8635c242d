"""Edits by degrees: attention moved between keys, activations moved to the clean run, format words added."""
