"""Sandboxes that outlive the command that made them: what is kept of each, and their lifecycle."""
