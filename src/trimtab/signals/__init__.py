"""What an objective reads besides the policy."""
