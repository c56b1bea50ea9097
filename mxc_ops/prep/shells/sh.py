"""Commands for POSIX sh; util-linux's or busybox's flock, timeout of coreutils or busybox."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from shlex import quote

from mxc_ops.prep.receipts import DIRECTORY, PENDING, SCHEMA_VERSION, Receipt
from mxc_ops.prep.shells import HELD_BY_ANOTHER, Change

__all__ = ["SHELL"]

_MARK = "=== mxc-ops survey"
_STATE = DIRECTORY.rpartition("/")[0]
_HOLDER = f"{_STATE}/holder"
_STRAGGLER_S = 900
_KILL_AFTER_S = 5


class Sh:
    """See `mxc_ops.prep.shells.Shell`."""

    def survey(self, commands: Sequence[str], deadline_s: int) -> str:
        parts = [
            # The newline ends a last line that has none; the reader takes exactly one away.
            f"( {command}\n) 2>/dev/null </dev/null; printf '\\n{_MARK} {number}\\n'"
            for number, command in enumerate(commands)
        ]
        return _limited("\n".join(parts), deadline_s)

    def answers(self, output: Sequence[str], count: int) -> list[list[str]]:
        found: list[list[str]] = []
        lines: list[str] = []
        for line in output:
            if line == f"{_MARK} {len(found)}":
                # Without output, or after a last newline, the empty line before the mark is ours.
                found.append(lines[:-1] if lines and not lines[-1] else lines)
                lines = []
            else:
                lines.append(line)
        if len(found) != count:
            raise ValueError(f"the host answered {len(found)} of {count} questions")
        return found

    def change(self, change: Change) -> str:
        receipt = change.receipt
        pending = replace(receipt, state=PENDING)
        path = f"{DIRECTORY}/{receipt.item}"
        lines = [
            *_head(path),
            f'test -e "$receipt.json" || {{ {_write(_document(pending, {}))}; }}',
            *(
                [f'test -e "$receipt.before" || {{ {change.snapshot}; }} > "$receipt.before"']
                if change.snapshot
                else []
            ),
            *_isolated(change),
            *[
                f"{_variable(name)}=$({_as_json(command, receipt.made.get(name))})"
                for name, command in change.measured.items()
            ],
            _write(_document(receipt, {name: _variable(name) for name in change.measured})),
            'rm -f "$receipt.before"',
        ]
        return _limited("\n".join(lines), change.deadline_s + _STRAGGLER_S)

    def reversal(self, change: Change) -> str:
        lines = [
            *_head(f"{DIRECTORY}/{change.receipt.item}"),
            *_isolated(change),
            'rm -f "$receipt.json" "$receipt.before"',
        ]
        return _limited("\n".join(lines), change.deadline_s + _STRAGGLER_S)

    def hold(self, holder: str, wait_s: int) -> str:
        # The lock is the directory itself, so that nothing is left behind; who waited for a directory that an
        # undo has removed meanwhile starts again.
        lines = [
            "umask 022",
            "while :; do",
            f"mkdir -p {DIRECTORY} && exec 9<{_STATE} || exit 1",
            # Never at once: whoever asks for the holder has the lock for a moment.
            f"flock -w {max(1, wait_s)} 9 || {{ cat {_HOLDER}; exit {HELD_BY_ANOTHER}; }}",
            f'test "$(stat -L -c %i /proc/self/fd/9)" = "$(stat -c %i {_STATE} 2>/dev/null)" && break',
            "done",
            f"printf '%s\\n' {quote(holder)} > {_HOLDER}",
            "cat >/dev/null",
            f"rm -f {_HOLDER}; rmdir {DIRECTORY} {_STATE} 2>/dev/null || true",
        ]
        return "\n".join(lines)

    def holder(self) -> str:
        # Only whoever holds the lock is told: a killed one leaves its name behind.
        return f"test ! -d {_STATE} || flock -n {_STATE} true || cat {_HOLDER}"

    def elevated(self, command: str, elevation: str) -> str:
        match elevation:
            case "root":
                return command
            case "sudo":
                return f"sudo -n -H -- sh -c {quote(command)}"
            case "sudo-password":
                return f"sudo -S -p '' -H -- sh -c {quote(command)}"
            case "doas":
                return f"doas -n sh -c {quote(command)}"
            case _:
                raise ValueError(f"no way to gain root's rights: {elevation}")


SHELL = Sh()


def _limited(script: str, deadline_s: int) -> str:
    """Killed on the host itself: closing a connection ends nothing there."""
    return f"timeout -k {_KILL_AFTER_S} {deadline_s} sh -c {quote(script)}"


def _head(path: str) -> Iterator[str]:
    yield "set -eu; umask 022; export LC_ALL=C"
    yield f"mkdir -p {DIRECTORY}; receipt={quote(path)}"
    # A command of a preparation whose controller died may still be at work.
    yield f"exec 8<{DIRECTORY}; flock -w {_STRAGGLER_S} 8"


def _isolated(change: Change) -> Iterator[str]:
    """Each command in a shell of its own, which does not hold the lock on."""
    if change.uploads:
        yield f"uploads={quote(change.uploads)}; export uploads"
    yield "export receipt"
    for command in change.commands:
        limited = f"timeout -k {_KILL_AFTER_S} {change.deadline_s} sh -c {quote('set -e; ' + command)}"
        yield f"{limited} 8<&- </dev/null"


def _document(receipt: Receipt, variables: Mapping[str, str]) -> list[str]:
    """The receipt as words, alternately literal and names of the shell variables to be filled in."""
    made = {**receipt.made, **{name: _blank(name) for name in variables}}
    document = {"schemaVersion": SCHEMA_VERSION, **asdict(replace(receipt, made=made, at=_blank("time")))}
    blanks = {f'"{_blank(name)}"': variable for name, variable in variables.items()}
    blanks[_blank("time")] = "time"
    pieces = re.split(f"({'|'.join(map(re.escape, blanks))})", json.dumps(document))
    return [blanks.get(piece, piece) for piece in pieces]


def _blank(name: str) -> str:
    return f"@mxc-ops fills in {name}@"


def _write(words: Sequence[str]) -> str:
    literals = [quote(word) if place % 2 == 0 else f'"${word}"' for place, word in enumerate(words)]
    return (
        "time=$(date -u +%Y-%m-%dT%H:%M:%SZ);"
        f' printf \'%s\\n\' {"".join(literals)} > "$receipt.new"; mv -f "$receipt.new" "$receipt.json"'
    )


def _variable(name: str) -> str:
    return f"measured_{name}"


def _as_json(command: str, earlier: object) -> str:
    """The lines that a command prints, with earlier ones, as a JSON array."""
    known: list[str] = list(earlier) if isinstance(earlier, list) else []  # pyright: ignore[reportUnknownArgumentType] - of text: we measured it
    print_known = f"printf '%s\\n' {' '.join(quote(line) for line in known)}; " if known else ""
    to_json = r"""sort -u | sed -e 's/[\\"]/\\&/g' -e 's/.*/"&"/' | paste -s -d , -"""
    return f"printf '['; {{ {print_known}{command}; }} | {to_json} | tr -d '\\n'; printf ']'"
