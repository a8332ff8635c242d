"""Heads and attention patterns that change places."""
