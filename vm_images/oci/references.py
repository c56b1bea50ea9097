"""What an image is called: ``alpine``, ``registry.example:5000/team/tool:1.2``, ``alpine@sha256:…``.

Names mean what they mean to Docker: what says no registry is of Docker Hub, what says no tag has the tag
``latest``, and where a digest is told, the tag says nothing.
"""

from __future__ import annotations

import re

from backends.errors import ConfigError, Problem
from backends.frozen import frozen

__all__ = ["DIGEST", "Reference", "names_something", "parse_reference"]

_HUB = "docker.io"
_HUB_ALIASES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_OFFICIAL = "library"
_LATEST = "latest"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?")
_MAX = 200
"""A reference is a file's name in the store, with room for that of one being written: 255 bytes at most."""


@frozen
class Reference:
    """A reference with nothing left out: a `tag` or a `digest`, never both."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def is_on_loopback(self) -> bool:
        """Whether its registry is this very host, where there is nobody to listen between us and it."""
        return _LOOPBACK.fullmatch(self.registry) is not None

    def at(self, digest: str) -> Reference:
        """The image of this repository that has this digest."""
        return Reference(self.registry, self.repository, digest=digest)

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_reference(text: str, path: str = "") -> Reference:
    """Read a reference, and complete it.

    Parameters
    ----------
    path: where it stands, for the error: a JSON pointer or a command's option.

    Raises `ConfigError`.
    """
    name, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _refused(text, path, "its digest is not sha256: and 64 hexadecimal digits")
    name, tag = _split_tag(name)
    registry, repository = _split_registry(name)
    if not _REGISTRY.fullmatch(registry):
        raise _refused(text, path, "its registry is no host")
    if not all(map(_REPOSITORY.fullmatch, repository.split("/"))):
        raise _refused(text, path, "its name is not made of small letters and digits")
    if re.fullmatch("[0-9a-f]{64}", name):
        raise _refused(text, path, "64 hexadecimal digits are a digest, and no name")
    if tag is not None and not _TAG.fullmatch(tag):
        raise _refused(text, path, "its tag is none")
    found = Reference(registry, repository, "" if digest else tag or _LATEST, digest)
    if len(str(found)) > _MAX:
        raise _refused(text, path, f"it is longer than {_MAX} characters")
    return found


def names_something(text: str) -> bool:
    """Whether a text that an archive calls its image by is a reference, and not only a tag."""
    if not re.search("[/:@]", text):
        return False
    try:
        parse_reference(text)
    except ConfigError:
        return False
    return True


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon before the last slash is a port's."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or re.search(r"[.:A-Z]", first)):
        registry, repository = (_HUB if first in _HUB_ALIASES else first), rest
    else:
        registry, repository = _HUB, name
    if registry == _HUB and "/" not in repository:
        repository = f"{_OFFICIAL}/{repository}"
    return registry, repository


def _refused(text: str, path: str, why: str) -> ConfigError:
    shown = ascii(text[:80])
    message = f"{shown} is no reference of an image: {why}"
    return ConfigError(
        Problem(
            "image_reference", path, message, expected="as alpine:latest, or registry.example/name@sha256:…"
        )
    )
