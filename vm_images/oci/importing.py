"""Taking an image in: found out what it is, checked, put together, packed, published.

Everything on the way lies in one place of the store that nobody else can change, and is gone at the end.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.errors import BackendUnavailable, PrepFailed
from backends.frozen import frozen
from backends.vm.container import root_size
from vm_images.build import Report
from vm_images.oci.archives import bundle_of, identify
from vm_images.oci.bundle import Bundle, Source
from vm_images.oci.content import Piece, Plain, digest_of, read_piece, require_size, unpacked
from vm_images.oci.image_user import resolve_user
from vm_images.oci.layers import Checking, Layer, rewrite_layer
from vm_images.oci.limits import Limits
from vm_images.oci.record import ROOTFS, Seen, inputs_of, manifest_of
from vm_images.oci.references import Reference, parse_reference
from vm_images.oci.refusals import refused
from vm_images.oci.registry import fetch
from vm_images.oci.store import (
    DIGESTS,
    UNNAMED,
    StoredContainer,
    as_file,
    container_stores,
    own_container_store,
    read_container,
)
from vm_images.oci.tar_reader import damaged_is_refused
from vm_images.oci.tree_model import Kind, Tree
from vm_images.oci.unpack import BLOBS, LayerBlob, clear, make_root
from vm_images.oci.users_namespace import ImageUsers, image_users
from vm_images.plan import key_of
from vm_images.store import MANIFEST, key_of_name, lock_folder
from vm_images.store_changes import publish, set_name, sweep, workplace, writing

__all__ = ["Terms", "import_archive", "known_archive", "pull"]


@frozen
class Terms:
    """What is taken of an image. `keep_set_id`: set-uid and set-gid bits stay, else they are cleared."""

    limits: Limits = Limits()
    keep_set_id: bool = False


_USUAL = Terms()
_DAY_S = 86_400
_MAX_TEXT = 1 << 20
"""Bytes of a file of an image that we read."""


def _silent(_step: str) -> None:
    pass


def import_archive(
    path: Path,
    reference: str = "",
    *,
    must_be_named: bool = False,
    named: bool = True,
    terms: Terms = _USUAL,
    report: Report = _silent,
    subject: str = "",
) -> StoredContainer:
    """Have the image of an archive in our store: a root file system, ``docker save``'s, or OCI's.

    What it is, and how it is compressed (gzip, zstd, xz, or not), its content tells. The very file that was
    imported before is only read again; the same content in another file is stored once.

    Parameters
    ----------
    reference: what to call it; by default what it is called in the archive, if anything. Of an archive with
        several images it says which one. With a digest, the image must have that.
    must_be_named: refuse an archive that does not say what it is called where nobody does; else it may be
        without a name, and stays until somebody collects what has none.
    named: False lets nothing lead to the image but its digests and the archive itself, whatever the archive
        calls it: who makes an archive must not say what the host's names mean. `inventory.collect_garbage`
        keeps such an image for some days after it was last asked for.
    report: see `vm_images.build.Report`.
    subject: what errors call the archive, where that is not its path.

    Raises `ConfigError` that names the layer and entry for an image that is refused, `BackendUnavailable`
    where the host lacks something, `PrepFailed` when the store cannot be changed, or a program fails.
    """
    subject, store = subject or str(path), Path(own_container_store())
    wanted = parse_reference(reference, "--name") if reference else None
    report("reading the archive")
    digest = digest_of(path, subject, terms.limits.archive_bytes)
    if (wanted or not must_be_named) and (found := _before(digest, wanted, terms, store, named=named)):
        return found
    sweep(store, clear)
    with workplace(store, clear=clear) as scratch, image_users() as users:
        _open_to(users, scratch)
        plain = unpacked(
            Piece(path),
            scratch / "archive.tar",
            users,
            at_most=terms.limits.archive_bytes,
            subject=subject,
            what="the archive",
        )
        archive = identify(plain, subject)
        report(f"it is {_ARTICLES[archive.source]}")
        bundle, called = bundle_of(archive, wanted, users, scratch, terms.limits)
        called = called if named else wanted
        if must_be_named and called is None:
            fix = f"mxc-ops image import {shlex.quote(subject)} --name NAME"
            raise refused("image_unnamed", subject, "it does not say what it is called", fix=fix)
        # The file may have been changed since it was read first.
        token = _token(plain.packed, wanted, terms, named=named)
        return _Import(bundle, called, terms, users, scratch, subject, report).run(store, token)


def known_archive(path: Path, subject: str, *, terms: Terms = _USUAL) -> StoredContainer | None:
    """What an archive was imported as before; None when it was not. Nothing is changed.

    Raises `ConfigError` for a file that is too large.
    """
    digest, store = digest_of(path, subject, terms.limits.archive_bytes), Path(own_container_store())
    tokens = [_token(digest, None, terms, named=named) for named in (False, True)]
    return next(filter(None, (_known(token, None, store) for token in tokens)), None)


def pull(reference: str, *, terms: Terms = _USUAL, report: Report = _silent) -> StoredContainer:
    """Fetch an image from a registry into our store, under its reference.

    Registries on the host's loopback need no certificate. Otherwise as `import_archive`.
    """
    wanted, store = parse_reference(reference, "REFERENCE"), Path(own_container_store())
    sweep(store, clear)
    with workplace(store, clear=clear) as scratch, image_users() as users:
        _open_to(users, scratch)
        report(f"fetching {wanted}")
        bundle = fetch(wanted, users, scratch, terms.limits)
        return _Import(bundle, wanted, terms, users, scratch, str(wanted), report).run(store, "")


_ARTICLES = {
    Source.ROOTFS: "the archive of a root file system",
    Source.DOCKER: "an archive as docker save writes it",
    Source.OCI: "an archive of an OCI layout",
}


def _token(archive: str, wanted: Reference | None, terms: Terms, *, named: bool) -> str:
    """What tells that this file was imported, on these terms, and for this image of it."""
    text = f"{archive} {terms.keep_set_id} {wanted or ''}"
    return f"{'archive:' if named else UNNAMED}{hashlib.sha256(text.encode()).hexdigest()}"


def _before(
    archive: str, wanted: Reference | None, terms: Terms, store: Path, *, named: bool
) -> StoredContainer | None:
    """What an archive was imported as before; who gives no name also takes what was imported with one."""
    token = _token(archive, wanted, terms, named=named)
    found = _known(token, wanted, store)
    if named:
        return found
    if found is not None:
        _keep(found, token)
        return found
    return _known(_token(archive, wanted, terms, named=True), wanted, store)


def _keep(found: StoredContainer, token: str) -> None:
    """An image without a name stays as long as it is asked for; a link tells when, to the day."""
    store, key = Path(found.stored.store), found.stored.key
    if store != Path(own_container_store()):
        return
    # Where it cannot be told the image is only collected earlier.
    with suppress(FileNotFoundError, PrepFailed), lock_folder(found.stored.folder, token):
        if abs(time.time() - (store / DIGESTS / token).lstat().st_mtime) > _DAY_S:
            set_name(store, token, key, DIGESTS)


def _known(token: str, wanted: Reference | None, store: Path) -> StoredContainer | None:
    """What was made of it before. Of another's store only what needs no name in ours."""
    places = container_stores() if wanted is None else ((str(store), os.geteuid()),)
    for place, owner in places:
        key = key_of_name(place, token, DIGESTS)
        with suppress(BackendUnavailable):
            found = read_container(place, key, owner) if key else None
            if found is not None:
                if wanted is not None:
                    with lock_folder(found.folder, str(wanted)):
                        set_name(store, as_file(wanted), key)
                return StoredContainer(found, str(wanted or ""))
    return None


