"""Container images that somebody hostile made: each is refused by name, or harmless once it is in.

Whatever is refused leaves the store as it was, and nothing outside the store is ever touched.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from backends.base import SandboxRequest
from backends.container_image import ContainerImage
from backends.errors import ConfigError, MxcError, PrepFailed
from backends.wslc_settings import WslcSettings
from mxc_ops.container_lookup import with_container
from tests import container_archives as archives
from tests.container_archives import Entry, directory, entry, file, hard_link, symlink, system, tar
from tests.container_store import Store, own_store, unpacked
from vm_images.oci import unpack
from vm_images.oci.confined import View, run_confined
from vm_images.oci.importing import Terms, import_archive, pull
from vm_images.oci.limits import Limits
from vm_images.oci.store import find_container
from vm_images.oci.users_namespace import image_users

Image = Callable[..., bytes]
SMALL = Terms(Limits(unpacked_bytes=1 << 20, archive_bytes=4 << 20, entries=50, layers=4, depth=8))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with own_store(monkeypatch) as made:
        yield made
        assert made.remains() == []


@pytest.fixture(params=["root file system", "OCI", "docker"])
def wrapped(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    """An archive of one layer, of each kind."""
    wrapping: dict[str, Callable[[bytes], bytes]] = {
        "root file system": lambda layer: layer,
        "OCI": archives.oci_archive,
        "docker": archives.docker_archive,
    }
    return wrapping[request.param]


def refusal(store: Store, archive: bytes, terms: Terms | None = None) -> str:
    """What is said of it; the store has nothing of it."""
    before = store.keys()
    with pytest.raises(ConfigError) as refused:
        store.bring(archive, terms=terms)
    assert store.keys() == before
    assert store.remains() == []
    (problem,) = refused.value.problems
    return f"{problem.code}: {problem.message}"


ESCAPES: dict[str, list[Entry]] = {
    "'../x'": [file("../x", "out")],
    "'a/../../x'": [file("a/../../x", "out")],
    "'/etc/x'": [file("/etc/x", "out")],
    "'evil/x'": [symlink("evil", "../../../.."), file("evil/x", "out")],
    "'deep/evil/x'": [symlink("deep/evil", "../.."), file("deep/evil/x", "out")],
    "'one/x'": [symlink("two", ".."), symlink("one", "two"), file("one/x", "out")],
    "'h'": [hard_link("h", "../../../etc/passwd")],
    "'h2'": [hard_link("h2", "/etc/passwd")],
    "'h3'": [symlink("evil", "../../etc"), hard_link("h3", "evil/passwd")],
    "'loop/x'": [symlink("loop", "pool"), symlink("pool", "loop"), file("loop/x")],
    "'../d'": [directory("../d")],
    "'../l'": [symlink("../l", "/")],
    "'../dev'": [entry("../dev", tarfile.CHRTYPE)],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_what_leads_out_is_refused_by_its_name(
    store: Store, wrapped: Callable[[bytes], bytes], name: str
) -> None:
    said = refusal(store, wrapped(tar(*ESCAPES[name])))
    assert said.startswith("image_escape: ")
    assert name in said
    assert not list(store.folder.rglob("x"))


def test_the_layer_is_told_too(store: Store) -> None:
    archive = archives.oci_archive(system(), tar(file("fine")), tar(file("../x")))
    assert "layer 3 of 3: '../x'" in refusal(store, archive)


def test_a_link_of_one_layer_does_not_lead_the_next_one_out(store: Store) -> None:
    first = tar(symlink("etc", "/"), symlink("out", "../../../../var"))
    assert "layer 2 of 2: 'out/x'" in refusal(store, archives.oci_archive(first, tar(file("out/x"))))


def test_links_that_lead_anywhere_are_what_they_are_and_lead_nowhere_but_inside(store: Store) -> None:
    archive = tar(
        *(symlink("abs", "/etc/shadow"), symlink("up", "../../../../etc/shadow"), symlink("etc", "/real")),
        *(directory("real"), file("etc/passwd", "root:x:0:0:inside:/root:/bin/sh\n")),
    )
    image = store.image(archive)
    with unpacked(image) as root:
        assert str((root / "abs").readlink()) == "/etc/shadow"
        assert str((root / "up").readlink()) == "../../../../etc/shadow"
        assert (root / "real/passwd").read_text().startswith("root:x:0:0:inside")


def test_who_the_user_is_is_not_read_through_a_link_to_the_host(store: Store) -> None:
    """The host's own files say who is root there; the image has none."""
    layer = tar(symlink("etc", "../../../../../../etc"), symlink("passwd", "/etc/passwd"))
    said = refusal(store, archives.oci_archive(layer, run={"User": "daemon"}))
    assert said.startswith("image_user: ")
    layer = tar(directory("etc"), symlink("etc/passwd", "../../../../../../etc/passwd"))
    assert refusal(store, archives.oci_archive(layer, run={"User": "daemon"})).startswith("image_user: ")


