"""Process containers: app containers of Windows."""
