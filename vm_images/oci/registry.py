"""Fetching an image from a registry, with skopeo. Never when something is run: it is a command of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.errors import PrepFailed, Problem
from vm_images.oci.bundle import Bundle, Source
from vm_images.oci.config import ARCHITECTURE, SYSTEM, parse_document
from vm_images.oci.confined import View, run_confined
from vm_images.oci.limits import Limits
from vm_images.oci.manifest import Descriptor, choose, parse_manifest, root_of
from vm_images.oci.raw_folder import bundle_of_folder, raw_folder, require_room
from vm_images.oci.references import Reference
from vm_images.oci.refusals import BadEntry
from vm_images.oci.tar_reader import damaged_is_refused
from vm_images.oci.users_namespace import ImageUsers

__all__ = ["fetch"]

_POLICY = "/etc/containers/policy.json"
_ASK_S = 120
_FETCH_S = 3600


def fetch(reference: Reference, users: ImageUsers, scratch: Path, limits: Limits) -> Bundle:
    """Ask a registry what a reference is, then for exactly that, by its digest.

    Parameters
    ----------
    scratch: an empty directory.

    Raises `ConfigError` for an image that is not taken, `PrepFailed` where the registry does not give it.
    """
    subject = str(reference)
    with damaged_is_refused(subject, "the registry's answer"):
        text = _ask(reference, users)
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        roots = root_of(_document(text, limits), digest, len(text))
        answers: dict[str, bytes] = {digest: text}

        def read(wanted: Descriptor) -> dict[str, Any]:
            if wanted.digest not in answers:
                answers[wanted.digest] = text = _ask(reference.at(wanted.digest), users)
                _check(f"sha256:{hashlib.sha256(text).hexdigest()}", wanted.digest)
            return _document(answers[wanted.digest], limits)

        chosen, passed = choose(roots, read)
        # How much it is, before any of it is fetched.
        sizes = [layer.size for layer in parse_manifest(read(chosen), limits).layers]
        folder, spare = raw_folder(scratch, users), 2 * limits.document_bytes  # config, and manifest
        view = View(writable={"/raw": folder}, network=True, file_bytes=max(sizes) + limits.document_bytes)

        def watch() -> None:
            require_room(folder, sizes, spare)

        _skopeo(["copy", "--quiet"], reference.at(chosen.digest), ["dir:/raw"], users, view, watch)
        bundle = bundle_of_folder(Source.REGISTRY, folder, limits, subject, known=(digest, *passed))
        _check(bundle.digest, chosen.digest)
        return bundle


def _check(digest: str, wanted: str) -> None:
    """Skopeo reads what strangers wrote, and might bring another image than was asked for."""
    if digest != wanted:
        raise BadEntry("image_digest", f"{digest} came instead of {wanted}")


def _document(text: bytes, limits: Limits) -> dict[str, Any]:
    return parse_document(text, "the manifest", limits.document_bytes)


def _ask(reference: Reference, users: ImageUsers) -> bytes:
    return _skopeo(["inspect", "--raw"], reference, [], users, View(network=True))


def _skopeo(
    command: list[str],
    reference: Reference,
    rest: list[str],
    users: ImageUsers,
    view: View,
    watch: Callable[[], None] | None = None,
) -> bytes:
    """Its signature policy is the host's, where the host has one."""
    policy = [] if Path(_POLICY).exists() else ["--insecure-policy"]
    fetches = command[0] == "copy"
    words = ["skopeo", *policy, "--override-os", SYSTEM, "--override-arch", ARCHITECTURE, *command]
    # Between us and a registry of this very host is nobody, and it rarely has a certificate.
    words += [f"{'--src-tls-verify' if fetches else '--tls-verify'}=false"] * reference.is_on_loopback
    words += [f"docker://{reference}", *rest]
    try:
        return run_confined(words, users, view, deadline_s=_FETCH_S if fetches else _ASK_S, watch=watch)
    except PrepFailed as error:
        message = f"{reference} cannot be fetched: {error.problems[0].message}"
        fix = (
            f"on a host that reaches {reference.registry}:"
            f" skopeo copy docker://{reference} oci-archive:image.tar;"
            f" then here: mxc-ops image import image.tar --name {reference}"
        )
        problem = Problem("image_not_fetched", str(reference), message, fix=fix)
        raise PrepFailed(problem, retryable=True) from error