def test_devices_pipes_and_attributes_are_left_out_and_told(
    store: Store, wrapped: Callable[[bytes], bytes]
) -> None:
    capability = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00\x00"}
    other = {"SCHILY.xattr.user.mark": "x", "LIBARCHIVE.xattr.trusted.overlay.opaque": "eQ=="}
    archive = tar(
        entry("dev/sda", tarfile.BLKTYPE, devmajor=8, mode=0o666),
        entry("dev/mem", tarfile.CHRTYPE, devmajor=1, devminor=1, mode=0o666),
        entry("whiteout", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        file("bin/ping", "x", mode=0o755, pax_headers=capability),
        file("marked", "x", pax_headers=other),
    )
    found = store.bring(wrapped(archive))
    told = "; ".join(found.notes)
    assert "3 device files left out: 'dev/sda' in layer 1, 'dev/mem'" in told
    assert "1 named pipes left out: 'pipe'" in told
    assert "1 capabilities of files left out: 'bin/ping'" in told
    assert "2 extended attributes left out: 'marked'" in told
    rootfs = f"{found.stored.folder}/rootfs.erofs"
    sizes = subprocess.run(
        ["dump.erofs", "--path=/bin/ping", rootfs], capture_output=True, text=True, check=True
    )
    assert "Xattr size: 0" in sizes.stdout
    image = store.image(wrapped(archive), "again")
    with unpacked(image) as root:
        assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
            "bin",
            "bin/ping",
            "marked",
        ]


def test_set_id_bits_go_unless_they_are_asked_for(store: Store, wrapped: Callable[[bytes], bytes]) -> None:
    archive = wrapped(
        tar(
            file("su", "x", mode=0o4755, uid=0),
            file("wall", "x", mode=0o2755, gid=5),
            directory("mail", mode=0o2775, gid=8),
            directory("tmp", mode=0o1777),
        )
    )
    found = store.bring(archive)
    assert "3 set-uid or set-gid bits cleared" in found.notes[0]
    assert modes(store.image(archive)) == [0o755, 0o755, 0o775, 0o1777]
    kept = store.image(archive, "kept", Terms(keep_set_id=True))
    assert (kept.has_set_id, store.image(archive).has_set_id) == (True, False)
    assert kept.key != found.stored.key
    assert modes(kept) == [0o4755, 0o2755, 0o2775, 0o1777]


def modes(image: ContainerImage) -> list[int]:
    with unpacked(image, owners=False) as root:
        return [stat.S_IMODE((root / name).stat().st_mode) for name in ("su", "wall", "mail", "tmp")]


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (file(".wh..wh..opq"), "hides the whole image"),
        (file("./.wh..wh..opq"), "hides the whole image"),
        (file("root/.wh..wh..opq"), "hides the whole image"),
        (file(".wh."), "no file's name"),
        (file(".wh.."), "no file's name"),
        (file(".wh..."), "no file's name"),
        (file("d/.wh..wh..wh.x"), "no file's name"),
        (directory(".wh.d"), "no empty file"),
        (symlink(".wh.d", "/etc"), "no empty file"),
        (hard_link(".wh.d", "d/f"), "no empty file"),
        (file("../.wh.x"), "leads out"),
        (file(".wh./../x"), "leads out"),
        (file("evil/.wh.passwd"), "leads out"),
        (file("evil/.wh..wh..opq"), "leads out"),
    ],
)
def test_whiteouts_that_are_none_are_refused(store: Store, member: Entry, why: str) -> None:
    below = tar(directory("d"), file("d/f"), symlink("root", "/"), symlink("evil", "../../../etc"))
    said = refusal(store, archives.oci_archive(below, tar(member)))
    assert why in said
    assert f"layer 2 of 2: {member[0].name!a}" in said


