"""Rows from files, the hub or generators; rows as token ids and labels; batches."""
