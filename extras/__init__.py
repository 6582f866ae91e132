"""What goes beyond the assignment: one small file a purpose. README.txt says which."""


class UsageError(Exception):
    """Unusable input or wrong usage; the message is one line: cause and mend (exit code 2)."""