@pytest.mark.parametrize(
    "members",
    [
        [file("etc/.wh.passwd/x")],
        [file(".wh.foo/bar")],
        [directory("etc/.wh.passwd/x")],
        [symlink("etc/.wh.passwd/x", "y")],
        [hard_link("etc/.wh.passwd/x", "foo/bar")],
        [file("etc/.wh.passwd/.wh.x")],
        [file("etc/.wh.passwd/.wh..wh..opq")],
        [file("etc/.wh.passwd/.")],
        [entry("etc/.wh.passwd/x", tarfile.CHRTYPE)],
        [symlink("in", "etc/.wh.passwd"), file("in/x")],
        [symlink("in", ".wh.foo/deep"), directory("in/x")],
    ],
)
def test_nothing_on_the_way_to_an_entry_looks_like_a_whiteout(
    store: Store, wrapped: Callable[[bytes], bytes], members: list[Entry]
) -> None:
    """What unpacks the layer would take such a directory for one, and take away what it names."""
    below = [directory("etc"), file("etc/passwd", "x"), file("foo/bar")]
    said = refusal(store, wrapped(tar(*below, *members)))
    assert said.startswith("image_whiteout: ")
    said = refusal(store, archives.oci_archive(tar(*below), tar(*members)))
    assert said.startswith("image_whiteout: layer 2 of 2: ")


def test_a_root_file_system_has_no_whiteouts(store: Store) -> None:
    assert refusal(store, tar(directory("d"), file("d/.wh.x"))).startswith("image_whiteout: ")


def test_whiteouts_hide_what_is_below_and_are_not_seen(store: Store) -> None:
    below = tar(file("a/gone"), file("a/kept"), file("b/old"), symlink("c", "a"), file("a/through"))
    above = tar(
        file("a/.wh.gone"), file("b/.wh..wh..opq"), file("b/new"), file("c/.wh.through"), file(".wh.no")
    )
    with unpacked(store.image(archives.oci_archive(below, above))) as root:
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert names == ["a", "a/kept", "b", "b/new", "c"]


def test_a_whiteout_after_what_its_own_layer_brings_does_not_hide_that(store: Store) -> None:
    above = tar(file("d/new", "2"), file("d/.wh.new"), file("d/.wh..wh..opq"))
    with unpacked(store.image(archives.oci_archive(tar(file("d/old")), above))) as root:
        assert [path.name for path in (root / "d").iterdir()] == ["new"]


def bomb(size: int) -> bytes:
    return tar(file("big", bytes(size)))


@pytest.mark.parametrize("pack", ["gzip", "zstd", "xz"])
def test_a_bomb_is_refused_before_it_fills_the_disk(store: Store, pack: str) -> None:
    packed = subprocess.run([pack, "-c"], input=bomb(64 << 20), capture_output=True, check=True).stdout
    assert len(packed) < 1 << 20
    assert refusal(store, packed, SMALL).startswith("image_too_large: ")
    layers = archives.layout(
        *_layout_of([packed], archives.config([bomb(64 << 20)])),
    )
    assert refusal(store, layers, SMALL).startswith("image_too_large: layer 1 of 1 ")


def _layout_of(stored: list[bytes], settings: bytes) -> tuple[list[bytes], Any]:
    described = archives.manifest(stored, settings)
    root = archives.descriptor(described, archives.MANIFEST)
    return [*stored, settings, described], {"schemaVersion": 2, "manifests": [root]}


def test_layers_are_bounded_together(store: Store) -> None:
    layers = [bomb(400_000 + number) for number in range(3)]
    assert "layer 3 of 3" in refusal(store, archives.oci_archive(*layers), SMALL)


@pytest.mark.parametrize(
    ("archive", "code"),
    [
        (tar(*(file(str(number)) for number in range(51))), "image_too_large"),
        (archives.oci_archive(*(tar(file(f"a{number}")) for number in range(5))), "image_too_large"),
        (tar(directory("/".join("d" * 9))), "image_depth"),
        (tar(file("n" * 256)), "image_name"),
        (tar(file("/".join(["n" * 200] * 30))), "image_depth"),
        (tar(symlink("l", "t" * 5000)), "image_entry"),
        (tar(file("x", pax_headers={"comment": "c" * (1 << 17)})), "image_damaged"),
    ],
    ids=["entries", "layers", "depth", "name", "path", "target", "header"],
)
def test_what_is_too_much_is_refused(store: Store, archive: bytes, code: str) -> None:
    assert refusal(store, archive, SMALL).startswith(f"{code}: ")


