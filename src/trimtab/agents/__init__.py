"""Agents: several small models, or one, that work on tasks with tools."""
