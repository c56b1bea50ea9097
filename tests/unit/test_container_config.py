"""What a config may say, and whom it means by its user."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.container_image import ImageUser
from vm_images.oci.config import parse_config
from vm_images.oci.image_user import resolve_user
from vm_images.oci.refusals import BadEntry

LIMIT = 1 << 20
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\nbad line\n40:x:50:51::/n:/bin/sh\n"
)
GROUP = "root:x:0:\nweb:x:34:\nmedia:x:44:other,web\naudio:x:29:web\nempty:x:60:\n"


def text(**more: Any) -> bytes:
    document = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:0"]},
    }
    return json.dumps({**document, **more}).encode()


def test_what_a_run_takes_of_it() -> None:
    found = parse_config(
        text(
            config={"Env": ["A=1", "B=x=y", "A=2", "E="], "User": "web:media", "WorkingDir": "/srv//app/./x/"}
        ),
        LIMIT,
    )
    assert found.env == (("A", "2"), ("B", "x=y"), ("E", ""))
    assert (found.user, found.working_dir) == ("web:media", "/srv/app/x")


@pytest.mark.parametrize(
    "run", [None, {}, {"Env": None, "User": None, "WorkingDir": None}, {"WorkingDir": ""}]
)
def test_what_is_not_told_is_nothing(run: Any) -> None:
    found = parse_config(text(config=run), LIMIT)
    assert (found.env, found.user, found.working_dir) == ((), "", "/")


@pytest.mark.parametrize(
    ("run", "named"),
    [
        *(({"Env": bad}, "config.Env") for bad in ("A=1", {"A": "1"}, [1], [None], ["A"], ["=1"], ["A=\0"])),
        *(({"Env": bad}, "config.Env") for bad in (["A=\ud800"], ["A=" + "x" * (1 << 18)])),
        *(({"User": bad}, "config.User") for bad in (0, ["web"], "a\nb", "x" * 300, "\x1b[31m")),
        *(
            ({"WorkingDir": bad}, "config.WorkingDir")
            for bad in ("app", "/a/../../etc", "..", 1, "/a\0", "C:\\x")
        ),
        (["Env"], "config"),
    ],
)
def test_what_is_absurd_is_refused_by_name(run: Any, named: str) -> None:
    with pytest.raises(BadEntry, match=f"the config's {named} "):
        parse_config(text(config=run), LIMIT)


@pytest.mark.parametrize(
    "platform", [{"os": "windows"}, {"architecture": "arm64"}, {"os": None}, {"architecture": ["amd64"]}]
)
def test_another_platform_is_refused(platform: dict[str, Any]) -> None:
    with pytest.raises(BadEntry) as refused:
        parse_config(text(**platform), LIMIT)
    assert refused.value.code == "image_platform"


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{", b"[" * 100_000, b'"x"', b"\xff", b" " * LIMIT + b"{}", b'{"os": 1' + b"0" * 9999],
)
def test_what_is_no_document_is_refused(document: bytes) -> None:
    with pytest.raises(BadEntry):
        parse_config(document, LIMIT)


@pytest.mark.parametrize("rootfs", [None, {}, {"type": "layers"}, {"type": "layers", "diff_ids": [1]}, []])
def test_a_config_tells_the_digests_of_its_layers(rootfs: Any) -> None:
    with pytest.raises(BadEntry, match="rootfs"):
        parse_config(text(rootfs=rootfs), LIMIT)


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_whatever_stands_in_a_config_is_taken_or_refused(value: Any) -> None:
    for name in ("Env", "User", "WorkingDir"):
        try:
            found = parse_config(text(config={name: value}), LIMIT)
        except BadEntry:
            continue
        assert found.working_dir.startswith("/")
        assert all("=" not in key and key for key, _ in found.env)


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", ImageUser(0, 0, (), "/root")),
        ("root", ImageUser(0, 0, (), "/root")),
        ("web", ImageUser(33, 34, (29, 44), "/var/www")),
        ("33", ImageUser(33, 34, (29, 44), "/var/www")),
        ("web:media", ImageUser(33, 44, (), "/var/www")),
        ("web:0", ImageUser(33, 0, (), "/var/www")),
        ("1234", ImageUser(1234, 0, (), "")),
        ("1234:5678", ImageUser(1234, 5678, (), "")),
        (":media", ImageUser(0, 44, (), "/root")),
        ("40", ImageUser(50, 51, (), "/n")),  # a name of digits
        ("1000700000", ImageUser(1000700000, 0, (), "")),
    ],
)
def test_a_user_is_who_the_images_own_files_say(user: str, found: ImageUser) -> None:
    assert resolve_user(user, PASSWD, GROUP) == found


@pytest.mark.parametrize("user", ["nobody", "web:nobodies", "-1", "4294967295", "99999999999", "33x", "²"])
def test_a_user_that_nobody_is_is_refused(user: str) -> None:
    with pytest.raises(BadEntry) as refused:
        resolve_user(user, PASSWD, GROUP)
    assert refused.value.code == "image_user"


def test_without_files_root_is_root() -> None:
    assert resolve_user("", "", "") == ImageUser(0, 0, (), "/root")


@given(st.text(), st.text(), st.text())
def test_any_files_name_somebody_or_nobody(user: str, passwd: str, group: str) -> None:
    try:
        found = resolve_user(user, passwd, group)
    except BadEntry:
        return
    assert 0 <= found.uid < 1 << 32
    assert all(0 <= gid < 1 << 32 for gid in (found.gid, *found.groups))
