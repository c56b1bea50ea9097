"""WSL containers: Linux containers of Windows' own."""
