"""Hyperlight: source for a runtime in a micro-VM, by its makers' packages or a clone of a warm template."""

from backends.hyperlight.backend import HyperlightBackend

__all__ = ["BACKEND"]

BACKEND = HyperlightBackend()
