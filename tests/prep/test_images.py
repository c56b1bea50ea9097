"""Images, brought and built: put in place whole or not at all, removed only when they are ours and unused."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxc_ops.prep.receipts import PENDING
from mxc_ops.prep.remote_doctor import ARCHIVE, sources
from tests.images import image
from tests.prep.lxc_host import IMAGES, Host, store
from vm_images.archive import export_image

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make mount namespaces"),
]

OPERATION = "images.installed"
IMAGE = f"{IMAGES}/lxc-debian"
BUILT = {"image": "lxc-debian", "path": IMAGE}
# As much of debootstrap(8) as a mirror is not needed for; `$HOLD` makes it wait in the middle.
DEBOOTSTRAP = """#!/bin/sh
for root; do test -d "$root" && break; done
mkdir -p "$root/usr/bin" "$root/etc/apt" "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives"
echo "$http_proxy $*" > "$root/asked"
mount -t tmpfs tmpfs "$root/etc/apt"
if test -e /srv/hold; then echo begun > /srv/begun; sleep 60; fi
umount "$root/etc/apt"
for leak in etc/resolv.conf etc/hostname var/lib/apt/lists/index var/cache/apt/archives/a.deb; do
    echo host > "$root/$leak"
done
"""


@pytest.fixture
def machine() -> Iterator[Host]:
    with store() as made:
        yield made


def archive(folder: Path, name: str, content: str) -> dict[str, str]:
    """An archive of a root filesystem with a set-uid program and a device, as arguments of the item."""
    root = folder / name
    (root / "usr/bin").mkdir(parents=True)
    program = root / "usr/bin/su"
    program.write_text(content)
    program.chmod(0o4755)
    os.mknod(root / "disk", 0o60666, os.makedev(7, 250))
    packed = folder / f"{name}.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(root, ".")
    return {**BUILT, "source": str(packed), "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}


def bring(machine: Host, arguments: dict[str, str]) -> None:
    """Upload as the engine does, then apply."""
    machine.run(f"rm -rf /srv/uploads; mkdir /srv/uploads; cp {arguments['source']} /srv/uploads/archive")
    machine.apply(OPERATION, arguments, uploads="/srv/uploads")


def files(machine: Host) -> list[str]:
    return machine.run("find /srv/images /srv/uploads 2>/dev/null || true").split()


def test_an_image_is_brought_once_and_taken_away_again(machine: Host, tmp_path: Path) -> None:
    wanted = archive(tmp_path, "one", "one")
    bring(machine, wanted)
    assert machine.run(f"cat {IMAGE}/rootfs/usr/bin/su") == "one"
    again = machine.decide(OPERATION, wanted)
    assert (again.commands, again.refusal) == ((), "")
    assert "/srv/uploads/archive" not in files(machine)
    assert not machine.undo().refusal
    assert files(machine) == []


def test_a_brought_image_has_no_set_uid_programs_and_no_devices(machine: Host, tmp_path: Path) -> None:
    bring(machine, archive(tmp_path, "one", "one"))
    assert machine.run(f"find {IMAGE} -perm /6000 -o -type b -o -type c") == ""
    assert machine.run(f"stat -c %a {IMAGE}/rootfs/usr/bin/su") == "755\n"


def test_another_archive_replaces_the_image_and_a_host_that_asks_for_none_keeps_it(
    machine: Host, tmp_path: Path
) -> None:
    bring(machine, archive(tmp_path, "one", "one"))
    bring(machine, archive(tmp_path, "two", "two"))
    assert machine.run(f"cat {IMAGE}/rootfs/usr/bin/su") == "two"
    assert not machine.decide(OPERATION, BUILT).commands
    assert not machine.undo().refusal
    assert "/srv/images" not in files(machine)


def test_an_archive_that_is_not_what_was_promised_replaces_nothing(machine: Host, tmp_path: Path) -> None:
    bring(machine, archive(tmp_path, "one", "one"))
    other = {**archive(tmp_path, "two", "two"), "sha256": "0" * 64}
    with pytest.raises(AssertionError, match="checksum"):
        bring(machine, other)
    assert machine.run(f"cat {IMAGE}/rootfs/usr/bin/su") == "one"


def test_an_archive_that_holds_no_root_filesystem_is_refused_by_name(machine: Host, tmp_path: Path) -> None:
    wanted = archive(tmp_path, "one", "one")
    packed = tmp_path / "nested.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(tmp_path / "one", "rootfs")
    nested = {**wanted, "source": str(packed), "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}
    with pytest.raises(AssertionError, match="the archive has no usr/bin at its top"):
        bring(machine, nested)
    assert machine.decide(OPERATION, wanted).before == "not there"


def test_something_else_in_its_place_is_refused_and_left_alone(machine: Host) -> None:
    machine.run(f"mkdir -p {IMAGE}/theirs")
    decision = machine.decide(OPERATION, BUILT)
    assert "not of our making" in decision.refusal and not decision.commands
    assert machine.run(f"ls {IMAGE}") == "theirs\n"


def test_an_image_that_somebody_changed_is_not_removed(machine: Host, tmp_path: Path) -> None:
    bring(machine, archive(tmp_path, "one", "one"))
    machine.run(f"echo {{}} > {IMAGE}/stamp.json")
    assert "its stamp differs" in machine.undo().refusal
    assert machine.receipt()
    machine.undo(insist=True)
    assert not machine.receipt()
    assert f"{IMAGE}/rootfs" in files(machine)


def test_an_image_in_use_is_neither_replaced_nor_removed(machine: Host, tmp_path: Path) -> None:
    bring(machine, archive(tmp_path, "one", "one"))
    use = machine.popen(
        f"exec unshare --mount sh -c 'mount --bind {IMAGE}/rootfs /mnt && echo mounted && exec sleep 60'"
    )
    try:
        assert use.stdout is not None and use.stdout.readline() == "mounted\n"
        replaced = machine.decide(OPERATION, archive(tmp_path, "two", "two"))
        assert "in use by sleep" in replaced.refusal and not replaced.commands
        assert "in use by sleep" in machine.undo().refusal
        assert f"{IMAGE}/rootfs/usr/bin/su" in files(machine)
    finally:
        use.kill()
        use.communicate()
    assert not machine.undo().refusal


# --- built on the host


@pytest.fixture
def building(machine: Host) -> Host:
    """A host whose debootstrap needs no mirror."""
    machine.run("mount -t tmpfs tmpfs /usr/local/sbin")
    machine.run(
        f"cat > /usr/local/sbin/debootstrap <<'END'\n{DEBOOTSTRAP}END\nchmod 755 /usr/local/sbin/debootstrap"
    )
    return machine


def test_an_image_is_built_once_from_the_hosts_own_mirror(building: Host) -> None:
    decision = building.apply(OPERATION, BUILT)
    codename = building.run(". /etc/os-release; echo $VERSION_CODENAME").strip()
    asked = building.run(f"cat {IMAGE}/rootfs/asked")
    assert " --variant=minbase --force-check-gpg " in asked and f" {codename} " in asked
    mirror = asked.split()[-1]
    assert mirror in decision.after
    assert mirror in building.run("apt-get indextargets --format '$(SITE)'").split()
    assert not building.decide(OPERATION, BUILT).commands
    assert not building.undo().refusal
    assert "/srv/images" not in files(building)


def test_nothing_of_the_host_is_left_in_what_it_built(building: Host) -> None:
    building.apply(OPERATION, BUILT)
    assert building.run(f"grep -rlx host {IMAGE} || true") == ""


@pytest.mark.parametrize(
    ("setting", "proxy"), [("http://192.0.2.1:3142", "http://192.0.2.1:3142"), ("DIRECT", "")]
)
def test_it_is_built_through_the_proxy_that_apt_uses(building: Host, setting: str, proxy: str) -> None:
    building.run(f"echo 'Acquire::http::Proxy \"{setting}\";' > /srv/apt.conf")
    building.run("mount -t tmpfs tmpfs /etc/apt/apt.conf.d && cp /srv/apt.conf /etc/apt/apt.conf.d/50proxy")
    building.apply(OPERATION, BUILT)
    assert building.run(f"cat {IMAGE}/rootfs/asked").startswith(f"{proxy} ")


def test_a_build_that_was_killed_counts_for_nothing_and_is_made_again(building: Host) -> None:
    building.run("touch /srv/hold; mkfifo /srv/begun")
    decision = building.decide(OPERATION, BUILT)
    build = subprocess.Popen(
        ["nsenter", "-t", str(building.process), "-m", "sh", "-ec", *decision.commands],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    building.run("cat /srv/begun; rm /srv/begun /srv/hold")
    os.killpg(build.pid, 9)
    build.wait()
    assert f"{IMAGE}.new" in files(building)
    assert f" {IMAGE}.new" not in building.run("cat /proc/self/mountinfo")
    assert building.decide(OPERATION, BUILT).before == "not there"
    building.apply(OPERATION, BUILT)
    assert not building.decide(OPERATION, BUILT).commands
    assert f"{IMAGE}.new" not in files(building)


def test_a_killed_replacement_leaves_remains_that_go_the_next_time(building: Host) -> None:
    building.apply(OPERATION, BUILT)
    building.run(f"mkdir {IMAGE}.old")
    assert "remains of an interrupted change" in building.decide(OPERATION, BUILT).before
    building.apply(OPERATION, BUILT)
    assert f"{IMAGE}.old" not in files(building)
    assert not building.undo().refusal
    assert "/srv/images" not in files(building)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs debootstrap")
def test_a_container_runs_from_what_debootstrap_built(machine: Host) -> None:
    machine.apply(OPERATION, BUILT)
    receipt = machine.receipt()
    assert receipt is not None and receipt.state != PENDING
    assert machine.run(f"chroot {IMAGE}/rootfs sh -c 'id -u; dpkg-query -W dpkg | cut -f 1'") == "0\ndpkg\n"
    assert machine.run(f"find {IMAGE} -perm /4000 -o -type b -o -type c") == ""
    assert not machine.undo().refusal
    assert "/srv/images" not in files(machine)


# --- images of virtual machines, in their store

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
