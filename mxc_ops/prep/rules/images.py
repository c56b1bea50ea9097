"""Images that sandboxes start from, each in a directory of its own with a stamp that says what it is.

Made beside its place and renamed into it, stamp and all: what was interrupted does not count as an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import FORGET, Decision, Query, Rule, Upload, nothing_to_do
from mxc_ops.prep.rules.files import parents_of, remove_empty
from mxc_ops.prep.rules.stored_images import STORED
from vm_images.sources import IMAGES, ImageSource

_DEADLINE_S = 1800
_STAMP = "stamp.json"
_ARCHIVE = "archive"
_PUSH = "bring one, by mxc_images in the inventory: see inventories/fleet.py"
_KNOWN = {name: source for name, source in IMAGES.items() if not source.in_store}
_Found = Mapping[str, Any]
_Mirror = Mapping[str, str] | None


def _queries(image: str, path: str, source: str = "", sha256: str = "") -> tuple[Query, ...]:
    del image, source, sha256
    return (
        Query("images.Installed", {"path": path}),
        Query("images.Mirror", {"unless": f"{path}/{_STAMP}"}),
        Query("files.Existing", {"paths": parents_of(path)}),
    )


def decide(
    found: _Found,
    mirror: _Mirror,
    existing: list[str],
    *,
    image: str,
    path: str,
    source: str = "",
    sha256: str = "",
) -> Decision:
    """An image, brought from the controller, or built on the host where that is possible.

    Parameters
    ----------
    found: see `facts.images.Installed`.
    mirror: see `facts.images.Mirror`; None where the host cannot build.
    existing: those of the directories above it that exist.
    source, sha256: an archive on the controller, and its checksum; without them any image of this name that
        was brought or built before will do.
    """
    known = _KNOWN.get(image)
    if known is None:
        after = f"image {image}"
        names = ", ".join(_KNOWN)
        return Decision("unknown", after, refusal=f"no image is called {image}", fix=f"name one of {names}")
    stamp = _stamp(found["stamp"], image)
    state = _described(stamp) if found["there"] else "not there"
    after = f"brought, SHA-256 {sha256[:12]}…" if source else f"built by {known.builder}"
    if found["there"] and not stamp:
        refusal = f"{path} is there, and not of our making"
        return Decision(state, after, refusal=refusal, fix=f"look at what it is, then: rm -r {quote(path)}")
    if stamp and (not source or stamp["sha256"] == sha256):
        return _stays(found, path, _described(stamp))
    if found["users"]:
        refusal = f"in use by {', '.join(found['users'])}, and would be replaced"
        return Decision(state, after, refusal=refusal, fix="stop what runs from it")
    if not source:
        refusal, fix = _not_buildable(mirror)
        if refusal or mirror is None:
            return Decision(state, after, refusal=refusal, fix=fix)
        after = f"{mirror['suite']} from {mirror['mirror']}, built by {known.builder}"
        make, new = _build(path, known, mirror), {"sha256": "", "built": f"{known.recipe} {mirror['suite']}"}
    else:
        make, new = _unpack(known, path, sha256), {"sha256": sha256, "built": ""}
    text = json.dumps({"schemaVersion": 1, "image": image, **new})
    return Decision(
        state,
        after,
        (f"sh -ec {quote(_in_place(path, make, text))}",),
        prior={"directories": [above for above in parents_of(path) if above not in existing]},
        made={"stamp": text},
        uploads=(Upload(source, _ARCHIVE),) if source else (),
        deadline_s=_DEADLINE_S,
    )


def _stamp(text: str, image: str) -> dict[str, str]:
    """What the stamp says; empty when it is not ours, or another image's."""
    try:
        stamp: dict[str, str] = json.loads(text)
        return {name: stamp[name] for name in ("sha256", "built")} if stamp["image"] == image else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _described(stamp: Mapping[str, str]) -> str:
    if not stamp:
        return "not of our making"
    return f"brought, SHA-256 {stamp['sha256'][:12]}…" if stamp["sha256"] else f"built here: {stamp['built']}"


def _stays(found: _Found, path: str, state: str) -> Decision:
    if not found["remains"]:
        return nothing_to_do(state)
    return Decision(
        f"{state}, beside remains of an interrupted change",
        state,
        (_remove(path),),
        prior={"directories": []},
        made={"stamp": found["stamp"]},
    )


def _remove(path: str) -> str:
    return f"rm -rf {quote(path + '.new')} {quote(path + '.old')}"


