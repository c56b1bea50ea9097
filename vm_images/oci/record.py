"""What the store says of an image, in ``image.json``: written, read, and made a backend's data. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backends.container_image import ContainerImage, ImageUser
from backends.frozen import frozen
from vm_images.oci.bundle import Bundle
from vm_images.plan import key_of
from vm_images.store import SCHEMA_VERSION, Stored, content_of

__all__ = ["ROOTFS", "Seen", "image_of", "inputs_of", "manifest_of", "require_container"]

ROOTFS = "rootfs.erofs"
KIND = "container"
_PACKING = 1
"""Goes up when the same layers are packed in another way."""


@frozen
class Seen:
    """What was found in the unpacked root, `missing` of the working directory, and what was taken out."""

    user: ImageUser
    has_shell: bool
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def inputs_of(bundle: Bundle, *, keep_set_id: bool) -> dict[str, Any]:
    """All that decides what comes out, whatever it arrived in. The key is that of these (`plan.key_of`)."""
    config = bundle.config
    return {
        "kind": KIND,
        "packing": _PACKING,
        "layers": list(config.layers),
        "env": [list(pair) for pair in config.env],
        "user": config.user,
        "workingDir": config.working_dir,
        "os": config.os,
        "architecture": config.architecture,
        "setId": keep_set_id,
    }


def manifest_of(inputs: Mapping[str, Any], bundle: Bundle, seen: Seen, parts: Mapping[str, Any]) -> bytes:
    """The text of image.json. The digests are those of the first archive that the content came in.

    Parameters
    ----------
    parts: file name → ``{"size": bytes, "content": bytes, "sha256": hexadecimal}``: what comes after the
        content is a hole, and not in the digest.
    """
    user = seen.user
    content = {
        "schemaVersion": SCHEMA_VERSION,
        "key": key_of(dict(inputs)),
        "format": "erofs",
        "source": bundle.source.value,
        "digest": bundle.digest,
        "configDigest": bundle.config_digest,
        "runAs": {"uid": user.uid, "gid": user.gid, "groups": list(user.groups), "home": user.home},
        "shell": seen.has_shell,
        "missing": list(seen.missing),
        "notes": list(seen.notes),
        "parts": dict(parts),
        "inputs": dict(inputs),
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def require_container(manifest: Mapping[str, Any]) -> None:
    """Raises `ValueError`, `KeyError` or `TypeError` for what is no record of a container's image."""
    if manifest["inputs"]["kind"] != KIND or list(manifest["parts"]) != [ROOTFS]:
        raise ValueError
    if key_of(manifest["inputs"]) != manifest["key"]:
        raise ValueError
    _ = [manifest[name] for name in ("source", "digest", "configDigest", "notes", "shell", "missing")]
    _user(manifest["runAs"])
    _environment(manifest["inputs"]["env"])
    _ = [manifest["inputs"][name] for name in ("user", "workingDir", "os", "architecture", "setId", "layers")]


def image_of(found: Stored, reference: str) -> ContainerImage:
    """The image as a backend is given it."""
    manifest = found.manifest
    inputs = manifest["inputs"]
    return ContainerImage(
        reference=reference,
        key=found.key,
        content=content_of(found),
        digest=manifest["digest"],
        config_digest=manifest["configDigest"],
        rootfs=f"{found.folder}/{ROOTFS}",
        rootfs_bytes=manifest["parts"][ROOTFS]["size"],
        env=_environment(inputs["env"]),
        user=_user(manifest["runAs"]),
        working_dir=inputs["workingDir"],
        os=inputs["os"],
        architecture=inputs["architecture"],
        has_shell=manifest["shell"],
        missing_dirs=tuple(manifest["missing"]),
        has_set_id=inputs["setId"],
    )


def _environment(pairs: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in pairs)


def _user(told: Mapping[str, Any]) -> ImageUser:
    return ImageUser(told["uid"], told["gid"], tuple(told["groups"]), told["home"])
