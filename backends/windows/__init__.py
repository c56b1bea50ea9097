"""What the backends on Windows share."""
