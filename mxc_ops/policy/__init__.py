"""What a request means before any backend sees it: filesystem view, environment, features."""