def _not_buildable(mirror: _Mirror) -> tuple[str, str]:
    if mirror is None:
        return (
            "only Debian and Ubuntu hosts build it, from their own apt's mirror, and this host has none",
            _PUSH,
        )
    if "://@" in mirror["mirror"]:
        return "this host's mirror wants a password, which debootstrap would show to everybody", _PUSH
    return "", ""


def _unpack(known: ImageSource, path: str, sha256: str) -> str:
    """Check the archive, unpack it, look whether it is such an image; the archive itself is not kept."""
    folder = quote(f"{path}.new/{known.folder}".rstrip("/"))
    archive = f'"$uploads/{_ARCHIVE}"'
    look = (
        f"test -e {folder}/{quote(known.proof)}"
        f" || {{ echo 'the archive has no {known.proof} at its top' >&2; exit 1; }}"
    )
    return (
        f"printf '%s  %s\\n' {sha256} {archive} | sha256sum -c - >/dev/null\n"
        f"mkdir -p {folder}\n"
        f"tar --numeric-owner -xpf {archive} -C {folder}\n"
        f"rm -f {archive}\n{look}"
    )


def _build(path: str, known: ImageSource, mirror: Mapping[str, str]) -> str:
    """debootstrap(8) from the host's mirror, through apt's proxy. Its mounts end with it, even if killed."""
    folder = quote(f"{path}.new/{known.folder}")
    keyring = f" --keyring={quote(mirror['keyring'])}" if mirror["keyring"] else ""
    options = f"--variant=minbase --force-check-gpg{keyring}"
    return (
        'eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"\n'
        "for name in http_proxy https_proxy; do"
        ' eval "test \\"\\${$name:-DIRECT}\\" = DIRECT" && unset $name || export $name; done\n'
        f"mkdir -p {folder}\n"
        f"unshare --mount debootstrap {options} {quote(mirror['suite'])} {folder} {quote(mirror['mirror'])}\n"
        # What is this host's, and what is only in the way.
        f"cd {folder} && rm -rf etc/resolv.conf etc/hostname etc/machine-id var/lib/dbus/machine-id"
        " var/cache/apt/archives/*.deb var/lib/apt/lists/* var/log/bootstrap.log && cd /"
    )


def _in_place(path: str, make: str, stamp: str) -> str:
    """Make an image beside its place, and put it there in one step.

    The host's users can reach it, as a container's mapped root must: so it has no devices, and no set-uid
    programs, which nobody updates. Inside, a /dev of its own and no_new_privs make them useless anyway.
    """
    new, old = quote(f"{path}.new"), quote(f"{path}.old")
    return (
        f"umask 022\n{_remove(path)}\nmkdir -p {new}\n{make}\n"
        f"find {new} -xdev \\( -type b -o -type c \\) -exec rm -f {{}} +\n"
        f"find {new} -xdev -type f \\( -perm -4000 -o -perm -2000 \\) -exec chmod u-s,g-s {{}} +\n"
        f"printf '%s\\n' {quote(stamp)} > {new}/{_STAMP}\n"
        f"chmod 0755 {new}\n"
        f"if test -e {quote(path)}; then mv {quote(path)} {old}; fi\n"
        f"mv {new} {quote(path)}\nrm -rf {old}"
    )


def reverse(
    found: _Found,
    mirror: _Mirror,
    existing: list[str],
    *,
    image: str,
    path: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    source: str = "",
    sha256: str = "",
) -> Decision:
    """The image's directory gone; refused for what is not ours, and while something runs from it."""
    del mirror, existing, image, source, sha256
    if not found["there"] and not found["remains"]:
        return nothing_to_do("not there, as before")
    if found["there"] and found["stamp"] != made["stamp"]:
        refusal = f"{path} is no longer what we made it: its stamp differs"
        fix = f"if it may go: rm -r {quote(path)}"
        return Decision(path, "not there, as before", (FORGET,), refusal=refusal, fix=fix)
    old = quote(f"{path}.old")
    # Renamed first, so that an interrupted removal leaves no half of an image.
    move = f"if test -e {quote(path)}; then rm -rf {old}; mv {quote(path)} {old}; fi"
    return Decision(
        path,
        "not there, as before",
        (move, _remove(path), *remove_empty(prior["directories"])),
        refusal=f"in use by {', '.join(found['users'])}" if found["users"] else "",
        fix="stop what runs from it" if found["users"] else "",
        in_use=bool(found["users"]),
        deadline_s=_DEADLINE_S,
    )


RULES = {"installed": Rule(_queries, decide, reverse), "stored": STORED}
