"""WSL containers by Windows' own tools: what they would be told is planned here, and launched nowhere yet."""
