"""The store: images are found whole, from nobody else's hands, and are changed only by whole steps."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.errors import BackendUnavailable, PrepFailed
from backends.qemu.parts import hold_image
from tests.conftest import User
from tests.unit.image_stores import add, only
from tests.unit.test_imports import HOT
from vm_images import inventory, store
from vm_images.store import find_image, stores
from vm_images.store_changes import publish, workplace

PATIENCE_S = 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "images"
    only(monkeypatch, place)
    return place


def test_an_image_is_found_by_name_and_by_key_whatever_our_umask_was(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        key = add(folder)
    finally:
        os.umask(before)
    found = find_image("mine")
    assert (found.name, found.key, found.kernel) == ("mine", key, f"{folder}/{key}/vmlinux")
    assert (found.rootfs, found.rootfs_format) == (f"{folder}/{key}/rootfs.erofs", "erofs")
    assert found.zygote and found.memory_mib == 128 and found.warm_up == "true"
    assert "console=hvc0" in found.command_line
    assert find_image(key).initrd == found.initrd
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / key)] == [0o755] * 2
    assert {path.stat().st_mode & 0o777 for path in (folder / key).iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["other", "", "..", "../mine", "names/mine", "0" * 64])
def test_what_is_not_there_is_told_with_the_command_that_builds_it(folder: Path, name: str) -> None:
    add(folder)
    with pytest.raises(BackendUnavailable) as caught:
        find_image(name)
    assert caught.value.fix == f"mxc-ops image build {name}"


def _shorten(place: Path) -> None:
    (place / "initrd").write_bytes(b"short")


def _open_to_all(place: Path) -> None:
    (place / "vmlinux").chmod(0o666)


def _open_folder(place: Path) -> None:
    place.chmod(0o777)


def _open_store(place: Path) -> None:
    place.parent.chmod(0o1777)


def _link(place: Path) -> None:
    (place / "rootfs.erofs").rename(place / "elsewhere")
    (place / "rootfs.erofs").symlink_to("elsewhere")


def _other_key(place: Path) -> None:
    manifest = place / "image.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"key": "0" * 64}))


def _no_json(place: Path) -> None:
    (place / "image.json").write_text("[]")


def _gone(place: Path) -> None:
    (place / "vmlinux").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_shorten, "initrd has 5 bytes"),
        (_open_to_all, "others than uid"),
        (_open_folder, "others than uid"),
        (_open_store, "others than uid"),
        (_link, "something else than it should be"),
        (_other_key, r"image\.json is not what it should be"),
        (_no_json, r"image\.json is not what it should be"),
        (_gone, "cannot be seen"),
    ],
)
def test_an_image_that_is_not_whole_or_not_safe_is_never_handed_out(
    harm: Callable[[Path], None], said: str, folder: Path
) -> None:
    harm(folder / add(folder))
    with pytest.raises(BackendUnavailable, match=said) as caught:
        find_image("mine")
    assert caught.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to give a file away")
def test_a_part_that_belongs_to_somebody_else_is_not_used(folder: Path) -> None:
    key = add(folder)
    os.chown(folder / key / "initrd", 12345, -1)
    with pytest.raises(BackendUnavailable, match="belongs to uid 12345"):
        find_image("mine")


def test_root_takes_images_from_the_systems_store_alone_and_users_look_there_first(as_user: User) -> None:
    done = as_user("from vm_images.store import stores, own_store; print(stores(), own_store())")
    own = f"{as_user.home}/.local/share/mxc-ops/images"
    assert done.stdout.strip() == f"{((store.SYSTEM_STORE, 0), (own, as_user.uid))} {own}"
    if os.geteuid() == 0:
        assert stores() == ((store.SYSTEM_STORE, 0),)


def test_looking_an_image_up_imports_nothing_that_is_slow(folder: Path, checkout: Path) -> None:
    add(folder)
    source = (
        "import sys; before = set(sys.modules); from vm_images import store;"
        f" store.stores = lambda: (({str(folder)!r}, {os.geteuid()}),); store.find_image('mine');"
        " print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=checkout, capture_output=True, check=True)
    assert not set(done.stdout.decode().split()) & HOT


def test_an_image_in_use_is_neither_removed_nor_collected(folder: Path) -> None:
    key = add(folder)
    held = hold_image(find_image("mine"))
    with pytest.raises(PrepFailed, match="in use") as caught:
        inventory.remove("mine")
    assert caught.value.retryable
    (folder / "names/mine").unlink()
    assert inventory.collect_garbage() == ([], [key], [])
    os.close(held)
    assert inventory.collect_garbage() == ([key], [], [])
    assert sorted(path.name for path in folder.iterdir()) == ["names"]


def test_whoever_was_about_to_use_a_removed_image_is_told_so(folder: Path) -> None:
    add(folder)
    found = find_image("mine")
    inventory.remove("mine")
    with pytest.raises(BackendUnavailable, match="was removed a moment ago") as caught:
        hold_image(found)
    assert caught.value.retryable


def test_an_image_goes_with_its_last_name(folder: Path) -> None:
    key = add(folder)
    assert add(folder, "second") == key
    assert inventory.remove("mine") == []
    assert find_image("second").key == key
    assert inventory.remove("second") == [key]
    assert [path.name for path in folder.iterdir()] == ["names"]
    for name in ("mine", key):
        with pytest.raises(BackendUnavailable, match="there is no image"):
            inventory.remove(name)


def test_by_its_key_an_image_goes_with_all_its_names_even_if_it_is_broken(folder: Path) -> None:
    key = add(folder)
    add(folder, "second")
    (folder / key / "image.json").write_text("junk")
    assert inventory.remove(key) == [key]
    assert list((folder / "names").iterdir()) == []


def test_a_name_that_leads_to_a_newer_image_leaves_the_old_one_to_the_collector(folder: Path) -> None:
    old = add(folder)
    new = add(folder, memory_mib=256)
    assert find_image("mine").key == new and old != new
    images, broken = inventory.everything()
    assert {(image.key, image.names) for image in images} == {(old, ()), (new, ("mine",))} and not broken
    assert inventory.collect_garbage() == ([old], [], [])


def test_a_changed_byte_is_found_by_verifying_and_named(folder: Path) -> None:
    key = add(folder)
    [image], _ = inventory.everything()
    assert inventory.verify(image) == []
    part = folder / key / "rootfs.erofs"
    content = bytearray(part.read_bytes())
    content[7] ^= 1
    part.write_bytes(content)
    (folder / key / "stray").touch()
    found = inventory.verify(image)
    assert [problem.message.split()[0] for problem in found] == [str(part), f"{folder / key}/stray"]
    assert all(problem.fix for problem in found)


def test_a_broken_image_is_replaced_by_the_next_build_of_it(folder: Path) -> None:
    key = add(folder)
    (folder / key / "initrd").write_bytes(b"")
    assert add(folder) == key
    assert find_image("mine").key == key
    assert sorted(path.name for path in folder.iterdir()) == sorted([key, "names"])


def test_what_is_interrupted_leaves_nothing(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workplace(folder, "0" * 64) as place:
        (place / "work/deep").mkdir(parents=True)
        (place / "work/deep").chmod(0o500)
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []


def test_two_who_build_the_same_wait_for_each_other(folder: Path) -> None:
    told: list[str] = []
    source = f"""
