"""After a reboot of the host a sandbox is provisioned again.

For that its processes are killed, and its record is made one of another boot.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from backends.frozen import replace
from mxc_ops import Policy, Session
from mxc_ops.session.entry import RECORD
from mxc_ops.session.record import as_text
from mxc_ops.session.service import Sessions
from tests.e2e.sessions import until
from tests.images import image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root starts all of them here")
_KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]


def reboot(session: Session) -> None:
    service = Sessions()
    os.kill(service.inspect(session.id)["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: service.inspect(session.id)["state"] == "stale")
    entry = service.store.open(session.id)
    before = replace(entry.record, boot_id="11111111-2222-3333-4444-555555555555")
    Path(entry.path, RECORD).write_bytes(as_text(before))


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("swept", [True, False], ids=["gc", "start"])
def test_it_is_reclaimed_and_starts_again(kind: str, swept: bool) -> None:
    if kind != "bubblewrap":
        image("base")
    service = Sessions()
    with Session.open(Policy(containment=kind)) as session:
        session.exec("echo kept > /tmp/left")
        folder = Path(service.store.open(session.id).record.run_folder)
        reboot(session)
        told = service.inspect(session.id)
        assert (told["state"], told["ended"]) == ("provisioned", "rebooted")
        if swept:
            service.gc()
            assert not folder.exists()
            assert service.inspect(session.id)["ended"] == "rebooted"
        session.start()
        assert session.exec("test -e /tmp/left").exit_code == 1, "it begins anew"
        session.stop()
        told = service.inspect(session.id)
        assert (told["state"], told["ended"]) == ("provisioned", "stopped")
        assert "rebooted" in json.dumps(told["journal"])
