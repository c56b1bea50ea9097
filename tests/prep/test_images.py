"""Images, brought and built: in the store whole or not at all, removed only when ours and unused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxc_ops.prep.remote_doctor import ARCHIVE, sources
from tests.images import image
from tests.prep.lxc_host import IMAGES, Host, store
from vm_images.archive import export_image

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make mount namespaces"),
]


@pytest.fixture
def machine() -> Iterator[Host]:
    with store() as made:
        yield made


def files(machine: Host) -> list[str]:
    return machine.run("find /srv/images /srv/uploads 2>/dev/null || true").split()


STORED = "images.stored"
PYTHON = {"image": "python", "path": IMAGES}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An exported image, as arguments of the item. The smallest one will do for any."""
    file = tmp_path_factory.mktemp("exported") / "image"
    key = image("tiny").key
    export_image("tiny", file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {**PYTHON, "source": str(file), "sha256": digest, "key": key}


def upload(machine: Host, folder: Path, image_file: str = "") -> None:
    """Bring our sources, and an image, as the engine does."""
    (folder / ARCHIVE).write_bytes(sources().packed)
    machine.run(f"rm -rf /srv/uploads; mkdir /srv/uploads; cp {folder}/{ARCHIVE} /srv/uploads/")
    if image_file:
        machine.run(f"cp {image_file} /srv/uploads/image")


def test_an_exported_image_is_brought_to_the_store_once_and_taken_away_again(
    machine: Host, exported: dict[str, str], tmp_path: Path
) -> None:
    upload(machine, tmp_path, exported["source"])
    machine.apply(STORED, exported, uploads="/srv/uploads")
    assert machine.run(f"readlink {IMAGES}/names/python").strip() == f"../{exported['key']}"
    found = machine.run(f"cd {IMAGES}/names/python/ && ls").split()
    assert found == ["image.json", "imported", "initrd", "vmlinux"]
    assert not machine.decide(STORED, exported).commands
    assert not machine.decide(STORED, PYTHON).commands, "any image of this name will do"
    assert not machine.undo().refusal
    assert [name for name in files(machine) if not name.startswith("/srv/uploads")] == []
    assert machine.run("ls -d /tmp/mxc-ops-image.* 2>/dev/null || true") == ""


def test_a_stored_image_that_a_machine_runs_from_is_not_taken_away(
    machine: Host, exported: dict[str, str], tmp_path: Path
) -> None:
    upload(machine, tmp_path, exported["source"])
    machine.apply(STORED, exported, uploads="/srv/uploads")
    use = machine.popen(f"exec flock -s {IMAGES}/{exported['key']} sh -c 'echo held; exec sleep 60'")
    try:
        assert use.stdout is not None and use.stdout.readline() == "held\n"
        assert "runs from it" in machine.undo().refusal
        assert f"{IMAGES}/{exported['key']}/vmlinux" in files(machine)
    finally:
        use.kill()
        use.communicate()
    assert not machine.undo().refusal


def test_what_is_not_the_promised_image_or_not_our_sources_changes_nothing(
    machine: Host, exported: dict[str, str], tmp_path: Path
) -> None:
    upload(machine, tmp_path, exported["source"])
    with pytest.raises(AssertionError, match="checksum"):
        machine.apply(STORED, {**exported, "sha256": "0" * 64}, uploads="/srv/uploads")
    upload(machine, tmp_path, exported["source"])
    machine.run(f"echo more >> /srv/uploads/{ARCHIVE}")
    with pytest.raises(AssertionError, match="what arrived is not what was sent"):
        machine.apply(STORED, exported, uploads="/srv/uploads")
    assert machine.decide(STORED, exported).before == "not there"


@pytest.mark.soak
def test_a_host_builds_its_image_from_its_own_mirror(machine: Host, tmp_path: Path) -> None:
    upload(machine, tmp_path)
    machine.apply(STORED, PYTHON, uploads="/srv/uploads")
    found = machine.run(f"cd {IMAGES}/names/python/ && ls").split()
    assert found == ["image.json", "initrd", "rootfs.erofs", "vmlinux"]
    assert not machine.decide(STORED, PYTHON).commands
    assert not machine.undo().refusal
    assert "/srv/images" not in files(machine)
