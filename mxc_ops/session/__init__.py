"""Sandboxes that outlive a command: provision, start, exec, stop, deprovision (spec: lifecycle.md)."""
