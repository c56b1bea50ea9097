"""The names and small files of /etc that every sandbox has, whatever contains it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ETC_FILES", "HOSTNAME", "INSIDE_ID"]

HOSTNAME = "mxc-sandbox"
INSIDE_ID = 1000

_PASSWD = (
    "root:x:0:0:root:/:/usr/sbin/nologin\n"
    f"sandbox:x:{INSIDE_ID}:{INSIDE_ID}:sandbox:/tmp:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
)
_GROUP = f"root:x:0:\nsandbox:x:{INSIDE_ID}:\nnogroup:x:65534:\n"
_HOSTS = f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"

ETC_FILES: Mapping[str, str] = {
    "/etc/passwd": _PASSWD,
    "/etc/group": _GROUP,
    "/etc/hosts": _HOSTS,
    "/etc/hostname": f"{HOSTNAME}\n",
    "/etc/nsswitch.conf": _NSSWITCH,
}
