"""pyinfra operations: one for each kind of item. Imported by the prep worker and by plain pyinfra only."""