def _open_to(users: ImageUsers, scratch: Path) -> None:
    """What runs confined is somebody else, and must get to where it works."""
    if os.geteuid() == users.root[0]:
        return
    with writing(scratch.parent):
        scratch.chmod(0o711)


class _Import:
    """One image on its way into the store."""

    def __init__(
        self,
        bundle: Bundle,
        reference: Reference | None,
        terms: Terms,
        users: ImageUsers,
        scratch: Path,
        subject: str,
        report: Report,
    ) -> None:
        self._bundle = bundle
        self._reference = reference
        self._terms = terms
        self._users = users
        self._scratch = scratch
        self._subject = subject
        self._report = report
        self._checking = Checking(subject, terms.limits, keep_set_id=terms.keep_set_id)
        self._left = terms.limits.unpacked_bytes

    def run(self, store: Path, token: str) -> StoredContainer:
        wanted = self._reference
        if wanted is not None and wanted.digest and wanted.digest not in self._bundle.digests:
            message = f"it is not {wanted.digest}: it has {', '.join(self._bundle.digests) or 'no digest'}"
            raise refused("image_digest", self._subject, message)
        inputs = inputs_of(self._bundle, keep_set_id=self._terms.keep_set_id)
        key = key_of(inputs)
        if not _is_there(store, key):
            layers = self._check_layers()
            with workplace(store, key, waiting=self._tell_waiting, clear=clear) as place:
                fresh = not _is_there(store, key)
                if fresh:
                    self._make(place, layers, key, inputs)
                    publish(place, store, key)
                self._set_names(store, key, token)  # still locked: without a name it might be collected
        else:
            fresh = False
            self._check_digests()
            with lock_folder(f"{store}/{key}", self._subject):
                self._set_names(store, key, token)
        found = read_container(str(store), key, os.geteuid())
        return StoredContainer(found, str(wanted or ""), fresh)

    def _tell_waiting(self) -> None:
        self._report("somebody imports it already: waiting")

    def _set_names(self, store: Path, key: str, token: str) -> None:
        for digest in (*self._bundle.digests, *([token] if token else [])):
            set_name(store, digest, key, DIGESTS)
        if self._reference is not None:
            set_name(store, as_file(self._reference), key)

    def _check_layers(self) -> list[LayerBlob]:
        """Write each layer anew into a layout in the scratch place; returns their digests and sizes."""
        blobs = self._scratch / BLOBS
        count = len(self._bundle.layers)
        written: list[LayerBlob] = []
        with writing(self._scratch):
            blobs.mkdir(parents=True)
        for number in range(1, count + 1):
            layer = Layer(number, count, self._bundle.source is not Source.ROOTFS)
            self._report(f"checking {layer}")
            plain = self._plain(number - 1, layer)
            with writing(self._scratch):
                rewritten = self._scratch / f"layer-{number}.checked"
                digest = rewrite_layer(plain.path, rewritten, layer, self._checking)
                rewritten.rename(blobs / digest)
                plain.path.unlink()
            written.append((digest, (blobs / digest).stat().st_size))
        if not self._checking.entries:
            raise refused("image_document", self._subject, "there is nothing in it")
        return written

    def _check_digests(self) -> None:
        """What is there already is not made again; that the archive is whole is found out all the same."""
        count = len(self._bundle.layers)
        for number in range(1, count + 1):
            layer = Layer(number, count, self._bundle.source is not Source.ROOTFS)
            self._report(f"checking {layer}")
            self._plain(number - 1, layer).path.unlink()

    def _plain(self, place: int, layer: Layer) -> Plain:
        """A layer, decompressed, once its two digests were found to be those that are told."""
        found, told = self._bundle.layers[place], self._bundle.config.layers[place]
        if found.plain is not None:
            require_size(found.plain.size, self._left, self._subject, str(layer))
            return found.plain
        plain = unpacked(
            found.piece,
            self._scratch / f"layer-{layer.number}",
            self._users,
            at_most=self._left,
            subject=self._subject,
            what=str(layer),
        )
        if plain.packed != found.digest:
            message = f"{layer}: its blob is cut off or changed: it is not {found.digest}, but {plain.packed}"
            raise refused("image_digest", self._subject, message)
        if plain.digest != told:
            message = f"{layer}: its content is not what the config tells, {told}, but {plain.digest}"
            raise refused("image_digest", self._subject, message)
        self._left -= plain.size
        return plain

    def _make(self, place: Path, layers: list[LayerBlob], key: str, inputs: dict[str, Any]) -> None:
        """Put the image's files into `place`, and nothing else."""
        with damaged_is_refused(self._subject, "the image"):
            seen = self._look(layers)
        self._report(f"unpacking {len(layers)} layer{'s' * (len(layers) > 1)}, and packing it all as erofs")
        rootfs, limits = place / ROOTFS, self._terms.limits
        with writing(place.parent):
            make_root(self._scratch, layers, self._checking.entries, rootfs, key, self._users, limits)
            with rootfs.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            packed = rootfs.stat().st_size
            padded = root_size(packed)  # a disk of a machine, which has one of few sizes
            os.truncate(rootfs, padded)
            parts = {ROOTFS: {"size": padded, "content": packed, "sha256": digest}}
            (place / MANIFEST).write_bytes(manifest_of(inputs, self._bundle, seen, parts))

    def _look(self, layers: list[LayerBlob]) -> Seen:
        passwd, group = (self._text(path, layers) for path in ("/etc/passwd", "/etc/group"))
        user = resolve_user(self._bundle.config.user, passwd, group)
        shell = self._checking.tree.find("/bin/sh")
        has_shell = shell is not None and shell[1].kind is Kind.FILE and bool(shell[1].mode & 0o111)
        missing = _missing_directories(self._checking.tree, self._bundle.config.working_dir)
        return Seen(user, has_shell, missing, self._checking.defused.notes())

    def _text(self, path: str, layers: list[LayerBlob]) -> str:
        """A file of the image, out of the layer that has it; "" where there is none."""
        found = self._checking.tree.find(path)
        if found is None or found[1].kind is not Kind.FILE:
            return ""
        number, offset, size = found[1].content
        piece = Piece(self._scratch / BLOBS / layers[number - 1][0], offset, size)
        return read_piece(piece, self._subject, f"its {path}", _MAX_TEXT).decode("utf-8", "replace")


def _missing_directories(model: Tree, working_dir: str) -> tuple[str, ...]:
    names = [name for name in working_dir.split("/") if name]
    paths = ("/" + "/".join(names[:count]) for count in range(1, len(names) + 1))
    return tuple(path for path in paths if model.find(path) is None)


def _is_there(store: Path, key: str) -> bool:
    try:
        read_container(str(store), key, os.geteuid())
    except BackendUnavailable:
        return False
    return True