def test_directories_that_no_entry_names_are_entries_too(
    store: Store, wrapped: Callable[[bytes], bytes]
) -> None:
    deep = [file("/".join([f"{number}", *("d" * 6), "f"])) for number in range(10)]
    assert "more than 50 entries" in refusal(store, wrapped(tar(*deep)), SMALL)
    last = hard_link("/".join("xyxyxyx"), "f")
    links = [hard_link("/".join([f"{number}", *("d" * 6), "f"]), "f") for number in range(10)]
    assert "more than 50 entries" in refusal(store, wrapped(tar(file("f"), *links)), SMALL)
    assert store.bring(wrapped(tar(*deep[:5], file("f"), last)), terms=SMALL).stored.key


@pytest.mark.parametrize("place", [0, 1], ids=["one layer", "the second"])
def test_what_is_written_anew_is_bounded_too(store: Store, place: int) -> None:
    """Each such entry is some 1 kB, and means directories whose names are a hundred times that."""
    wide = Terms(Limits(unpacked_bytes=1 << 20, archive_bytes=4 << 20))
    deep = tar(*(file("/".join([f"{number}", *["d" * 40] * 80])) for number in range(10)))
    assert len(deep) < 1 << 16
    layers = [*[bomb(1 << 19)] * place, deep]
    said = refusal(store, archives.oci_archive(*layers), wide)
    assert said.startswith(f"image_too_large: layer {place + 1} of {place + 1}: ")
    assert "takes more than" in said


def test_links_that_wander_are_refused(store: Store, wrapped: Callable[[bytes], bytes]) -> None:
    wandering = "d/../" * 800
    chain = [symlink(f"l{number}", f"{wandering}l{number + 1}") for number in range(39)]
    said = refusal(store, wrapped(tar(directory("d"), *chain, symlink("l39", "d"), file("l0/f"))))
    assert said.startswith("image_escape: ")
    assert "'l0/f'" in said


def test_what_many_entries_wander_is_bounded_too(store: Store, wrapped: Callable[[bytes], bytes]) -> None:
    wandering = symlink("l", f"{'d/../' * 300}d")
    through = [file(f"l/{number}") for number in range(40)]
    assert "steps" in refusal(store, wrapped(tar(directory("d"), wandering, *through)), SMALL)


def test_whiteouts_that_ask_for_the_same_again_and_again_are_bounded(store: Store) -> None:
    terms = Terms(Limits(entries=600))
    above = tar(*(file(f"d/{number}") for number in range(300)), *[file("d/.wh..wh..opq")] * 200)
    assert "steps" in refusal(store, archives.oci_archive(tar(directory("d")), above), terms)


def test_a_file_that_is_larger_than_any_archive_is_not_read(store: Store) -> None:
    path = store.folder / "huge"
    with path.open("wb") as huge:
        huge.truncate(1 << 40)
    with pytest.raises(ConfigError, match="more than"):
        import_archive(path, "mine")


@contextmanager
def endless_registry(whole: bytes) -> Generator[str]:
    """One whose image has a layer that is what it is told to be, and one of 1 byte that never ends."""
    settings = archives.config([whole, b"x"])
    described = archives.manifest([whole, b"x"], settings)
    known = {archives.digest(blob): blob for blob in (settings, whole, described)}
    over = Event()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            name = self.path.rpartition("/")[2]
            if "/manifests/" in self.path:
                self.send_header("Content-Type", archives.MANIFEST)
                name = archives.digest(described)
            self.end_headers()
            if name in known:
                self.wfile.write(known[name])
            elif name == archives.digest(b"x"):
                with suppress(OSError):
                    while not over.wait(0.02):
                        self.wfile.write(bytes(1 << 18))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}/endless"
        finally:
            over.set()
            server.shutdown()


def test_a_registry_that_sends_more_than_it_told_is_left(store: Store) -> None:
    """One layer that is large does not make room for others."""
    with endless_registry(bytes(32 << 20)) as reference, pytest.raises(ConfigError) as refused:
        pull(reference, terms=Terms(Limits(document_bytes=1 << 16)))
    assert refused.value.problems[0].code == "image_too_large"
    assert "more comes than was told" in str(refused.value)
    assert (store.keys(), store.remains()) == ([], [])


