"""Signals: what an objective reads besides the policy."""
