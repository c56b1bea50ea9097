"""Isolation sessions: a Windows session of an account of its own."""