def test_layers_of_a_docker_archive_are_bounded_together_before_they_are_looked_at(store: Store) -> None:
    layers = [bomb((3 << 20) + number) for number in range(3)]
    packed = [gzip.compress(layer) for layer in layers]
    archive = archives.docker_archive(*packed, settings=archives.config(layers))
    assert len(archive) < 1 << 20
    assert "more comes than was told" in refusal(store, archive, SMALL)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "nothing"])
def test_what_is_no_file_is_refused(store: Store, kind: str) -> None:
    path = store.folder / "odd"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path = Path("/dev/zero")
        case _:
            pass
    with pytest.raises(ConfigError, match=r"it is no regular file|cannot be read"):
        import_archive(path, "mine")


def changed(archive: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert archive.count(old)
    return archive.replace(old, new)


@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
def test_a_blob_that_is_not_what_its_digest_says_is_refused(store: Store, what: str) -> None:
    layer = tar(file("a", "genuine"))
    archive = archives.oci_archive(layer, run={"Env": ["MARK=genuine"]})
    match what:
        case "layer":
            spoilt = archive.replace(b"genuine\0", b"changed\0")
        case "config":
            spoilt = changed(archive, b"MARK=genuine", b"MARK=changed")
        case _:
            spoilt = changed(archive, b'"schemaVersion": 2, "mediaType"', b'"schemaVersion": 2,  "mediaTyp"')
    assert refusal(store, spoilt).startswith("image_digest: ")


def test_a_layer_that_is_not_what_the_config_tells_is_refused(store: Store) -> None:
    layer, other = tar(file("a", "1")), tar(file("a", "2"))
    for make in (archives.oci_archive, archives.docker_archive):
        with pytest.raises(MxcError):
            store.bring(make(layer, settings=archives.config([other])))
    assert "is not what the config tells" in refusal(
        store, archives.oci_archive(layer, settings=archives.config([other]))
    )
    assert store.keys() == []


def test_an_image_that_is_asked_for_by_digest_has_that(store: Store) -> None:
    archive = archives.oci_archive(system())
    with pytest.raises(ConfigError, match="it is not sha256:0000"):
        store.bring(archive, f"mine@sha256:{'0' * 64}")
    assert store.keys() == []


@pytest.mark.parametrize("cut", [1, 512, 1024, 5000])
def test_what_is_cut_off_is_refused(store: Store, cut: int) -> None:
    layer = tar(file("a", bytes(3000)), file("b", bytes(100)))
    assert refusal(store, layer[:-cut].rstrip(b"\0") if cut < 5000 else layer[:2000])
    zipped = gzip.compress(layer)
    assert refusal(store, zipped[:-8]).startswith("image_damaged: ")
    whole = archives.oci_archive(zipped, settings=archives.config([layer]))
    assert store.bring(whole, "whole").stored.key
    shorter = zipped[: len(zipped) // 2]
    assert refusal(store, archives.oci_archive(shorter, settings=archives.config([layer]))).startswith(
        "image_damaged: layer 1 of 1"
    )


def test_a_tar_file_that_ends_without_its_end_is_cut_off(store: Store) -> None:
    layer = tar(file("a", "x"), file("b", "y"))
    end = layer.index(b"b\0")
    assert "cut off" in refusal(store, layer[:end])


def test_nothing_follows_the_end(store: Store) -> None:
    two = tar(file("a")) + tar(file("../x"))
    assert "something follows" in refusal(store, two)


def test_a_broken_header_is_not_the_end(store: Store) -> None:
    layer = bytearray(tar(file("a"), file("b"), file("c")))
    layer[512 + 148] ^= 1  # of the second one's checksum
    assert "a header is broken" in refusal(store, bytes(layer))


def test_a_manifest_names_blobs_that_are_there(store: Store) -> None:
    layer, settings = tar(file("a")), archives.config([tar(file("a"))])
    blobs, index = _layout_of([layer], settings)
    for missing in blobs:
        there = [blob for blob in blobs if blob is not missing]
        assert refusal(store, archives.layout(there, index)).startswith("image_blob_missing: ")


def nested(levels: int, platform: dict[str, str] | None = None) -> bytes:
    layer, settings = system(), archives.config([system()])
    described = archives.manifest([layer], settings)
    blobs = [layer, settings, described]
    root = archives.descriptor(described, archives.MANIFEST, platform=platform or {})
    for _ in range(levels):
        inner = json.dumps({"schemaVersion": 2, "manifests": [root]}).encode()
        blobs.append(inner)
        root = archives.descriptor(inner, archives.INDEX)
    return archives.layout(blobs, {"schemaVersion": 2, "manifests": [root]})


def test_indexes_lead_to_images_and_not_on_and_on(store: Store) -> None:
    assert store.bring(nested(1), "one").stored.key
    assert refusal(store, nested(2)).startswith("image_document: ")
    assert refusal(store, nested(40)).startswith("image_document: ")


def test_of_several_platforms_ours_is_taken_and_others_are_refused(store: Store) -> None:
    other = {"os": "linux", "architecture": "arm64"}
    assert "arm64" in refusal(store, nested(1, other))
    layer, settings = system(), archives.config([system()])
    mine = archives.manifest([layer], settings)
    foreign = archives.manifest([layer], settings, annotations={"for": "arm64"})
    index = {
        "schemaVersion": 2,
        "manifests": [
            archives.descriptor(foreign, archives.MANIFEST, platform=other),
            archives.descriptor(mine, archives.MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
        ],
    }
    found = store.bring(archives.layout([layer, settings, mine, foreign], index))
    assert found.stored.manifest["digest"] == archives.digest(mine)


@pytest.mark.parametrize("make", [archives.oci_archive, archives.docker_archive])
@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"run": {"Env": "PATH=/bin"}}, "image_config"),
        ({"run": {"Env": ["A=1", 2]}}, "image_config"),
        ({"run": {"WorkingDir": "/srv/../../etc"}}, "image_config"),
        ({"run": {"User": "nobody-here"}}, "image_user"),
        ({"settings": archives.config([system()], os="windows")}, "image_platform"),
        ({"settings": archives.config([system()], architecture="s390x")}, "image_platform"),
        ({"settings": archives.config([system()], history=["x" * (5 << 20)])}, "image_too_large"),
    ],
)
def test_a_config_that_is_absurd_is_refused(
    store: Store, make: Image, more: dict[str, Any], code: str
) -> None:
    try:
        said = refusal(store, make(system(), **more))
    except MxcError as error:  # what skopeo itself does not take
        assert make is archives.docker_archive
        said = f"{code}: {error}"
    assert said.startswith(f"{code}: ")