import sys
from pathlib import Path
from vm_images.store_changes import workplace
with workplace(Path({str(folder)!r}), "0" * 64) as place:
    (place / "theirs").touch()
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == b"held\n"

    def waiting() -> None:
        told.append("waiting")
        assert other.stdin is not None
        other.stdin.close()

    with workplace(folder, "0" * 64, waiting=waiting) as place:
        assert list(place.iterdir()) == []
    assert told == ["waiting"]
    other.wait(PATIENCE_S)
    other.stdout.close()


def test_whoever_waited_for_a_build_finds_it_published(folder: Path) -> None:
    fds: list[int] = []
    with workplace(folder, "1" * 64) as place:
        (place / "part").touch()
        fds.append(os.open(place, os.O_RDONLY))
        publish(place, folder, "1" * 64)
    # The one who waited has the lock of what is an image now, and must begin anew.
    fcntl.flock(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not store.same_directory(fds[0], str(place))
    os.close(fds[0])
    assert (folder / ("1" * 64) / "part").exists()


def test_the_remains_of_a_killed_build_are_collected_and_a_living_one_is_not(folder: Path) -> None:
    source = f"""
from pathlib import Path
from vm_images.store_changes import workplace
with workplace(Path({str(folder)!r}), "2" * 64) as place:
    (place / "half").write_bytes(b"x")
    print("held", flush=True)
    import time; time.sleep(300)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", source], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    name = f".building-{'2' * 64}"
    assert inventory.collect_garbage() == ([], [], [name])
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert (folder / name / "half").exists()
    assert inventory.collect_garbage() == ([name], [], [])
    assert list(folder.iterdir()) == []


def test_a_name_that_leads_nowhere_is_collected(folder: Path) -> None:
    add(folder)
    (folder / "names/lost").symlink_to(f"../{'3' * 64}")
    inventory.collect_garbage()
    assert sorted(path.name for path in (folder / "names").iterdir()) == ["mine"]


def test_a_store_that_cannot_be_written_is_told_with_the_reason(as_user: User) -> None:
    source = (
        "from pathlib import Path; from vm_images.store_changes import workplace\n"
        "from backends.errors import PrepFailed\n"
        "try:\n    workplace(Path('/proc/images')).__enter__()\n"
        "except PrepFailed as error: print(error.problems[0].code, error.fix)"
    )
    done = as_user(source)
    assert done.stdout.startswith("image_store "), done.stderr
