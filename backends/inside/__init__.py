"""What runs inside a sandbox, and the one description of its wire formats that both sides share."""
