"""The host side of the guest agent, with a guest that keeps to the protocol."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time

import pytest

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestLost, GuestRefused, GuestSilent
from backends.agent.identity import new_identity
from backends.inside.agent_protocol import (
    MAX_STREAMS,
    Flag,
    GuestCommand,
    GuestDone,
    GuestEnded,
    GuestFiles,
    GuestMount,
    GuestReport,
    Kind,
    Step,
)
from tests.guests import FakeGuest, Program, fake_guest, in_loop, pair, raw_guest

NULL = {"stdin": None, "stdout": lambda _: None, "stderr": lambda _: None}
