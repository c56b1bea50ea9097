"""Images that sandboxes start from, in the store of `vm_images.store`: built on the host, or brought there.

Both are done there by our own sources, which are brought along: nothing of us need be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import FORGET, OWN_SOURCES, Decision, Query, Rule, Upload, nothing_to_do
from mxc_ops.prep.remote_doctor import ARCHIVE, INTERPRETERS, OLD, UNPACK, sources
from mxc_ops.prep.rules.files import parents_of, remove_empty
from vm_images.sources import IMAGES

__all__ = ["RULES"]

_DEADLINE_S = 3600
_IMAGE = "image"
_SHOWN = 12
_PUSH = "bring one, by mxc_images in the inventory: see inventories/fleet.py"
_NO_PYTHON = "there is no Python from 3.11 on, which builds and imports images: apt-get install -y python3"
_Found = Mapping[str, Any]


def _queries(image: str, path: str, source: str = "", sha256: str = "", key: str = "") -> tuple[Query, ...]:
    del source, sha256, key
    return (
        Query("images.Stored", {"store": path, "image": image}),
        Query("files.Existing", {"paths": parents_of(f"{path}/names/{image}")}),
    )


def decide(
    found: _Found,
    existing: list[str],
    *,
    image: str,
    path: str,
    source: str = "",
    sha256: str = "",
    key: str = "",
) -> Decision:
    """An image under its name in the host's store.

    Parameters
    ----------
    found: see `facts.images.Stored`.
    existing: those of the directories above the images' names that exist.
    path: the store.
    source, sha256, key: an archive on the controller that ``mxc-ops image export`` wrote, its checksum, and
        the key of the image in it; without them the host builds it, unless it has one of this name.
    """
    state = _described(found["key"])
    after = _described(key) if source else "built by the host, by mxc-ops image build"
    if image not in IMAGES:
        fix = f"name one of {', '.join(IMAGES)}"
        return Decision(state, after, refusal=f"no image is called {image}", fix=fix)
    if found["key"] and key in ("", found["key"]):
        return nothing_to_do(state)
    if not source and found["distribution"] != "debian":
        this = found["distribution"] or "unknown"
        refusal = f"only Debian hosts build it, from their own apt's mirror, and this host is {this}"
        return Decision(state, after, refusal=refusal, fix=_PUSH)
    archive = f'"$uploads/{_IMAGE}"'
    check = f"printf '%s  %s\\n' {sha256} {archive} | sha256sum -c - >/dev/null\n" if source else ""
    words = f"import {archive} {quote(image)}" if source else f"build {image}"
    return Decision(
        state,
        after,
        (f"sh -ec {quote(check + _with_our_sources(f'{words} {quote(path)}'))}",),
        prior={
            "key": found["key"],
            "directories": [one for one in parents_of(f"{path}/names/{image}") if one not in existing],
        },
        uploads=(Upload(OWN_SOURCES, ARCHIVE), *([Upload(source, _IMAGE)] if source else [])),
        deadline_s=_DEADLINE_S,
    )


def _described(key: str) -> str:
    return f"image {key[:_SHOWN]}…" if key else "not there"


def _with_our_sources(words: str) -> str:
    """A script that runs `vm_images.on_host` from our sources, and removes what it unpacked."""
    unpack = f'"$python" -I -c {quote(UNPACK)} "$uploads/{ARCHIVE}" {sources().digest} "$own"'
    return (
        "own=$(mktemp -d /tmp/mxc-ops-image.XXXXXXXXXX)\n"
        "trap 'rm -rf \"$own\"' EXIT\n"
        f"found=; for python in {INTERPRETERS}; do"
        f' if "$python" -I -c "import sys; sys.exit({OLD})" 2>/dev/null; then found=1; break; fi; done\n'
        f'test -n "$found" || {{ echo {quote(_NO_PYTHON)} >&2; exit 1; }}\n'
        f"{unpack}\n"
        f'cd / && PYTHONPATH="$own" "$python" -P -s -B -m vm_images.on_host {words}'
    )


def _reverse_queries(*, prior: Mapping[str, Any], image: str, path: str, **_rest: Any) -> tuple[Query, ...]:
    before = [f"{path}/{prior['key']}"] if prior["key"] else []
    return (
        Query("images.Stored", {"store": path, "image": image}),
        Query("files.Existing", {"paths": before}),
    )


def reverse(
    found: _Found,
    existing: list[str],
    *,
    image: str,
    path: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    **_rest: Any,
) -> Decision:
    """The name leads to what it led to before, or is gone; and so is our image, unless it is in use."""
    ours: list[str] = made.get("key", [])
    key: str = found["key"]
    if not key or (key == prior["key"] and key not in ours):
        return nothing_to_do("as before")
    if ours and key not in ours:
        refusal = f"the name {image} leads to another image than what we made: {key[:_SHOWN]}…"
        fix = f"if that may go, too: mxc-ops image remove {image}"
        return Decision(_described(key), "as before", (FORGET,), refusal=refusal, fix=fix)
    name, image_folder, going = f"{path}/names/{image}", f"{path}/{key}", f"{path}/.removing-{key[:_SHOWN]}"
    back = f"ln -sfn ../{prior['key']} {quote(name)}" if existing else f"rm -f {quote(name)}"
    # Another name may lead to it, which is not ours to take away. Renamed first: no half of it is ever there.
    remove = (
        f"kept=; for link in {quote(f'{path}/names')}/*; do"
        f' test "$(readlink "$link")" != ../{key} || kept=1; done;'
        f' if test -z "$kept" && test -e {quote(image_folder)};'
        f" then mv {quote(image_folder)} {quote(going)}; fi;"
        f" rm -rf {quote(going)}"
    )
    return Decision(
        _described(key),
        "as before",
        (back, remove, *remove_empty(prior["directories"])),
        refusal="a virtual machine runs from it" if found["used"] else "",
        fix="end what runs from it" if found["used"] else "",
        in_use=found["used"],
    )


def _measured(image: str, path: str, **_rest: Any) -> Mapping[str, str]:
    return {"key": f"readlink {quote(f'{path}/names/{image}')} | sed 's#^[.][.]/##'"}


RULES = {"stored": Rule(_queries, decide, reverse, measured=_measured, reverse_queries=_reverse_queries)}