@pytest.mark.parametrize("make", [archives.oci_archive, archives.docker_archive])
def test_an_archive_of_a_run_does_not_say_what_names_mean(store: Store, make: Image) -> None:
    """Whoever may name an archive to a run could change what everybody else's runs start from."""
    name = "docker.io/library/alpine:latest"
    genuine = store.bring(system(), name).stored.key
    called: dict[str, Any] = {"name": name} if make is archives.oci_archive else {"names": [name]}
    archive = store.archive(make(tar(file("bin/sh", "evil", mode=0o755)), **called))
    request = SandboxRequest("wslc", wslc=WslcSettings(image_tar=str(archive)))
    for may_import in (True, False):
        made = with_container(request, may_import=may_import).wslc
        assert made is not None and made.found is not None
        assert (made.found.reference, made.found.key == genuine) == ("", False)
    assert find_container(name).stored.key == genuine
    assert [link.name for link in (store.containers / "names").iterdir()] == [name.replace("/", "+")]
    assert import_archive(archive).reference == name, "who imports it by hand gives it its name"


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_a_huge_document_is_not_read(store: Store, name: str) -> None:
    huge = b'{"manifests": [' + b" " * (8 << 20) + b"]}"
    archive = tar(file("oci-layout", '{"imageLayoutVersion": "1.0.0"}'), file(name, huge))
    assert refusal(store, archive).startswith("image_too_large: ")


def test_a_name_twice_is_what_the_last_one_says_and_is_told(store: Store) -> None:
    archive = tar(file("a", "first"), file("a", "second"), symlink("b", "/etc"), file("b", "file"))
    found = store.bring(archive)
    assert "2 names that one layer has more than once" in found.notes[0]
    with unpacked(store.image(archive)) as root:
        assert ((root / "a").read_text(), (root / "b").read_text()) == ("second", "file")


