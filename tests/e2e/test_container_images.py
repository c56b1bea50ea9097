"""Images of containers from real archives and a real registry, through the command line and the library."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backends.container_image import ImageUser
from backends.errors import BackendUnavailable, ConfigError, PrepFailed
from tests import container_archives as archives
from tests.conftest import User
from tests.container_archives import digest, file, oci_archive, system, tar
from tests.container_store import Store, own_store, unpacked
from tests.containers import debian_archive
from tests.e2e.registry import Registry, registry
from vm_images.oci import inventory, unpack
from vm_images.oci import registry as registry_module
from vm_images.oci.confined import run_confined
from vm_images.oci.importing import import_archive, pull
from vm_images.oci.store import StoredContainer, find_container_image
from vm_images.store import lock_folder

MXC_OPS = Path(sys.executable).parent / "mxc-ops"
IMPORT_S = 120
BUSYBOX = Path(shutil.which("busybox") or "/bin/busybox")
RUN = {"Env": ["PATH=/bin", "MARK=yes"], "User": "web", "WorkingDir": "/srv/app"}
TOP = tar(file("home/web/note", "hello", uid=33, gid=34, mtime=1_600_000_000))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with own_store(monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def skopeo(source: str, target: str, *options: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", *options, source, target], check=True)


def packed(content: bytes, program: str) -> bytes:
    return subprocess.run([program, "-c"], input=content, capture_output=True, check=True).stdout


def test_a_root_file_system_runs_whatever_it_is_compressed_by(store: Store) -> None:
    content = system(BUSYBOX.read_bytes())
    first = store.bring(content, "mini")
    assert first.fresh
    for program in ("gzip", "zstd", "xz"):
        again = store.bring(packed(content, program), f"mini:{program}")
        assert (again.stored.key, again.fresh) == (first.stored.key, False)
    assert store.keys() == [first.stored.key]
    found = find_container_image("mini:zstd")
    assert (found.digest, found.env, found.user, found.has_shell) == (
        "",
        (),
        ImageUser(0, 0, (), "/root"),
        True,
    )
    assert found.rootfs_bytes == Path(found.rootfs).stat().st_size
    assert found.rootfs_bytes % 4096 == 0
    with unpacked(found) as root:
        words = ["chroot", root, "/bin/sh", "-c", "echo in $(busybox pwd)"]
        said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert said.stdout == "in /\n"


def test_one_image_in_every_archive_is_one_image_of_the_store(store: Store, tmp_path: Path) -> None:
    archive = store.archive(oci_archive(system(), TOP, run=RUN, name="host.example/team/tool:1"), "plain.oci")
    skopeo(f"oci-archive:{archive}", f"oci:{tmp_path}/layout:x", "--dest-compress-format=gzip")
    skopeo(f"oci:{tmp_path}/layout:x", f"docker-archive:{tmp_path}/docker.tar:team/tool:2")
    skopeo(f"oci:{tmp_path}/layout:x", f"oci-archive:{tmp_path}/gzip.oci:latest")
    (tmp_path / "docker.tar.zst").write_bytes(packed((tmp_path / "docker.tar").read_bytes(), "zstd"))
    made = [
        import_archive(path)
        for path in (archive, tmp_path / "docker.tar", tmp_path / "docker.tar.zst", tmp_path / "gzip.oci")
    ]
    assert len({one.stored.key for one in made}) == 1
    assert [one.reference for one in made] == [
        *("host.example/team/tool:1", "docker.io/team/tool:2", "docker.io/team/tool:2", "")
    ]
    found = find_container_image("team/tool:2")
    assert (found.env, found.working_dir) == ((("PATH", "/bin"), ("MARK", "yes")), "/srv/app")
    assert found.user == ImageUser(33, 34, (44,), "/var/www")
    with unpacked(found) as root:
        note = root / "home/web/note"
        assert (note.read_text(), note.stat().st_uid, note.stat().st_gid) == ("hello", 33, 34)
        assert (root / "home").stat().st_uid == 0


def test_two_imports_give_the_same_bytes_wherever_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    contents: list[str] = []
    for most_in_memory in (unpack.MOST_IN_MEMORY, 0):
        monkeypatch.setattr(unpack, "MOST_IN_MEMORY", most_in_memory)
        with own_store(monkeypatch) as store:
            found = store.image(oci_archive(system(), TOP))
            contents.append(found.content)
    assert contents[0] == contents[1]


def test_several_images_in_one_archive_are_told_apart_by_reference(store: Store) -> None:
    layers = [tar(file("a", number)) for number in ("1", "2")]
    settings = [archives.config([layer]) for layer in layers]
    index = [
        {
            "Config": f"{digest(one)[7:]}.json",
            "RepoTags": [f"team/{n}:1"],
            "Layers": [f"{digest(layer)[7:]}.tar"],
        }
        for n, (one, layer) in enumerate(zip(settings, layers, strict=True))
    ]
    members = [file(f"{digest(layer)[7:]}.tar", layer) for layer in layers]
    members += [file(f"{digest(one)[7:]}.json", one) for one in settings]
    archive = store.archive(tar(*members, file("manifest.json", json.dumps(index))))
    with pytest.raises(ConfigError, match=r"it has 2 images: 'docker.io/team/0:1', 'docker.io/team/1:1'"):
        import_archive(archive)
    with pytest.raises(ConfigError, match="it has 2 images"):
        import_archive(archive, "team/other")
    found = import_archive(archive, "team/1:1")
    with unpacked(find_container_image("team/1:1")) as root:
        assert (root / "a").read_text() == "2"
    assert found.reference == "docker.io/team/1:1"


def test_an_image_is_pulled_by_tag_and_by_digest_and_found_by_either(
    store: Store, served: Registry, tmp_path: Path
) -> None:
    archive = store.archive(oci_archive(system(), TOP, run=RUN))
    pushed = served.push(archive, "team/tool:1")
    reference = f"{served.place}/team/tool:1"
    found = pull(reference)
    assert (found.reference, found.fresh, found.stored.manifest["digest"]) == (reference, True, pushed)
    assert found.stored.key == import_archive(archive).stored.key
    by_digest = f"{served.place}/team/tool@{pushed}"
    assert find_container_image(by_digest).key == find_container_image(pushed).key == found.stored.key
    assert pull(by_digest).fresh is False
    assert find_container_image(found.stored.manifest["configDigest"]).key == found.stored.key
    layers = [packed(layer, "zstd") for layer in (system(), TOP)]
    archive = store.archive(oci_archive(*layers, settings=archives.config([system(), TOP], RUN)))
    zstd = served.push(archive, "team/tool:zstd")
    assert zstd != pushed
    assert pull(f"{served.place}/team/tool:zstd").stored.key == found.stored.key


def test_another_image_that_comes_instead_is_refused(
    store: Store, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever got hold of the program that reads what the registry says."""
    asked, other = (
        served.push(store.archive(oci_archive(system(), each)), f"team/{name}:1")
        for name, each in (("asked", TOP), ("other", tar(file("b", b"other"))))
    )
    place = f"{served.place}/team"

    def subverted(words: Sequence[str], *rest: Any, **named: Any) -> bytes:
        if "copy" in words:
            words = [word.replace(f"asked@{asked}", f"other@{other}") for word in words]
        return run_confined(words, *rest, **named)

    monkeypatch.setattr(registry_module, "run_confined", subverted)
    for reference in (f"{place}/asked:1", f"{place}/asked@{asked}"):
        with pytest.raises(ConfigError) as caught:
            pull(reference)
        assert caught.value.problems[0].code == "image_digest"
    assert store.keys() == []


