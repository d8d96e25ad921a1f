"""Rows that are made and not read."""
