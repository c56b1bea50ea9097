"""Compile a seccomp profile to the filter that the launcher installs before it executes the workload.

x86_64 only: a call made through another architecture's entry (i386's ``int 0x80``, x32) kills the process,
because its numbers mean other calls. What each profile allows is in `backends.linux.seccomp_profiles`.

The filter compares 32-bit halves. Where the kernel takes an ``int`` or ``unsigned int`` (ioctl's command,
socket's family, modes, clone's flags) it ignores the upper half, so only the lower one may be compared: a
filter that compares all 64 bits is passed by setting one that the kernel drops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from backends.digest import sha256
from backends.linux.bpf import Assembler
from backends.linux.seccomp_profiles import ABSENT, ALLOWED, CHECKED, REFUSED
from backends.linux.syscalls_x86_64 import NUMBERS

PROFILES = ("default", "strict", "debug")

EPERM = 1
ENOSYS = 38
EPROTONOSUPPORT = 93
ESOCKTNOSUPPORT = 94
EAFNOSUPPORT = 97

_Rule = Callable[[Assembler, str], None]
"""Emits the code that decides a call by its arguments; its labels carry the rule's name."""

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000

_ARCH_X86_64 = 0xC000003E
_X32_FIRST = 0x40000000
_NEGATIVE_FIRST = 0x80000000
_OFFSET_NUMBER = 0
_OFFSET_ARCH = 4
_OFFSET_ARGUMENTS = 16

_NEW_NAMESPACES = 0x7E020000
_NEW_TIME_NAMESPACE = 0x80  # part of the exit signal in clone's flags, of the namespaces in unshare's
_SETUID_SETGID = 0o6000
_CREATES = 0o100 | 0o20000000  # O_CREAT, O_TMPFILE: only then does the mode argument mean anything
_TERMINAL_COMMANDS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD (loads line disciplines)
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # LINUX, LINUX32, UNAME26, both, query
_NO_RANDOMISATION = 0x40000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCKET_TYPE_MASK = 0xF
_SOCK_RAW = 3
_PROTOCOLS = (0, 1, 6, 17, 58, 262)  # any, ICMP, TCP, UDP, ICMPv6, MPTCP; others load kernel modules
_NETLINK_ROUTE = 0


@cache
def program(profile: str) -> bytes:
    """The filter of a profile: classic BPF instructions, 8 bytes each. Raises ValueError without one."""
    if profile not in PROFILES:
        raise ValueError(f"no seccomp profile is called {profile!r}; there are {', '.join(PROFILES)}")
    code = Assembler()
    code.load(_OFFSET_ARCH)
    code.if_equal(_ARCH_X86_64, "native")
    code.give(_KILL_PROCESS)
    code.label("native")
    code.load(_OFFSET_NUMBER)
    leaves = _leaves(profile)
    _search(code, leaves)
    for target in sorted({target for _, target in leaves if isinstance(target, str)}):
        code.label(target)
        _RULES[target](code, target)
    return code.assemble()


def profile_hash(profile: str) -> str:
    """``sha256:…`` over the compiled filter, for provenance."""
    digest = sha256()
    digest.update(program(profile))
    return f"sha256:{digest.hexdigest()}"


def describe(profile: str) -> str:
    """The profile as text for people: what is allowed, what by argument only, what is refused and how."""
    decisions = _decisions(profile)
    by_answer: dict[str, list[str]] = {"allowed": [], "EPERM": [], "ENOSYS": []}
    for name in sorted(NUMBERS):
        decision = decisions.get(NUMBERS[name], _ERRNO | ENOSYS)
        if isinstance(decision, int):
            by_answer[_ANSWERS[decision]].append(name)
    lines = [f"profile {profile}", "", "allowed:", *_indented(by_answer["allowed"]), "", "by argument:"]
    lines += [f"  {name}: {_MEANINGS[rule]}" for name, rule in sorted(CHECKED[profile].items())]
    lines += ["", "refused with EPERM:", *_indented(by_answer["EPERM"]), ""]
    lines += ["refused with ENOSYS, like every call not listed here:", *_indented(by_answer["ENOSYS"]), ""]
    lines += ["killed: calls through the i386 and x32 entries"]
    return "\n".join(lines) + "\n"


def _decisions(profile: str) -> dict[int, int | str]:
    """Call number → the filter's result, or the name of the rule that decides."""
    decisions: dict[int, int | str] = {}
    for names, result in (
        (ALLOWED[profile], _ALLOW),
        (REFUSED[profile], _ERRNO | EPERM),
        (ABSENT, _ERRNO | ENOSYS),
    ):
        for name in names.split():
            decisions[NUMBERS[name]] = result
    for name, rule in CHECKED[profile].items():
        decisions[NUMBERS[name]] = "unshare namespaces" if name == "unshare" else rule
    return decisions


def _leaves(profile: str) -> list[tuple[int, int | str]]:
    """First number of each range → what all calls of the range get; ascending, the whole number space."""
    decisions = _decisions(profile)
    leaves: list[tuple[int, int | str]] = []
    for number in range(max(decisions) + 2):
        decision = decisions.get(number, _ERRNO | ENOSYS)
        if not leaves or leaves[-1][1] != decision:
            leaves.append((number, decision))
    return [*leaves, (_X32_FIRST, _KILL_PROCESS), (_NEGATIVE_FIRST, _ERRNO | ENOSYS)]


