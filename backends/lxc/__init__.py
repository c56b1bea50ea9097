"""Linux containers, through the LXC tools."""
