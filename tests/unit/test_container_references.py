"""References mean what they mean to Docker, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError
from vm_images.oci.references import names_something, parse_reference
from vm_images.oci.store import as_file, as_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("team/tool", "docker.io/team/tool:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/tool", "localhost:5000/tool:latest"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("registry.example/a__b/c-d.e:V1.0_x", "registry.example/a__b/c-d.e:V1.0_x"),
        (f"alpine@sha256:{HEX}", f"docker.io/library/alpine@sha256:{HEX}"),
        (f"alpine:3.20@sha256:{HEX}", f"docker.io/library/alpine@sha256:{HEX}"),
    ],
)
def test_what_is_left_out_is_completed(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole
    assert str(parse_reference(whole)) == whole


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "/",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:b:c",
            "Alpine",
            "a b",
            "a\n",
            "-a",
            "a-",
            "a..b",
            "a___b",
        ),
        *("../a", "a/../b", "registry.example/", "registry.example:port/a", "https://registry.example/a"),
        *("a@", "a@sha256:12", f"a@sha512:{HEX}", f"a@sha256:{HEX.upper()}", HEX, "a:-x", "a:" + "x" * 129),
        *("a+b", "a%2fb", "é", "a" * 300, "--help"),
    ],
)
def test_what_is_no_reference_is_refused_where_it_stands(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_reference(text, "/wslc/image")
    assert refused.value.path == "/wslc/image"
    assert refused.value.problems[0].code == "image_reference"


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        *(("127.0.0.1/a", True), ("127.8.9.10:5000/a", True), ("localhost:1/a", True), ("[::1]:5/a", True)),
        *(("alpine", False), ("127.0.0.1.example/a", False), ("localhost.example/a", False)),
        *(("128.0.0.1/a", False), ("[::2]/a", False)),
    ],
)
def test_a_registry_on_the_hosts_loopback_is_told_from_all_others(text: str, is_so: bool) -> None:
    assert parse_reference(text).is_on_loopback is is_so


@pytest.mark.parametrize("text", ["latest", "1.0", "", "A/B", "a/b c"])
def test_a_tag_alone_says_nothing(text: str) -> None:
    assert not names_something(text)


@given(
    st.from_regex(
        r"([a-z0-9.]{1,9}(:[0-9]{1,4})?/)?[a-z0-9._/-]{1,20}(:[A-Za-z0-9._-]{1,9})?", fullmatch=True
    )
)
def test_any_reference_is_a_files_name_that_tells_it_again(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ConfigError:
        return
    name = as_file(reference)
    assert "/" not in name
    assert not name.startswith(".")
    assert as_reference(name) == str(reference)
    assert parse_reference(str(reference)) == reference
