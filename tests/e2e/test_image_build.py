"""Images built for real: from the host's apt into a store, whole, once, and the same bytes each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import User
from tests.e2e.containments import VM
from tests.images import image
from tests.unit.image_stores import only
from tests.vm_engine import Engine, drive, said
from vm_images.build import build_image
from vm_images.inventory import find, verify
from vm_images.recipe_document import shipped_recipe
from vm_images.recipe_file import extend
from vm_images.store import IMPORTED, find_image

COMMAND = Path(sys.executable).parent / "mxc-ops"
BUILD_S = 900
PARTS = ("image.json", "initrd", "vmlinux")
MAGIC = {"erofs": (1024, b"\xe2\xe1\xf5\xe0"), "squashfs": (0, b"hsqs")}
BUILD = """
import sys
from vm_images.build import build_image
from vm_images.recipe_document import shipped_recipe
built = build_image(shipped_recipe(sys.argv[1]), lambda step: print(step, flush=True), store=sys.argv[2])
print("fresh" if built.fresh else "there", built.key, flush=True)
"""

pytestmark = pytest.mark.backend("microvm")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "image", *words], capture_output=True, text=True, timeout=BUILD_S, check=False
    )


def building(name: str, store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, name, str(store)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def descendants(pid: int) -> set[int]:
    """Those alive of everything that was started below a process."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found & parents.keys()


def test_what_is_there_is_not_built_again_and_steps_are_plain_lines() -> None:
    before = image("tiny")
    done = run("build", "tiny")
    assert (done.returncode, done.stdout) == (
        0,
        f"tiny: there already, {Path(before.kernel).parent}\n",
    )
    assert done.stderr.splitlines() == ["compiling the agent", "asking apt for the versions of today"]
    answer = json.loads(run("build", "tiny", "--json").stdout)
    assert answer["key"] == before.key and not answer["built"]


def test_a_built_image_is_listed_and_found_intact() -> None:
    tiny = image("tiny")
    listed = json.loads(run("list", "--json").stdout)
    [entry] = [entry for entry in listed["images"] if entry["key"] == tiny.key]
    assert "tiny" in entry["names"] and entry["parts"].keys() == {"vmlinux", "initrd"}
    assert entry["inputs"]["busybox"].startswith("busybox-static=")
    shown = run("verify", "tiny")
    assert (shown.returncode, shown.stdout) == (0, f"{', '.join(sorted(entry['names']))}: intact\n")
    assert verify(find("tiny")) == []


