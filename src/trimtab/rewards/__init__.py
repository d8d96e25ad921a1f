"""Verifiable rewards, and the parsing of final answers."""