def _search(code: Assembler, leaves: list[tuple[int, int | str]]) -> None:
    """Binary search over the ranges: about eight comparisons for any call."""
    if len(leaves) == 1:
        target = leaves[0][1]
        if isinstance(target, str):
            code.jump(target)
        else:
            code.give(target)
        return
    middle = len(leaves) // 2
    first = leaves[middle][0]
    upper = f"from {first}"
    code.if_at_least(first, upper)
    _search(code, leaves[:middle])
    code.label(upper)
    _search(code, leaves[middle:])


def _load_argument(code: Assembler, index: int) -> None:
    code.load(_OFFSET_ARGUMENTS + 8 * index)


def _refuse_bits(index: int, bits: int) -> _Rule:
    def emit(code: Assembler, name: str) -> None:
        _load_argument(code, index)
        code.if_any_bit(bits, None, f"{name}: allowed")
        code.give(_ERRNO | EPERM)
        code.label(f"{name}: allowed")
        code.give(_ALLOW)

    return emit


def _refuse_modes_of_new_files(flags_index: int) -> _Rule:
    def emit(code: Assembler, name: str) -> None:
        _load_argument(code, flags_index)
        code.if_any_bit(_CREATES, None, f"{name}: allowed")
        _load_argument(code, flags_index + 1)
        code.if_any_bit(_SETUID_SETGID, None, f"{name}: allowed")
        code.give(_ERRNO | EPERM)
        code.label(f"{name}: allowed")
        code.give(_ALLOW)

    return emit


def _choose(index: int, values: tuple[int, ...], found: int, otherwise: int) -> _Rule:
    """One result for the values listed, another for all others."""

    def emit(code: Assembler, name: str) -> None:
        _load_argument(code, index)
        for value in values:
            code.if_equal(value, f"{name}: listed")
        code.give(otherwise)
        code.label(f"{name}: listed")
        code.give(found)

    return emit


def _check_socket(code: Assembler, name: str) -> None:
    _load_argument(code, 0)
    code.if_equal(_AF_UNIX, f"{name}: allowed")
    code.if_equal(_AF_INET, f"{name}: inet")
    code.if_equal(_AF_INET6, f"{name}: inet")
    code.if_equal(_AF_NETLINK, f"{name}: netlink")
    code.give(_ERRNO | EAFNOSUPPORT)
    code.label(f"{name}: inet")
    _load_argument(code, 1)
    code.mask(_SOCKET_TYPE_MASK)
    code.if_at_least(_SOCK_RAW + 1, f"{name}: type refused")
    _load_argument(code, 2)
    for protocol in _PROTOCOLS:
        code.if_equal(protocol, f"{name}: allowed")
    code.give(_ERRNO | EPROTONOSUPPORT)
    code.label(f"{name}: type refused")
    code.give(_ERRNO | ESOCKTNOSUPPORT)
    code.label(f"{name}: netlink")
    _load_argument(code, 2)
    code.if_equal(_NETLINK_ROUTE, f"{name}: allowed")
    code.give(_ERRNO | EPROTONOSUPPORT)
    code.label(f"{name}: allowed")
    code.give(_ALLOW)


_RULES: dict[str, _Rule] = {
    "namespaces": _refuse_bits(0, _NEW_NAMESPACES),
    "unshare namespaces": _refuse_bits(0, _NEW_NAMESPACES | _NEW_TIME_NAMESPACE),
    "terminal": _choose(1, _TERMINAL_COMMANDS, _ERRNO | EPERM, _ALLOW),
    "mode 1": _refuse_bits(1, _SETUID_SETGID),
    "mode 2": _refuse_bits(2, _SETUID_SETGID),
    "open 1": _refuse_modes_of_new_files(1),
    "open 2": _refuse_modes_of_new_files(2),
    "personality": _choose(0, _PERSONALITIES, _ALLOW, _ERRNO | EPERM),
    "debug personality": _choose(0, (*_PERSONALITIES, _NO_RANDOMISATION), _ALLOW, _ERRNO | EPERM),
    "socket": _check_socket,
    "unix socket": _choose(0, (_AF_UNIX,), _ALLOW, _ERRNO | EAFNOSUPPORT),
}

_NO_SETUID = "not with setuid or setgid in the mode (EPERM)"
_MEANINGS = {
    "namespaces": "no new namespaces (EPERM)",
    "terminal": "not TIOCSTI, TIOCLINUX, TIOCSETD (EPERM)",
    "mode 1": _NO_SETUID,
    "mode 2": _NO_SETUID,
    "open 1": _NO_SETUID,
    "open 2": _NO_SETUID,
    "personality": "0, 0x8, 0x20000, 0x20008 and the query 0xffffffff only (else EPERM)",
    "debug personality": "as in default, and 0x40000 (no address randomisation)",
    "socket": "unix; inet and inet6 with ICMP, TCP, UDP, MPTCP; netlink for routes (else EAFNOSUPPORT, "
    "ESOCKTNOSUPPORT, EPROTONOSUPPORT)",
    "unix socket": "unix only (else EAFNOSUPPORT)",
}

_ANSWERS = {_ALLOW: "allowed", _ERRNO | EPERM: "EPERM", _ERRNO | ENOSYS: "ENOSYS"}


def _indented(names: list[str]) -> list[str]:
    import textwrap

    return textwrap.wrap(
        " ".join(names), 96, initial_indent="  ", subsequent_indent="  ", break_long_words=False
    )
