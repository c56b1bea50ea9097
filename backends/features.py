"""What a document can ask for beyond command, files and limits, and how a backend answers it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from backends.frozen import frozen


class Feature(Enum):
    """A thing a document can ask for beyond command, files, limits: answered by `Capabilities.support`."""

    EGRESS = "outbound network"
    INGRESS = "inbound network"
    HOST_LOOPBACK = "access to the host's loopback"
    NETWORK_PROXY = "a network proxy"
    UI = "a user interface"
    CLIPBOARD = "the clipboard"
    INPUT_INJECTION = "input injection"
    DACL_FALLBACK = "changing host access lists as a fallback"
    TELEMETRY = "telemetry"
    PRESERVE_POLICY = "keeping the policy after the run"
    KEEP_CONTAINER = "keeping the container after the run"
    BACKEND_SECTION = "settings of another backend"
    EXPERIMENTAL = "an experimental setting"


class Support(Enum):
    """How a backend answers a `Feature` (design §2, Refusal)."""

    GIVEN = "given"
    NEVER_GIVEN = "never given"  # permits what the sandbox does not offer anyway: loads with a warning
    REFUSED = "refused"


@frozen
class Asked:
    """One field of the document that asks for a `Feature`; `value` is the field's own text, safe to print."""

    feature: Feature
    pointer: str
    value: str


@frozen
class Capabilities:
    """What a backend can hold, as data.

    `support` answers each `Feature` (one that is absent is REFUSED); `reasons` says why.
    """

    containment: str
    support: Mapping[Feature, Support]
    reasons: Mapping[Feature, str]
    limits: frozenset[str]
    interactive_tty: bool
