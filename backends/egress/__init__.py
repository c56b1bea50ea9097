"""The filtering proxy: a process beside each sandbox whose policy has names, and its only way out."""
