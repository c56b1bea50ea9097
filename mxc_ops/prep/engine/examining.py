"""Functional probes on a host, by our own doctor, brought there for the purpose."""

from __future__ import annotations

from mxc_ops.prep.choices import Choices
from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.engine.tell import Teller


def examine(session: Session, choices: Choices, teller: Teller) -> None:
    """Run the doctor there and tell its probes."""
    raise NotImplementedError
