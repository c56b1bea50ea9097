"""A sandbox's network: its policy, the namespace that holds it, and the rules in there."""