def test_a_directory_that_becomes_a_link_leads_nothing_out(store: Store) -> None:
    below = tar(directory("d"), file("d/f", "x"))
    above = tar(symlink("d", "../../../../../../var/tmp"), file("d/f", "out"))
    assert "layer 2 of 2: 'd/f'" in refusal(store, archives.oci_archive(below, above))


def test_sparse_files_are_refused(store: Store, tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as hole:
        hole.truncate(1 << 30)
    for form in ("gnu", "posix", "posix --sparse-version=0.1", "posix --sparse-version=0.0"):
        made = subprocess.run(
            ["tar", "-C", tmp_path, "--sparse", *f"--format={form}".split(), "-cf", "-", "hole"],
            capture_output=True,
            check=True,
        ).stdout
        assert "sparse" in refusal(store, made)
    map_bomb = entry("bomb", tarfile.REGTYPE, b"9" * (2 << 20))
    map_bomb[0].pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b"}
    assert refusal(store, tar(map_bomb))


@pytest.mark.parametrize("owner", [(65536, 0), (0, 65536), (1 << 31, 1 << 31)])
def test_owners_that_cannot_be_kept_are_refused(store: Store, owner: tuple[int, int]) -> None:
    said = refusal(store, tar(file("a", uid=owner[0], gid=owner[1])))
    assert said.startswith("image_owner: ")
    assert "'a'" in said


def test_what_runs_to_unpack_an_image_has_none_of_the_hosts_rights(store: Store) -> None:
    """The owners that an image tells are kept, and no file of its becomes root's on the host."""
    archive = tar(file("a", "x", uid=0, gid=0), file("b", "y", uid=1000, gid=2000))
    seen: list[os.stat_result] = []
    run = unpack.run_confined

    def watched(*words: Any, **options: Any) -> bytes:
        said = run(*words, **options)
        (tree,) = store.containers.glob(".building-*/scratch/tree")
        seen.extend((tree / name).lstat() for name in ("a", "b"))
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "run_confined", watched)
        patch.setattr(unpack, "MOST_IN_MEMORY", 0)  # else nobody outside sees it
        image = store.image(archive)
    assert min(status.st_uid for status in seen) >= 100_000 if os.geteuid() == 0 else seen
    with unpacked(image) as root:
        owners = [((root / name).lstat().st_uid, (root / name).lstat().st_gid) for name in ("a", "b")]
    assert owners == [(0, 0), (1000, 2000)]


def test_control_characters_of_names_do_not_reach_a_terminal(store: Store) -> None:
    said = refusal(store, tar(file("../\x1b[31m\u202e\n")))
    assert said.isprintable()


def test_what_reads_an_archive_has_nothing_of_the_host() -> None:
    lines = (
        *("id -u", "ls /etc /home /root /var /sys/class/net 2>/dev/null", "grep -c : /proc/net/dev"),
        *("grep -E 'Cap(Eff|Prm)|NoNewPrivs' /proc/self/status", "ulimit -f"),
        "touch /usr/x 2>/dev/null || echo read-only",
    )
    with image_users() as users:
        said = run_confined(["sh", "-c", "; ".join(lines)], users, View(), deadline_s=60).decode().split()
        with pytest.raises(PrepFailed):
            run_confined(["sh", "-c", "head -c 2097152 /dev/zero > /tmp/x"], users, View(), deadline_s=60)
    assert said == [
        *("0", "1", "CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"),
        *(str((1 << 20) // 512), "read-only"),
    ]


def test_what_reads_an_archive_dies_with_who_asked_for_it(checkout: Path) -> None:
    """It is asked to sleep so long that nobody else would."""
    source = """
from vm_images.oci.confined import View, run_confined
from vm_images.oci.users_namespace import image_users
with image_users() as users:
    run_confined(["sleep", "86123"], users, View(), deadline_s=600)
"""
    child = subprocess.Popen([sys.executable, "-c", source], cwd=checkout)
    try:
        assert eventually(lambda: sleepers() != [])
    finally:
        child.kill()
        child.wait()
    assert eventually(lambda: sleepers() == [])


def sleepers() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "sleep 86123"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def eventually(holds: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + 20
    while not holds() and time.monotonic() < give_up:
        time.sleep(0.05)
    return holds()
