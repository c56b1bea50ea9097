"""Whether network rules load and a user's network comes up: tried in throw-away network namespaces."""

from __future__ import annotations

import os
import shutil

from backends.linux.trial import Outcome, attempt

__all__ = ["RULES", "find_program", "load_rules", "start_pasta"]

_DEADLINE_S = 10
_PATH_OF_ROOT = "/usr/sbin:/sbin"
# One of each kind of rule that a network policy is made of.
RULES = """\
table inet mxc-ops-probe {
    set allowed {
        type ipv4_addr . inet_service
        elements = { 192.0.2.1 . 443 }
    }
    chain output {
        type filter hook output priority filter; policy drop;
        oifname "lo" accept
        ct state established,related accept
        ip daddr . tcp dport @allowed counter accept
        counter reject with icmpx admin-prohibited
    }
    chain translated {
        type nat hook postrouting priority srcnat; policy accept;
        masquerade
    }
}
"""
# Neither the host's loopback nor its ports are reached through it (see passt(1)).
_SEALED = ("--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none")


def find_program(name: str) -> str | None:
    """The absolute path of a program, where root's programs are too; None without it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_PATH_OF_ROOT}")


def load_rules(nft: str, bwrap: str, uid: int) -> Outcome:
    """Load `RULES` in a network namespace of its own: root's directly, a user's inside a user namespace.

    Parameters
    ----------
    nft, bwrap: absolute paths of the programs.
    uid: whose rights are used.
    """
    user = ("--unshare-user", "--uid", "0", "--gid", "0") if uid else ()
    argv = [
        *(bwrap, "--unshare-net", *user, "--cap-drop", "ALL", "--cap-add", "CAP_NET_ADMIN"),
        *("--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--", nft, "-f", "-"),
    ]
    return attempt(argv, deadline_s=_DEADLINE_S, uid=uid, stdin=RULES)


def start_pasta(pasta: str, uid: int) -> Outcome:
    """Bring up a user's network by pasta, and see that there is more than the loopback in it.

    Parameters
    ----------
    uid: not root's, whose rights pasta drops.
    """
    look = "test $(grep -c : /proc/net/dev) -gt 1"
    argv = [pasta, "--quiet", "--foreground", "--config-net", *_SEALED, "--", "/bin/sh", "-c", look]
    return attempt(argv, deadline_s=_DEADLINE_S, uid=uid)
