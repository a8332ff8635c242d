"""Experiments on models that think in latent vectors."""
