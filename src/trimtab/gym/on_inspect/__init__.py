"""What of the gym inspect_ai sees; the only files of it that know inspect_ai."""
