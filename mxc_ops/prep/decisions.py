"""What must be done about one item, from what was seen on the host: pure rules, one for each kind of item.

Commands are lines for ``/bin/sh``, run as root. Each rule answers no commands once they have been run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from backends.linux.id_ranges import overlaps

APT_DEADLINE_S = 900
_UBUNTU_PROFILE = "/etc/apparmor.d/bwrap-userns-restrict"
APPARMOR_FILES = (_UBUNTU_PROFILE,)


@dataclass(frozen=True)
class Decision:
    """`before`: what is; `after`: what would be. No `commands`: nothing to do. `refusal`: why it must not be
    done, and `fix`, what a person can do about that."""

    before: str
    after: str
    commands: tuple[str, ...] = ()
    refusal: str = ""
    fix: str = ""


def installed_packages(missing: Sequence[str], wanted: Sequence[str]) -> Decision:
    """Packages through apt. `missing`: those of `wanted` that are not installed."""
    if not missing:
        return _nothing_to_do(f"{' '.join(wanted)} installed")
    apt = "env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=60"
    names = " ".join(quote(name) for name in missing)
    return Decision(
        f"{' '.join(missing)} not installed",
        f"{' '.join(wanted)} installed",
        (
            # A stale index may still do, so only the installation decides.
            f"timeout -k 5 {APT_DEADLINE_S} {apt} update || true",
            f"timeout -k 5 {APT_DEADLINE_S} {apt} --no-install-recommends install {names}",
        ),
    )


def kernel_setting(seen: str | None, key: str, wanted: str) -> Decision:
    """A sysctl, set now and by a drop-in for the next boot, but only where the kernel has it and it is wrong.

    Parameters
    ----------
    seen: the value now, None where the kernel has no such key.
    wanted: a value, or ``>=N``.
    """
    if seen is None:
        return _nothing_to_do("this kernel has no such setting")
    if _satisfies(seen, wanted):
        return _nothing_to_do(seen)
    value = wanted.removeprefix(">=")
    drop_in = f"/etc/sysctl.d/90-mxc-ops-{key}.conf"
    return Decision(
        seen,
        f"{value}, kept by {drop_in}",
        (
            write_file(drop_in, f"# mxc-ops prep host\n{key} = {value}\n"),
            f"printf '%s\\n' {quote(value)} > {quote('/proc/sys/' + key.replace('.', '/'))}",
        ),
    )


def _satisfies(seen: str, wanted: str) -> bool:
    if wanted.startswith(">="):
        return seen.isdigit() and int(seen) >= int(wanted[2:])
    return seen == wanted


def root_directory(seen: Mapping[str, str] | None, path: str) -> Decision:
    """A directory of root's, mode 0755.

    Parameters
    ----------
    seen: ``{"kind", "mode" (octal), "owner" (uid)}``; None where there is nothing.
    """
    after = "directory of root's, mode 755"
    if seen is None:
        return Decision(
            "not there", after, (f"umask 022 && mkdir -p {quote(path)} && chmod 0755 {quote(path)}",)
        )
    before = f"{seen['kind']} of uid {seen['owner']}, mode {seen['mode']}"
    if seen["kind"] != "directory" or seen["owner"] != "0" or int(seen["mode"], 8) & 0o022:
        return Decision(
            before,
            after,
            refusal=f"{path} is a {before}: programs that run for others must not be kept there",
            fix=f"look at what it is for, then: rm -r {quote(path)}",
        )
    return _nothing_to_do(after)


def id_range(seen: Mapping[str, str], path: str, wanted: str) -> Decision:
    """Record the workload ids of this host, unless they belong to somebody.

    Parameters
    ----------
    seen: texts by path: of `path` and of the files that give out ids; absent files are missing.
    wanted: ``first:count``; a range that `path` records already is kept in its place.
    """
    first, count = (int(part) for part in wanted.split(":"))
    try:
        recorded: dict[str, object] = json.loads(seen.get(path, "{}"))
        kept = recorded.get("uidRange")
        if isinstance(kept, dict):
            first, count = int(kept["first"]), int(kept["count"])  # pyright: ignore[reportUnknownArgumentType] - ValueError or TypeError says the rest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Decision(
            "unreadable",
            wanted,
            refusal=f"{path} cannot be understood: {error}",
            fix=f"correct or remove {path}",
        )
    taken = overlaps(seen, first, count)
    if taken:
        return Decision(
            f"ids {first} to {first + count - 1} are given to others",
            f"a range of {count} ids of our own",
            refusal="; ".join(taken),
            fix=f'write a free range to {path}: {{"uidRange": {{"first": N, "count": {count}}}}}',
        )
    after = f"ids {first} to {first + count - 1}"
    if recorded.get("uidRange") is not None:
        return _nothing_to_do(after)
    content = {"schemaVersion": 1, **recorded, "uidRange": {"first": first, "count": count}}
    return Decision("none recorded", after, (write_file(path, json.dumps(content, indent=2) + "\n"),))


def helper_program(present: bool, path: str, build: Sequence[str]) -> Decision:
    """A program compiled on the host, found by the hash of its source in `path`.

    Parameters
    ----------
    build: the argument vector that compiles it to `path`.
    """
    if present:
        return _nothing_to_do("built from these sources")
    return Decision(
        "not built from these sources", path, (f"timeout -k 5 120 {' '.join(quote(word) for word in build)}",)
    )


def apparmor_profile(seen: Mapping[str, str], switch: str, path: str, program: str) -> Decision:
    """Let one program make user namespaces where AppArmor restricts them (host-prep.md §1, §9).

    Parameters
    ----------
    seen: texts by path: of the switch below /proc/sys, of `path`, of Ubuntu's own profile for bwrap.
    switch: the sysctl that restricts.
    """
    if seen.get("/proc/sys/" + switch.replace(".", "/"), "0").strip() != "1":
        return _nothing_to_do("AppArmor does not restrict user namespaces here")
    if _UBUNTU_PROFILE in seen:
        return _nothing_to_do(f"permitted by {_UBUNTU_PROFILE}")
    profile = (
        f"# mxc-ops prep host: {program} may make user namespaces, here and nowhere else.\n"
        "abi <abi/4.0>,\ninclude <tunables/global>\n\n"
        f"profile mxc-ops-{program.rpartition('/')[2]} {program} flags=(unconfined) {{\n  userns,\n}}\n"
    )
    if seen.get(path) == profile:
        return _nothing_to_do(path)
    return Decision(
        "no profile permits user namespaces" if path not in seen else f"{path} differs",
        path,
        (write_file(path, profile), f"apparmor_parser -r {quote(path)}"),
    )


def write_file(path: str, content: str) -> str:
    """A command that puts a text in place in one step, readable to all, its directory made if need be."""
    folder, _, name = path.rpartition("/")
    temporary = quote(f"{folder}/.{name}.new")
    return (
        f"umask 022 && mkdir -p {quote(folder)} && printf %s {quote(content)} > {temporary}"
        f" && mv -f {temporary} {quote(path)}"
    )


def _nothing_to_do(state: str) -> Decision:
    return Decision(state, state)
