"""Utilities that every other folder may use: files, folders, locks, progress and user errors."""
