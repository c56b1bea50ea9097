"""pyinfra facts: what a host is like now. Imported by the prep worker and by plain pyinfra only."""
