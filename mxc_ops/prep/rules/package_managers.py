"""The package managers of the distribution families, as shell commands. Pure.

What is asked here for all families alike: no question is put to anybody, nothing is installed that is merely
recommended, nothing that is installed already is removed for it, an administrator's configuration files stay
as they are, and who holds the manager's lock is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

__all__ = ["IMAGE_BASED", "MANAGERS", "Manager", "joined", "only"]

_LOCK_S = 60
IMAGE_BASED: Mapping[str, str] = {
    "rpm-ostree": "rpm-ostree install --idempotent {names} && systemctl reboot",
    "transactional-update": "transactional-update --non-interactive pkg install {names} && systemctl reboot",
}
"""Programs that install on systems whose /usr is an image, and how: it takes a restart, which is not ours."""


@dataclass(frozen=True)
class Manager:
    """One family's package manager. Names of packages that are printed are those of the listing.

    Parameters
    ----------
    tools: programs that install; the first that is there is used.
    listing: prints ``NAME VERSION`` of every installed package, one a line, sorted as in the C locale.
    missing: (names) prints those that are not installed; what an installed package provides counts as such.
    install: (tool, names) commands. That the index cannot be refreshed is only a warning: it may still do.
    removal: (names, kept) prints which of them are there, and all that must go with them; changes nothing.
    wanted: (virtual) prints what was asked for by name, rather than that it came along, but for what provides
        one of the `virtual` names; nothing where no such record is kept.
    remove: (names, kept, others) commands that remove exactly these: `names` with their configuration, `kept`
        and `others` without.
    """

    tools: tuple[str, ...]
    listing: str
    missing: Callable[[Sequence[str]], str]
    install: Callable[[str, Sequence[str]], tuple[str, ...]]
    removal: Callable[[Sequence[str], Sequence[str]], str]
    wanted: Callable[[Sequence[str]], str]
    remove: Callable[[Sequence[str], Sequence[str], Sequence[str]], tuple[str, ...]]


def joined(names: Sequence[str]) -> str:
    """The names as words of a command."""
    return " ".join(quote(name) for name in names)


def only(names: Sequence[str]) -> str:
    """A filter that lets just these lines through."""
    return f"grep -xF{''.join(f' -e {quote(name)}' for name in names)}"


def _without(command: str) -> str:
    """A filter that lets none of the lines through that a command prints."""
    return f'grep -vxF "$({command})"'


def _refreshed(command: str) -> str:
    return f"{command} || echo 'the index of packages was not refreshed; the one at hand is used' >&2"


def _each(names: Sequence[str], installed: str) -> str:
    """Print the names for which a test of ``"$name"`` fails."""
    return f'for name in {joined(names)}; do {installed} || echo "$name"; done'


# --- Debian, Ubuntu

_APT = (
    "env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l"  # l: needrestart(1) restarts no services
    f" apt-get -q -y -o DPkg::Lock::Timeout={_LOCK_S} -o Acquire::Retries=3"
    " -o APT::Keep-Downloaded-Packages=false"
    " -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)
# Services must not be started in a chroot, nor stopped: its processes are the host's. policy-rc.d is for that
# (invoke-rc.d(8)); an administrator's own stays, and one of ours that a kill left behind is taken over.
_NO_SERVICES_IN_A_CHROOT = (
    "policy=/usr/sbin/policy-rc.d;"
    ' if ischroot -t && { test ! -e "$policy" || grep -qs "mxc-ops prep host" "$policy"; }; then'
    " trap 'rm -f \"$policy\"' EXIT; trap 'exit 1' HUP INT TERM;"
    " printf '#!/bin/sh\\n# mxc-ops prep host: while packages change\\nexit 101\\n' > \"$policy\";"
    ' chmod 0755 "$policy"; fi;'
)


def _apt(command: str) -> str:
    return f"( {_NO_SERVICES_IN_A_CHROOT} {_APT} {command} )"


# Of each package that is installed ``PACKAGE, NAME, …,``, with the names that it provides.
_APT_PROVIDED = (
    "dpkg-query -W -f='${db:Status-Status} ${binary:Package}, ${Provides},\\n'"
    " | sed -n -e 's/ ([^)]*)//g' -e 's/^installed //p'"
)


def _apt_missing(names: Sequence[str]) -> str:
    listed = "dpkg-query -W -f='${db:Status-Status}\\n' \"$name\" 2>/dev/null | grep -qx installed"
    return _each(names, f'{listed} || {_APT_PROVIDED} | grep -qF " $name,"')


def _apt_wanted(virtual: Sequence[str]) -> str:
    # Its answer is of what is installed: with the index of all packages it only takes longer.
    chosen = "apt-mark -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null showmanual"
    if not virtual:
        return chosen
    names = "".join(f" -e {quote(f' {name},')}" for name in virtual)
    native = '"s/:$(dpkg --print-architecture)$//"'
    providing = f"{_APT_PROVIDED} | grep -F{names} | sed -e 's/,.*//' -e {native}"
    return f"{chosen} | {_without(providing)}"


def _apt_removal(names: Sequence[str], kept: Sequence[str]) -> str:
    native = 'sed "s/:$(dpkg --print-architecture)$//"'
    status = f"dpkg-query -W -f='${{db:Status-Status}} ${{binary:Package}}\\n' %s 2>/dev/null | {native}"
    there = "sed -e '/^not-installed /d' -e 's/^[^ ]* //'"
    working = "sed -e '/^not-installed /d' -e '/^config-files /d' -e 's/^[^ ]* //'"
    planned = "sed -n -e 's/^Purg \\([^ ]*\\) .*/\\1/p' -e 's/^Remv \\([^ ]*\\) .*/\\1/p'"
    parts = [
        f"set -- $({status % joined(packages)} | {states}); test $# = 0"
        f' || {{ printf \'%s\\n\' "$@"; apt-get -q -s {verb} "$@" | {planned}; }}'
        for packages, states, verb in ((names, there, "purge"), (kept, working, "remove"))
        if packages  # without names, dpkg-query tells of all packages
    ]
    return f"{{ {'; '.join(parts)}; }} | LC_ALL=C sort -u" if parts else "true"


def _apt_remove(names: Sequence[str], kept: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    # What is removed first may take some of `names` along; their configuration still goes by the purge.
    first = joined([*others, *kept])
    return (
        *([_apt(f"remove {first}")] if first else []),
        *([_apt(f"purge {joined(names)}")] if names else []),
    )


_DEBIAN = Manager(
    tools=("apt-get",),
    # A package that was removed but not purged still has its configuration: deb-status `config-files`.
    listing=(
        "dpkg-query -W -f='${binary:Package} ${db:Status-Status} ${Version}\\n'"
        " | sed -e '/ not-installed /d' -e 's/ config-files .*/ config-files/' -e 's/ [^ ]* / /'"
        ' -e "s/:$(dpkg --print-architecture) / /" | LC_ALL=C sort'
    ),
    missing=_apt_missing,
    install=lambda _tool, names: (
        _refreshed(f"{_APT} update"),
        _apt(f"--no-install-recommends --no-remove install {joined(names)}"),
    ),
    removal=_apt_removal,
    wanted=_apt_wanted,
    remove=_apt_remove,
)

# --- Fedora, RHEL and openSUSE: two installers, one database

_RPM_LISTING = (
    # Keys that were imported with the first package of a repository stand in the database as packages.
    "rpm -qa --qf '%{NAME}.%{ARCH} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n'"
    " | sed -e 's/^gpg-pubkey[.][^ ]* [0-9]*:/gpg-pubkey-/' -e 's/^gpg-pubkey-.*/& key/' | LC_ALL=C sort -u"
)


def _rpm_removal(names: Sequence[str], kept: Sequence[str]) -> str:
    """Who needs them, and who needs those in turn: rpm(8) names each package that an erasure would break."""
    ours = joined([*names, *kept])
    needing = "sed -n 's/.* is needed by (installed) \\(.*\\)-[^-]*-[^-]*[.]\\([^.-]*\\)$/\\1.\\2/p'"
    return (
        f'set -- $(for name in {ours}; do rpm -q "$name" >/dev/null 2>&1 && echo "$name"; done);'
        f' while test $# -gt 0; do others=$(rpm -e --test "$@" 2>&1 | {needing} | LC_ALL=C sort -u'
        ' | grep -vxF "$(printf \'%s\\n\' "$@")"); test -n "$others" || break; set -- "$@" $others; done;'
        " test $# = 0 || printf '%s\\n' \"$@\""
    )


def _rpm_remove(names: Sequence[str], kept: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """rpm(8) itself erases exactly these; dnf and zypper would also take what they leave unneeded."""
    # An edited configuration file of an erased package is kept as .rpmsave: only what the erasure makes goes.
    each = "while IFS= read -r path; do"
    absent = f'{each} test -e "$path" || printf \'%s\\n\' "$path"; done'
    listed = f"rpm -qc {joined(names)} | sed -n 's|^/.*|&.rpmsave|p' | {absent}"
    saved = f"saved=$({listed});" if names else "saved=;"
    tidy = f'printf \'%s\\n\' "$saved" | {each} rm -f "$path"; done'
    return (f"{saved} rpm -e {joined([*names, *kept, *others])} && {tidy}",)


def _rpm(tools: tuple[str, ...], install: Callable[[str, Sequence[str]], tuple[str, ...]]) -> Manager:
    return Manager(
        tools,
        _RPM_LISTING,
        missing=lambda names: _each(names, 'rpm -q --whatprovides "$name" >/dev/null 2>&1'),
        install=install,
        removal=_rpm_removal,
        wanted=lambda _virtual: "true",  # rpm keeps no such record
        remove=_rpm_remove,
    )


_FEDORA = _rpm(
    ("dnf", "microdnf", "yum"),
    # All three wait for locks by themselves. microdnf(8) takes 0 and 1 only, and this option as one of few.
    lambda tool, names: (
        _refreshed(f"{tool} -y makecache"),
        f"{tool} -y --setopt=install_weak_deps=0 install {joined(names)}",
    ),
)
_ZYPPER = f"env ZYPP_LOCK_TIMEOUT={_LOCK_S} zypper --non-interactive"
_SUSE = _rpm(
    ("zypper",),
    # 102, 103: a restart is wanted; 106: a repository was passed over (zypper(8), exit codes).
    lambda _tool, names: (
        _refreshed(f"{_ZYPPER} refresh"),
        f"{_ZYPPER} --no-refresh install --no-recommends {joined(names)}"
        " || case $? in 102|103|106) ;; *) exit 1 ;; esac",
    ),
)

# --- Alpine

_APK = f"apk --wait {_LOCK_S} --no-progress"
_WORLD = "sed 's/[<>=~@!].*//' /etc/apk/world"


def _apk_removal(names: Sequence[str], kept: Sequence[str]) -> str:
    purged = "sed -n 's/^( *[0-9]*\\/[0-9]*) Purging \\([^ ]*\\) .*/\\1/p'"
    return (
        f"set -- $(apk info 2>/dev/null | {only([*names, *kept])}); test $# = 0"
        f' || {{ printf \'%s\\n\' "$@"; apk del --simulate --rdepends "$@" | {purged}; }} | LC_ALL=C sort -u'
    )


def _apk_remove(names: Sequence[str], kept: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    # apk removes by itself what nothing needs any longer, so some of `names` may be gone with the others.
    ours = [*names, *kept]
    return (
        *([f"{_APK} del {joined(others)}"] if others else []),
        f"set -- $({{ apk info 2>/dev/null; {_WORLD}; }} | {only(ours)} | LC_ALL=C sort -u);"
        f' test $# = 0 || {_APK} del --purge "$@"',
    )


_ALPINE = Manager(
    tools=("apk",),
    listing=(
        "apk info -v 2>/dev/null"
        " | sed 's/-\\([0-9][^-]*\\(-r[0-9][0-9]*\\)\\{0,1\\}\\)$/ \\1/' | LC_ALL=C sort"
    ),
    missing=lambda names: _each(names, 'apk info -e "$name" >/dev/null 2>&1'),
    install=lambda _tool, names: (_refreshed(f"{_APK} update"), f"{_APK} add {joined(names)}"),
    removal=_apk_removal,
    wanted=lambda _virtual: _WORLD,  # a virtual name stands there itself
    remove=_apk_remove,
)

# --- Arch

# pacman fails at once when its database is locked.
_PACMAN = (
    f'seconds=0; while test -e "$(pacman-conf DBPath)db.lck" && test $seconds -lt {_LOCK_S}; do sleep 1;'
    " seconds=$((seconds + 1)); done; pacman --noconfirm"
)


def _pacman_removal(names: Sequence[str], kept: Sequence[str]) -> str:
    return (
        f"set -- $(pacman -Qq | {only([*names, *kept])}); test $# = 0"
        ' || { printf \'%s\\n\' "$@"; pacman -Rcp --noconfirm --print-format %n "$@"; } | LC_ALL=C sort -u'
    )


def _pacman_remove(names: Sequence[str], kept: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    return (
        *([f"{_PACMAN} -R {joined(others)}"] if others else []),
        f"{_PACMAN} -Rn {joined([*names, *kept])}",
    )


def _pacman_wanted(virtual: Sequence[str]) -> str:
    chosen = "pacman -Qqe"
    # Asked for a name that is no package's, -Q tells of what provides it.
    return f"{chosen} | {_without(f'pacman -Qq {joined(virtual)} 2>/dev/null')}" if virtual else chosen


def _pacman_install(_tool: str, names: Sequence[str]) -> tuple[str, ...]:
    """With the index at hand, whatever its age: one newer than the host would make a partial upgrade.

    Arch supports none (ArchWiki, System maintenance). Only where there is no index at all one is fetched.
    """
    stale = (
        "if a package was not found, the index of this host is older than its mirrors:"
        " bring the host up to date first, with: pacman -Syu"
    )
    return (
        'ls "$(pacman-conf DBPath)"sync/*.db >/dev/null 2>&1 || ' + _refreshed(f"{{ {_PACMAN} -Sy; }}"),
        f"{_PACMAN} -S --needed --noprogressbar {joined(names)} || {{ echo '{stale}' >&2; exit 1; }}",
    )


_ARCH = Manager(
    tools=("pacman",),
    listing="pacman -Q | LC_ALL=C sort",
    missing=lambda names: f"pacman -T {joined(names)} || true",
    install=_pacman_install,
    removal=_pacman_removal,
    wanted=_pacman_wanted,
    remove=_pacman_remove,
)

MANAGERS: Mapping[str, Manager] = {
    "debian": _DEBIAN,
    "fedora": _FEDORA,
    "alpine": _ALPINE,
    "arch": _ARCH,
    "suse": _SUSE,
}