def test_of_an_index_our_platform_is_pulled(store: Store, served: Registry) -> None:
    pushed = served.push(store.archive(oci_archive(system())), "multi:amd64")
    listed: list[dict[str, Any]] = [
        {
            "mediaType": archives.MANIFEST,
            "digest": pushed,
            "size": len(_manifest(served, "multi", pushed)),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture in ("arm64", "amd64")
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": archives.INDEX, "manifests": listed}).encode()
    served.put("multi", "latest", archives.INDEX, index)
    found = pull(f"{served.place}/multi")
    assert find_container_image(f"{served.place}/multi@{digest(index)}").key == found.stored.key
    foreign = json.dumps({"schemaVersion": 2, "mediaType": archives.INDEX, "manifests": listed[:1]}).encode()
    served.put("multi", "foreign", archives.INDEX, foreign)
    with pytest.raises(ConfigError, match="nothing for linux/amd64"):
        pull(f"{served.place}/multi:foreign")


def _manifest(served: Registry, name: str, reference: str) -> bytes:
    told = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{served.place}/{name}@{reference}"]
    return subprocess.run(told, capture_output=True, check=True).stdout


def test_what_a_registry_does_not_have_is_told_and_nothing_is_left(store: Store, served: Registry) -> None:
    with pytest.raises(PrepFailed) as failed:
        pull(f"{served.place}/nobody/has:this")
    assert (failed.value.problems[0].code, failed.value.retryable) == ("image_not_fetched", True)
    assert "mxc-ops image import" in failed.value.fix
    with pytest.raises(PrepFailed):
        pull(f"{served.place}/team/tool@sha256:{'0' * 64}")
    assert (store.keys(), store.remains()) == ([], [])


def test_looking_an_image_up_asks_no_registry(store: Store, served: Registry) -> None:
    served.push(store.archive(oci_archive(system())), "never:1")
    before = served.requests
    with pytest.raises(BackendUnavailable) as missing:
        find_container_image(f"{served.place}/never:1", "/wslc/image")
    assert served.requests == before > 0
    assert (missing.value.path, missing.value.problems[0].code) == ("/wslc/image", "no_image")
    assert f"mxc-ops image pull {served.place}/never:1" in missing.value.fix


def test_who_imports_the_same_at_once_stores_it_once(store: Store) -> None:
    archive = store.archive(oci_archive(system(), TOP))

    def bring(name: str) -> StoredContainer:
        return import_archive(archive, name)

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(bring, ("mine:0", "mine:1", "mine:2")))
    assert len({one.stored.key for one in made}) == 1
    assert [one.fresh for one in made].count(True) == 1
    assert (store.keys(), store.remains()) == ([made[0].stored.key], [])
    ((found,), broken) = inventory.everything()
    assert (found.names, broken) == (tuple(f"docker.io/library/mine:{number}" for number in range(3)), [])


def test_an_image_goes_with_its_last_name_and_not_while_it_is_used(store: Store) -> None:
    archive = store.archive(system())
    found = import_archive(archive, "one")
    import_archive(archive, "two")
    assert inventory.remove("one") == []
    with lock_folder(found.stored.folder, "two"), pytest.raises(PrepFailed, match="in use"):
        inventory.remove("two")
    assert find_container_image("two").key == found.stored.key
    assert inventory.remove("two") == [found.stored.key]
    with pytest.raises(BackendUnavailable):
        inventory.remove("two")
    assert import_archive(archive, "one").fresh, "the archive is not known any more"


def test_what_a_run_imports_stays_while_it_is_asked_for(store: Store) -> None:
    archive = store.archive(system())
    found = import_archive(archive, named=False)
    assert inventory.collect_garbage() == ([], [], [])
    (link,) = store.containers.glob("digests/unnamed:*")
    week_ago = time.time() - 8 * 86_400
    os.utime(link, (week_ago, week_ago), follow_symlinks=False)
    assert import_archive(archive, named=False).fresh is False
    assert inventory.collect_garbage()[0] == [], "it was asked for just now"
    os.utime(link, (week_ago, week_ago), follow_symlinks=False)
    assert inventory.collect_garbage() == ([found.stored.key], [], [])
    assert not list((store.containers / "digests").iterdir())
    assert import_archive(archive, named=False).fresh


def test_what_has_no_name_stays_until_it_is_collected(store: Store) -> None:
    found = import_archive(store.archive(system()))
    assert (found.reference, import_archive(store.archive(system())).stored.key) == ("", found.stored.key)
    with lock_folder(found.stored.folder, "x"):
        assert inventory.collect_garbage() == ([], [found.stored.key], [])
    assert inventory.collect_garbage() == ([found.stored.key], [], [])
    assert not list((store.containers / "digests").iterdir())


KILLED = """
import sys
from pathlib import Path
from vm_images import store
from vm_images.oci import unpack
from vm_images.oci.importing import import_archive
store.own_store = lambda: sys.argv[1] + "/images"
store.stores = lambda: ((sys.argv[1] + "/images", __import__("os").geteuid()),)
unpack.MOST_IN_MEMORY = 0
made = unpack.run_confined
def report(step):
    print(step, flush=True)
    if step.startswith(sys.argv[3]):
        input()
def watched(words, *more, **options):
    made(words, *more, **options)
    report("packed")
unpack.run_confined = watched
import_archive(Path(sys.argv[2]), "mine", report=report)
"""


@pytest.mark.parametrize("step", ["checking layer 2", "unpacking", "packed"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_import_is_no_image_and_the_next_one_is(
    store: Store, checkout: Path, step: str, number: signal.Signals
) -> None:
    archive = store.archive(oci_archive(system(), TOP))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, store.folder, archive, step],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=checkout,
    )
    assert child.stdout is not None
    assert any(line.decode().startswith(step) for line in child.stdout)
    child.send_signal(number)
    child.communicate()
    assert store.keys() == []
    assert bool(store.remains()) is (number is signal.SIGKILL)
    found = import_archive(archive, "mine")
    assert (store.keys(), store.remains()) == ([found.stored.key], [])


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian with Python, as a tar file."""
    return debian_archive(tmp_path_factory.mktemp("debian"))


def test_debian_with_python_runs_as_it_did(debian: Path, store: Store) -> None:
    found = import_archive(debian, "python:3")
    with unpacked(find_container_image("python:3")) as root:
        line = "import json, sqlite3, sys; print(json.dumps(sys.version_info[:2]))"
        said = subprocess.run(
            ["chroot", root, "python3", "-c", line], capture_output=True, text=True, check=True
        )
    assert json.loads(said.stdout) == [3, 11]
    assert found.stored.manifest["shell"] is True


class Caller:
    """`mxc-ops image` of an account, with a store of its own."""

    def __init__(self, user: User | None, folder: Path) -> None:
        self._user = user
        self.folder = folder

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        if self._user is not None:
            return self._user(
                ["mxc-ops", "image", *words], timeout_s=IMPORT_S, env={"XDG_DATA_HOME": str(self.folder)}
            )
        return subprocess.run(
            [MXC_OPS, "image", *words], capture_output=True, text=True, timeout=IMPORT_S, check=False
        )

    def json(self, *words: str | Path) -> Any:
        done = self(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(params=["root", "user"])
def command(request: pytest.FixtureRequest, as_user: User) -> Iterator[Caller]:
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can call as root")
    folder = as_user.home / "data"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, as_user.uid, as_user.gid)
    yield Caller(as_user if request.param == "user" else None, folder)
    shutil.rmtree(folder)


def test_the_command_line_from_import_to_removal(command: Caller, tmp_path: Path) -> None:
    name = f"tests.example/cli-{os.getpid()}"
    archive = Path("/var/tmp") / f"mxc-ops-{os.getpid()}.oci"
    content = tar(file("su", "x", mode=0o4755), file("of-web", "x", uid=33, gid=34))
    archive.write_bytes(oci_archive(system(), content, run=RUN, name=f"{name}:1"))
    try:
        told = command.json("import", archive)
        assert (told["name"], told["imported"], told["source"]) == (f"{name}:1", True, "OCI archive")
        assert "1 set-uid or set-gid bits cleared" in told["notes"][0]
        assert command.json("import", archive, "--name", f"{name}:2")["imported"] is False
        listed = [one for one in command.json("list")["images"] if one["key"] == told["key"]]
        assert [(one["kind"], one["names"], one["digest"]) for one in listed] == [
            ("container", [f"{name}:1", f"{name}:2"], told["digest"])
        ]
        shown = command("list").stdout
        assert told["digest"][7:19] in shown
        assert f"{name}:1" in shown
        assert command.json("verify", f"{name}:1", told["digest"])["problems"] == []
        assert command.json("remove", f"{name}:1")["removed"] == []
        assert command.json("remove", f"{name}:2")["removed"] == [told["key"]]
        assert command("verify", f"{name}:1").returncode == 1
        refused = command("import", archive, "--name", "NO")
        assert (refused.returncode, "is no reference of an image" in refused.stderr) == (1, True)
        small = command("import", archive, "--limit", "entries=3")
        assert "more than 3 entries" in small.stderr
        archive.write_bytes(system())
        assert "mxc-ops image import" in command("import", archive).stderr
    finally:
        archive.unlink()
        command("remove", f"{name}:1", f"{name}:2")


def test_the_command_line_pulls(command: Caller, served: Registry, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(oci_archive(system(), tar(file("pid", str(os.getpid())))))
    served.push(archive, "cli:1")
    told = command.json("pull", f"{served.place}/cli:1")
    assert (told["name"], told["source"]) == (f"{served.place}/cli:1", "registry")
    assert command.json("remove", f"{served.place}/cli:1")["removed"] == [told["key"]]
    missing = command("pull", f"{served.place}/none")
    assert (missing.returncode, "cannot be fetched" in missing.stderr) == (1, True)


def test_what_a_users_killed_import_left_goes_though_it_is_others(as_user: User) -> None:
    if os.geteuid() != 0:
        pytest.skip("takes an account of the tests' own")
    folder = as_user.home / "killed"
    folder.mkdir()
    os.chown(folder, as_user.uid, as_user.gid)
    archive = folder / "archive"
    archive.write_bytes(
        oci_archive(tar(file("d/of-web", "x", uid=33, gid=34), archives.directory("d", uid=33)))
    )
    child = as_user.popen(["python3", "-c", KILLED, folder, archive, "packed"])
    assert child.stdout is not None
    assert any(line.startswith(b"packed") for line in child.stdout)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    left = list((folder / "containers").glob(".building-*"))
    assert left
    code = KILLED.partition("unpack.MOST")[0] + "from vm_images.oci.inventory import collect_garbage\n"
    done = as_user([sys.executable, "-c", f"{code}print(len(collect_garbage()[0]))", folder])
    assert (done.stdout.strip(), done.stderr) == (str(len(left)), "")
    assert not list((folder / "containers").glob(".*"))


def test_a_user_without_ids_is_told_how_to_get_them(as_user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
from vm_images.oci import users_namespace
users_namespace.ranges_of = lambda names, count: None
try:
    with users_namespace.image_users():
        pass
except Exception as error:
    print(error.problems[0].code, error.fix)
"""
    if os.geteuid() != 0:
        pytest.skip("takes an account of the tests' own")
    assert as_user(source).stdout.startswith("no_subordinate_ids usermod --add-subuids")