def test_two_builds_at_once_are_one_and_give_the_same_bytes(tmp_path: Path, soak: bool) -> None:
    tiny = image("tiny")
    both = [building("tiny", tmp_path / "store") for _ in range(2)]
    said = [process.communicate(timeout=BUILD_S)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(lines[-1].split()[0] for lines in said) == ["fresh", "there"]
    keys = {lines[-1].split()[1] for lines in said}
    assert len(keys) == 1
    [key] = keys
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == sorted([key, "names"])
    if key != tiny.key:
        pytest.fail("the archive has newer packages than the image that is kept: mxc-ops image build tiny")
    for part in PARTS:
        kept = Path(tiny.kernel).with_name(part).read_bytes()
        assert (tmp_path / "store" / key / part).read_bytes() == kept, part
    if soak:
        imported = tmp_path / "store" / key / IMPORTED
        imported.touch()
        again = building("tiny", tmp_path / "store")
        last = again.communicate(timeout=BUILD_S)[0].splitlines()[-1]
        assert last.startswith("fresh"), "a claim is no build"
        assert not imported.exists()


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.soak), signal.SIGKILL], ids=["int", "kill"]
)
def test_an_interrupted_build_leaves_no_image_and_no_process(number: signal.Signals, tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = building("base", store)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("installing"):
            break
    time.sleep(0.5)  # in the middle of something
    below = descendants(process.pid)
    assert len(below) > 1
    process.send_signal(number)
    process.wait(60)
    process.stdout.close()
    deadline = time.monotonic() + 60
    while below := {pid for pid in below if pid in descendants(pid)}:
        assert time.monotonic() < deadline, below
        time.sleep(0.1)
    left = [path.name for path in store.iterdir()]
    assert all(name.startswith(".building-") for name in left)
    assert bool(left) is (number == signal.SIGKILL)
    from vm_images.store_changes import collect

    assert collect(store, lambda _key: False) == (sorted(left), [], [])
    assert list(store.iterdir()) == []


def test_a_user_is_served_from_the_systems_store(as_user: User) -> None:
    image("tiny")
    if os.geteuid() != 0:
        pytest.skip("the system's store is root's to fill")
    done = as_user(["mxc-ops", "image", "verify", "tiny"])
    assert (done.returncode, "intact" in done.stdout) == (0, True), done.stderr
    refused = as_user(["mxc-ops", "image", "remove", "tiny"])
    assert refused.returncode == 1 and "is for root to change" in refused.stderr


@pytest.mark.backend("vm")
def test_what_is_exported_runs_for_a_user_who_imports_it(as_user: User) -> None:
    """By a name that only his own store has, and from a template that is made of just that."""
    tiny = image("tiny")
    archive, cache = as_user.home / "archive", as_user.home / "empty-cache"
    exported = run("export", "tiny", str(archive))
    assert exported.returncode == 0, exported.stderr
    archive.chmod(0o644)
    imported = as_user(["mxc-ops", "image", "import", archive, "--name", "carried", "--json"])
    assert imported.returncode == 0, imported.stderr
    try:
        place = Path(json.loads(imported.stdout)["path"])
        assert place.is_relative_to(as_user.home) and place.name == tiny.key
        assert {path.stat().st_uid for path in (place, *place.iterdir())} == {as_user.uid}
        config = VM.document("id -un; exit 3", mxcOps={"vm": {"image": "carried"}})
        done = as_user(["mxc-ops", "run", "-"], stdin=json.dumps(config), env={"XDG_CACHE_HOME": str(cache)})
        assert (done.returncode, done.stdout) == (3, "sandbox\n"), done.stderr
        assert list(cache.glob("mxc-ops/templates/*/memory"))
    finally:
        removed = as_user(["mxc-ops", "image", "remove", "carried"])
    assert (removed.returncode, place.exists(), Path(tiny.kernel).exists()) == (0, False, True), (
        removed.stderr
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "tinny"), "expected: agent, base, node, python, tiny, utility"),
        (("build", "python", "--package", "tree"), "add --name my-python"),
        (("build", "base", "--package", "no-such-package-of-debian", "--name", "mine"), "no-such-package"),
        (("verify", "no-such-image"), "mxc-ops image list"),
        (("import", "/etc/passwd"), "mxc-ops image export"),
    ],
)
def test_what_cannot_be_done_is_told_with_a_way_out(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["erofs", "squashfs"])
def test_two_builds_of_a_root_file_system_give_the_same_bytes_and_boot(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = extend(shipped_recipe("python"), kind=kind, name="mine")
    built = [build_image(recipe, print, store=str(tmp_path / name)) for name in ("one", "two")]
    assert built[0].key == built[1].key
    for part in (*PARTS, f"rootfs.{kind}"):
        first, second = (tmp_path / name / built[0].key / part for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes(), part
    only(monkeypatch, tmp_path / "one")
    made = find_image("mine")
    place, magic = MAGIC[kind]
    assert Path(made.rootfs).read_bytes()[place:].startswith(magic)
    with closing(Engine(made, tmp_path / "templates")) as engine:
        drive(runs(engine))


async def runs(engine: Engine) -> None:
    """Programs of the image's root run, and the root can be written to, as far as the guest can tell."""
    async with engine.clone() as clone:
        assert await said(clone, "python3 -c 'print(6 * 7)'") == "42\n"
        assert await said(clone, "echo new > /etc/issue; cat /etc/issue", privileged=True) == "new\n"


@pytest.mark.soak
def test_python_packages_come_from_an_index_by_their_hash(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    digest = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"
    pins.write_text(f"six==1.16.0 --hash=sha256:{digest}\n")
    recipe = extend(shipped_recipe("python"), requirements=str(pins), kind="squashfs", name="mine")
    built = build_image(recipe, print, store=str(tmp_path / "store"))
    root = tmp_path / "store" / built.key / "rootfs.squashfs"
    listed = subprocess.run(["unsquashfs", "-l", root], capture_output=True, text=True, check=True).stdout
    assert "usr/local/lib/python3.11/dist-packages/six.py" in listed
    assert "dist-packages/__pycache__/six.cpython-311.pyc" in listed
    pins.write_text(f"six==1.16.0 --hash=sha256:{'0' * 64}\n")
    wrong = extend(shipped_recipe("python"), requirements=str(pins), name="mine")
    from backends.errors import PrepFailed

    with pytest.raises(PrepFailed, match="pip failed"):
        build_image(wrong, print, store=str(tmp_path / "store"))
