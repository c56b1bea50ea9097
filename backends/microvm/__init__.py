"""Virtual machines that start in a fraction of a second and run one command."""
