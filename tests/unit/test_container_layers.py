"""Layers that are damaged anywhere are refused or harmless; what is read is what others read, too."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import ConfigError
from tests.container_archives import Entry, directory, file, hard_link, symlink, tar
from vm_images.oci.layers import Checking, Layer, rewrite_layer
from vm_images.oci.limits import Limits

FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
FOLDER, LONG = "d" * 80, "d" * 80 + "/" + "n" * 80
SAMPLE = [
    directory(FOLDER, mode=0o750, uid=7, gid=8, mtime=1234),
    file(LONG, b"content", uid=1000, gid=1000, mtime=99),
    symlink("l", LONG[70:]),
    file("short", b"s"),
    hard_link("h", "short"),
]


def rewritten(layer: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain, target = Path(folder, "plain"), Path(folder, "target")
        plain.write_bytes(layer)
        checking = Checking("archive", Limits(entries=1000), keep_set_id=False)
        rewrite_layer(plain, target, Layer(1, 1, is_image=True), checking)
        return target.read_bytes()


def told(layer: bytes) -> list[tuple[str, bytes, int, int, int, str, bytes]]:
    """What another reader makes of it, but for the root."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "layer")
        path.write_bytes(layer)
        found: list[tuple[str, bytes, int, int, int, str, bytes]] = []
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                mode = 0 if member.issym() or member.islnk() else member.mode
                names = (member.name, member.type, mode, member.uid, member.gid, member.linkname)
                found.append((*names, content.read() if content else b""))
        return [one for one in found if one[0] != "."]


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_anew_says_the_same_in_any_format(form: int) -> None:
    layer = tar(*SAMPLE, form=form)
    assert told(rewritten(layer)) == told(layer)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0."), min_size=1, max_size=130)


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6), st.sampled_from(FORMATS[:2]))
def test_any_names_and_contents_stay_what_they_are(files: dict[str, bytes], form: int) -> None:
    short = {name: content for name, content in files.items() if len(name.encode()) <= 255}
    entries: list[Entry] = [file(name, content) for name, content in short.items()]
    whole = {name: content for name, *_, content in told(rewritten(tar(*entries, form=form)))}
    assert whole == {name: content for name, content in short.items() if not name.startswith(".wh.")}


@settings(max_examples=300)
@given(st.data(), st.sampled_from(FORMATS))
def test_damage_anywhere_is_refused_or_harmless(data: st.DataObject, form: int) -> None:
    layer = bytearray(tar(*SAMPLE, form=form))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(layer) - 1))
        layer[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(layer)) | st.none())
    try:
        written = rewritten(bytes(layer[:cut]))
    except ConfigError as error:
        assert error.problems[0].message.isprintable()
        return
    for name, _, mode, uid, gid, target, _ in told(written):
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert mode & 0o6000 == 0
        assert max(uid, gid) <= 65535
        assert target is not None
