"""Archives of container images, made byte by byte: as tools make them, and as no tool would."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "Entry",
    "config",
    "digest",
    "directory",
    "docker_archive",
    "file",
    "hard_link",
    "layout",
    "oci_archive",
    "symlink",
    "system",
    "tar",
]

Entry = tuple[tarfile.TarInfo, bytes]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def entry(name: str, kind: bytes, content: bytes = b"", **fields: Any) -> Entry:
    """Any entry; `fields` are those of `tarfile.TarInfo`."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content)
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def file(name: str, content: bytes | str = b"", **fields: Any) -> Entry:
    return entry(name, tarfile.REGTYPE, content.encode() if isinstance(content, str) else content, **fields)


def directory(name: str, **fields: Any) -> Entry:
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> Entry:
    return entry(name, tarfile.SYMTYPE, linkname=target, **fields)


def hard_link(name: str, target: str, **fields: Any) -> Entry:
    return entry(name, tarfile.LNKTYPE, linkname=target, **fields)


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar file of these entries, in this order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def system(busybox: bytes = b"", *more: Entry) -> bytes:
    """The smallest root file system that has a shell: busybox, or a file that only looks like one."""
    return tar(
        directory("bin"),
        file("bin/busybox", busybox or b"#!", mode=0o755),
        symlink("bin/sh", "busybox"),
        directory("etc"),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n"),
        file("etc/group", "root:x:0:\nweb:x:34:\nmedia:x:44:other,web\n"),
        directory("tmp", mode=0o1777),
        *more,
    )


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def config(layers: Sequence[bytes], run: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """A config for layers, given as they are when not compressed; `run` is its section ``config``."""
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "config": dict(run or {}),
    }
    return json.dumps({**document, **more}).encode()


def layout(blobs: Sequence[bytes], index: Any) -> bytes:
    """An archive of an OCI layout: blobs under their digests, and any index."""
    return tar(
        file("oci-layout", '{"imageLayoutVersion": "1.0.0"}'),
        directory("blobs"),
        directory("blobs/sha256"),
        *(file(f"blobs/sha256/{digest(blob)[7:]}", blob) for blob in blobs),
        file("index.json", json.dumps(index)),
    )


def descriptor(blob: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(blob), "size": len(blob), **more}


def manifest(layers: Sequence[bytes], settings: bytes, **more: Any) -> bytes:
    """A manifest; the layers as they are stored."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(settings, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer, _kind(layer)) for layer in layers],
    }
    return json.dumps({**document, **more}).encode()


def _kind(layer: bytes) -> str:
    packed = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(layer[:2], "")
    return f"application/vnd.oci.image.layer.v1.tar{packed}"


def oci_archive(
    *layers: bytes, run: Mapping[str, Any] | None = None, name: str = "", settings: bytes = b""
) -> bytes:
    """An image of these layers as an archive of an OCI layout.

    Parameters
    ----------
    run: the section ``config`` of its config; `settings` is the whole config instead.
    name: what the archive calls it.
    """
    settings = settings or config(layers, run)
    described = manifest(layers, settings)
    notes = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
    index = {"schemaVersion": 2, "manifests": [descriptor(described, MANIFEST, **notes)]}
    return layout([*layers, settings, described], index)


def docker_archive(
    *layers: bytes, run: Mapping[str, Any] | None = None, names: Sequence[str] = (), settings: bytes = b""
) -> bytes:
    """The same as an archive of the shape that ``docker save`` writes."""
    settings = settings or config(layers, run)
    title = f"{digest(settings)[7:]}.json"
    places = [f"{digest(layer)[7:]}/layer.tar" for layer in layers]
    index = [{"Config": title, "RepoTags": list(names), "Layers": places}]
    members = [file(place, layer) for place, layer in zip(places, layers, strict=True)]
    return tar(*members, file(title, settings), file("manifest.json", json.dumps(index)))
