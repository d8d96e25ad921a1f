"""Inference engines: programs that run in an environment and a process of their own, and are never imported."""
