"""Sandboxes whose process 1 is our launcher: bubblewrap's and LXC's. What they have in common is here."""
