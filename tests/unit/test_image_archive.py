"""An image as one file: it comes out of the store and goes into another one whole, or not at all."""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import tarfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import BackendUnavailable, ConfigError, PrepFailed
from tests.unit.image_stores import add, only
from vm_images.archive import export_image, image_key, import_image
from vm_images.archive_index import misshapen
from vm_images.inventory import find, verify
from vm_images.plan import digest, key_of

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported image; the store that we import into is another one, empty."""
    only(monkeypatch, tmp_path / "first")
    add(tmp_path / "first")
    target = tmp_path / "image"
    assert export_image("mine", target) == target.stat().st_size
    only(monkeypatch, tmp_path / "second")
    return target


def members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        found: Members = []
        for member in archive:
            content = archive.extractfile(member)
            found.append((member, content.read() if content else b""))
        return found


def rewrite(file: Path, changed: Members) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member, content in changed:
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    file.write_bytes(gzip.compress(packed.getvalue()))


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_what_is_exported_is_imported_under_its_name_byte_for_byte(exported: Path, tmp_path: Path) -> None:
    name, found = import_image(exported)
    assert (name, found.names, verify(found)) == ("mine", (), [])
    first = tmp_path / "first" / found.key
    for part in first.iterdir():
        assert Path(found.folder, part.name).read_bytes() == part.read_bytes()
    assert find("mine").key == found.key == image_key(exported)
    assert import_image(exported, "other")[1].key == found.key, "a second import changes nothing"
    assert find("other").key == found.key


def test_a_name_that_another_image_has_is_not_taken_over_unasked(exported: Path, tmp_path: Path) -> None:
    own = add(tmp_path / "second", "mine", memory_mib=256)
    with pytest.raises(ConfigError, match="another image is called 'mine' here"):
        import_image(exported)
    assert find("mine").key == own
    assert import_image(exported, "mine")[1].key == find("mine").key != own


def test_the_same_image_gives_the_same_file(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, tmp_path / "first")
    export_image("mine", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == exported.read_bytes()


def test_nothing_that_exists_is_overwritten_and_nothing_half_is_left(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, tmp_path / "first")
    before = exported.read_bytes()
    with pytest.raises(PrepFailed, match="File exists"):
        export_image("mine", exported)
    assert exported.read_bytes() == before
    with pytest.raises(BackendUnavailable, match="there is no image 'other'"):
        export_image("other", tmp_path / "new")
    [part] = (tmp_path / "first").glob("*/initrd")
    content = part.read_bytes()
    part.write_bytes(b"X" + content[1:])
    with pytest.raises(PrepFailed, match="is not what was built"):
        export_image("mine", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def _swap(changed: Members) -> Members:
    return [changed[0], changed[2], changed[1], *changed[3:]]


def _extra(changed: Members) -> Members:
    return [*changed, (entry("extra"), b"x")]


def _extra_first(changed: Members) -> Members:
    return [(entry("extra"), b"x"), *changed]


def _missing(changed: Members) -> Members:
    return changed[:-1]


def _one_byte(changed: Members) -> Members:
    return [*changed[:-1], (changed[-1][0], b"X" + changed[-1][1][1:])]


def _longer(changed: Members) -> Members:
    return [*changed[:-1], (changed[-1][0], changed[-1][1] + b"x")]


def _shorter(changed: Members) -> Members:
    return [*changed[:-1], (changed[-1][0], changed[-1][1][:-1])]


def _link(changed: Members) -> Members:
    return [*changed[:-1], (entry(changed[-1][0].name, tarfile.SYMTYPE, "/etc/shadow"), b"")]


def _hard_link(changed: Members) -> Members:
    return [*changed[:-1], (entry(changed[-1][0].name, tarfile.LNKTYPE, "initrd"), b"")]


def _device(changed: Members) -> Members:
    return [*changed[:-1], (entry(changed[-1][0].name, tarfile.CHRTYPE), b"")]


def _absolute(changed: Members) -> Members:
    return [*changed[:-1], (entry(f"/tmp/{changed[-1][0].name}"), changed[-1][1])]


def _upwards(changed: Members) -> Members:
    return [*changed[:-1], (entry(f"../{changed[-1][0].name}"), changed[-1][1])]


def _index(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], Members]:
    def made(changed: Members) -> Members:
        index = json.loads(changed[0][1])
        change(index)
        return [(changed[0][0], json.dumps(index).encode()), *changed[1:]]

    return made


def _part_outside(index: dict[str, Any]) -> None:
    index["manifest"]["parts"]["../../names/evil"] = {"size": 1, "sha256": "0" * 64}


def _vast(index: dict[str, Any]) -> None:
    index["manifest"]["parts"]["initrd"]["size"] = 1 << 60


def _other_inputs(index: dict[str, Any]) -> None:
    index["manifest"]["inputs"]["kernel"] = "linux-image-6.66=1"


def _other_command_line(index: dict[str, Any]) -> None:
    index["manifest"]["commandLine"] = "init=/bin/evil"


def _other_zygote(index: dict[str, Any]) -> None:
    index["manifest"]["zygote"] = ""


def _more(index: dict[str, Any]) -> None:
    index["manifest"]["more"] = True


def _path_as_name(index: dict[str, Any]) -> None:
    index["name"] = "../../etc/cron.d/x"


def _another_root(index: dict[str, Any]) -> None:
    manifest = index["manifest"]
    manifest["format"] = manifest["inputs"]["format"] = "squashfs"
    manifest["key"] = key_of(manifest["inputs"])


ATTACKS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "parts in another order": (_swap, "stands where"),
    "an extra member": (_extra, "something follows"),
    "an extra member first": (_extra_first, "stands where mxc-image"),
    "a missing part": (_missing, "it ends before"),
    "a changed byte": (_one_byte, "size or SHA-256 differs"),
    "a longer part": (_longer, "more than"),
    "a shorter part": (_shorter, "size or SHA-256 differs"),
    "a symbolic link": (_link, "stands where"),
    "a hard link": (_hard_link, "stands where"),
    "a device": (_device, "stands where"),
    "an absolute path": (_absolute, "stands where"),
    "a path upwards": (_upwards, "stands where"),
    "a part with a path": (_index(_part_outside), r"parts is not as it should be"),
    "a part of an exbibyte": (_index(_vast), r"parts is not as it should be"),
    "inputs of another key": (_index(_other_inputs), "its key does not belong"),
    "another command line": (_index(_other_command_line), "commandLine contradicts"),
    "no zygote": (_index(_other_zygote), "zygote contradicts"),
    "an unknown field": (_index(_more), r"manifest\.more is not as it should be"),
    "a path as its name": (_index(_path_as_name), "cannot be an image's name"),
    "a root of another kind": (_index(_another_root), "its parts are not those of an image"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_archive_is_refused_and_leaves_nothing(attack: str, exported: Path, tmp_path: Path) -> None:
    change, said = ATTACKS[attack]
    rewrite(exported, change(members(exported)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=said) as caught:
        import_image(exported)
    assert caught.value.problems[0].path == str(exported) and caught.value.fix
    store = tmp_path / "second"
    assert list(store.iterdir() if store.exists() else ()) == []
    assert [path for path in sorted(tmp_path.rglob("*")) if path != store] == before


@pytest.mark.parametrize("content", [b"", b"junk" * 500, gzip.compress(b"junk" * 500), gzip.compress(b"")])
def test_a_file_that_is_no_archive_is_refused(content: bytes, exported: Path) -> None:
    exported.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read|ends before|stands where"):
        import_image(exported)


def test_an_archive_that_is_cut_off_is_refused_and_leaves_nothing(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    for length in range(40, len(content), max(1, len(content) // 20)):
        exported.write_bytes(content[:length])
        with pytest.raises(ConfigError):
            import_image(exported)
        store = tmp_path / "second"
        assert list(store.iterdir() if store.exists() else ()) == []


def test_an_archive_that_unpacks_to_far_more_is_not_unpacked(exported: Path) -> None:
    """A gzip bomb in the place of the index: 256 MiB of zeros in a quarter of a megabyte."""
    head = entry("mxc-image.json")
    head.size = 1 << 28
    with exported.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9) as packed:
        packed.write(head.tobuf())
        for _ in range(64):
            packed.write(bytes(1 << 22))
    with pytest.raises(ConfigError, match=r"mxc-image\.json has 268435456 bytes"):
        import_image(exported)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_about_the_next_member_is_not_read_into_memory(kind: bytes, exported: Path) -> None:
    """256 MiB of zeros as what is said about a member."""
    head = entry("mxc-image.json", kind)
    head.size = 1 << 28
    with exported.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
        packed.write(head.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            packed.write(bytes(1 << 22))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match="is no member of an image"):
        import_image(exported)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_wherever_an_archive_is_damaged_the_archive_is_what_is_told(exported: Path, tmp_path: Path) -> None:
    """Also where no gzip stream could be, in the middle of a part; the store is not to blame."""
    changed = members(exported)
    index = json.loads(changed[0][1])
    part, content = changed[1][0], b64encode(random.Random(1).randbytes(1 << 20))
    index["manifest"]["parts"][part.name] = {"size": len(content), "sha256": digest(content)}
    rewrite(exported, [(changed[0][0], json.dumps(index).encode()), (part, content), *changed[2:]])
    whole = exported.read_bytes()
    for place in range(2000, len(whole), len(whole) // 60):
        exported.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(ConfigError):
            import_image(exported)
        assert list((tmp_path / "second").iterdir()) == []


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", ".hidden", "a" * 65])
def test_a_name_that_is_none_is_refused(name: str, exported: Path) -> None:
    if name:
        with pytest.raises(ConfigError, match="cannot be an image's name"):
            import_image(exported, name)
    else:
        assert import_image(exported, name)[0] == "mine"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_one_value_makes_the_index_break_its_reader(exported: Path, data: st.DataObject) -> None:
    index = json.loads(members(exported)[0][1])
    assert misshapen(index) == ""
    place: Any = index
    inputs = index["manifest"]["inputs"]
    among_inputs = False
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
        among_inputs |= place is inputs
    before = place[key]
    place[key] = data.draw(_JSON.filter(lambda value: type(value) is not type(before)))
    # What an image is made of is compared with its key, and is otherwise its builder's.
    assert (misshapen(index) == "") is among_inputs


def test_a_part_is_counted_while_it_is_read_not_believed(exported: Path, tmp_path: Path) -> None:
    """The tar header says less than the index: what follows would be read as the next member."""
    changed = members(exported)
    index = json.loads(changed[0][1])
    part, content = changed[1]
    index["manifest"]["parts"][part.name] = {"size": len(content) - 1, "sha256": digest(content[:-1])}
    rewrite(exported, [(changed[0][0], json.dumps(index).encode()), *changed[1:]])
    with pytest.raises(ConfigError, match="more than"):
        import_image(exported)
    assert list((tmp_path / "second").iterdir()) == []
