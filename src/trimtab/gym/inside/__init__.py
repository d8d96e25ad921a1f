"""What runs inside a sandbox before the agent's command does: the standard library alone, read from these files."""
