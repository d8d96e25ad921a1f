"""Rewards that can be verified, and the reading of final answers."""
