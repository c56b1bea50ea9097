"""Who an image's config means by its user, by the image's own files (passwd(5), group(5)). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from backends.container_image import ImageUser
from backends.frozen import frozen
from vm_images.oci.refusals import BadEntry, shown

__all__ = ["resolve_user"]

_MAX_GROUPS = 1024
"""Supplementary groups; Linux takes 65 536."""
_MAX_ID = (1 << 32) - 2
"""Who runs may be somebody whom no file belongs to. The last number is nobody at all (chown(2))."""


@frozen
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def resolve_user(text: str, passwd: str, group: str) -> ImageUser:
    """Resolve ``USER``, ``UID``, each perhaps with ``:GROUP`` or ``:GID``, as Docker does.

    A number need not be anybody's. Where a group is told, there are no supplementary ones.

    Raises `BadEntry` for a name that the files do not have.
    """
    user, _, told_group = text.partition(":")
    account = next((one for one in _accounts(passwd) if user in (one.name, str(one.uid))), None)
    if account is None and not user:
        account = next((one for one in _accounts(passwd) if one.uid == 0), _Account("root", 0, 0, "/root"))
    if account is None:
        if not _is_id(user):
            raise _nobody(text, f"its /etc/passwd has no {shown(user)}")
        account = _Account("", int(user), 0, "")
    if not told_group:
        return ImageUser(account.uid, account.gid, _memberships(account, group), account.home)
    gid = next((gid for name, gid, _ in _groups(group) if told_group in (name, str(gid))), None)
    if gid is None:
        if not _is_id(told_group):
            raise _nobody(text, f"its /etc/group has no {shown(told_group)}")
        gid = int(told_group)
    return ImageUser(account.uid, gid, (), account.home)


def _memberships(account: _Account, group: str) -> tuple[int, ...]:
    found = {gid for _, gid, members in _groups(group) if account.name and account.name in members}
    return tuple(sorted(found - {account.gid})[:_MAX_GROUPS])


def _accounts(passwd: str) -> Iterator[_Account]:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[0] and _is_id(fields[2]) and _is_id(fields[3]):
            home = fields[5] if fields[5].startswith("/") and ".." not in fields[5].split("/") else ""
            yield _Account(fields[0], int(fields[2]), int(fields[3]), home)


def _groups(group: str) -> Iterator[tuple[str, int, list[str]]]:
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] and _is_id(fields[2]):
            yield fields[0], int(fields[2]), fields[3].split(",")


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID


def _nobody(text: str, why: str) -> BadEntry:
    return BadEntry("image_user", f"its config runs everything as {shown(text)}, and {why}")
