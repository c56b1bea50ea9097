"""What a utility host is to be, as who starts it hands it down."""

from __future__ import annotations

import pickle

from backends.frozen import frozen
from backends.qemu.confinement import Confinement
from backends.qemu.template_plan import TemplatePlan

__all__ = ["HostAssignment"]


@frozen
class HostAssignment:
    """Descriptors are by their numbers.

    `report` gets one line of JSON: ``{"running": pid}``, or the error. `lock` is the machine's place's.
    """

    template: TemplatePlan
    confinement: Confinement
    idle_s: float
    folder: int
    lock: int
    report: int
    environment: tuple[tuple[str, str], ...]

    def encode(self) -> bytes:
        return pickle.dumps(self)

    @classmethod
    def decode(cls, text: bytes) -> HostAssignment:
        """Only of what our own starter has handed down."""
        made = pickle.loads(text)  # noqa: S301 - a memfd of whoever started us, who is us
        assert isinstance(made, cls)
        return made
