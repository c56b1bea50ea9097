"""Commands for POSIX sh; util-linux's or busybox's flock, timeout of coreutils or busybox."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from shlex import quote

from mxc_ops.prep.receipts import COMPLETE, DIRECTORY, FAILED, FORMERLY, PENDING, SCHEMA_VERSION, Receipt
from mxc_ops.prep.shells import HELD_BY_ANOTHER, UPLOADS, UPLOADS_LETTERS, Change

__all__ = ["SHELL"]

_MARK = "=== mxc-ops survey"
_STATE = DIRECTORY.rpartition("/")[0]
# Root's alone, as whoever can open a directory can lock it. The other directories are for everybody to read.
_LOCK = f"{_STATE}/lock"
_HOST_LOCK = f"{_LOCK}/host"
_HOLDER = f"{_LOCK}/holder"
# Of several items, whose receipts need not know of each other's: empty, they go with the last receipt.
_SHARED = ("/usr/local/lib/mxc-ops", f"{_STATE}/images")
_STRAGGLER_S = 900
_STRAGGLER = "a change that an interrupted preparation has begun"
_KILL_AFTER_S, _FORGOTTEN_MIN = 5, 60
_WORD_CHARACTERS = 120_000
# pyinfra reads UTF-8 and nothing else, and a name in /etc/passwd may be in any encoding. musl has no iconv.
_AS_TEXT = (
    "{ if command -v iconv >/dev/null; then iconv -c -f UTF-8 -t UTF-8;"
    " else tr -d '\\200-\\377'; fi || true; }"
)
_HEAD = "set -eu; umask 022; export LC_ALL=C"
# What was there before is kept over an interruption, and over nothing else: what others have changed since a
# change ended would be taken for ours.
_FRESH_SNAPSHOT = f"""failed=; grep -qs '"state": "{PENDING}"' "$receipt.json" || rm -f "$receipt.before\""""


class Sh:
    """See `mxc_ops.prep.shells.Shell`."""

    def survey(self, commands: Sequence[str], deadline_s: int) -> str:
        parts = [
            # The newline ends a last line that has none; the reader takes exactly one away.
            f"( {command}\n) 2>/dev/null </dev/null; printf '\\n{_MARK} {number}\\n'"
            for number, command in enumerate(commands)
        ]
        script = "\n".join(parts)
        # Programs' messages are understood in English only, whatever the host's language.
        return _limited(f"export LC_ALL=C; {{ {script}\n}} | {_AS_TEXT}", deadline_s)

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
        if not receipt.item:
            script = "\n".join([_HEAD, *_isolated(change)])
            return _watched(script, change.deadline_s + _STRAGGLER_S, _removed_at_exit(change.uploads))
        path = f"{DIRECTORY}/{receipt.item}"
        lines = [
            *_head(path),
            *_renamed(receipt.item),
            _FRESH_SNAPSHOT,
            f"state={PENDING}; {_write(_document(receipt, {}))}",
            *([_kept(change.snapshot)] if change.snapshot else []),
            f"{{ {' && '.join(_isolated(change)) or ':'}; }} || failed=$?",
            *_recorded(change),
            'rm -f "$receipt.before"',
            "exit ${failed:-0}",
        ]
        return _logged("\n".join(lines), path, change.deadline_s + _STRAGGLER_S, change.uploads)

    def reversal(self, change: Change) -> str:
        path = f"{DIRECTORY}/{change.receipt.item}"
        files = [f'"$receipt.{kind}"' for kind in ("json", "before", "new")]
        lines = [*_head(path), *_renamed(change.receipt.item), *_isolated(change), f"rm -f {' '.join(files)}"]
        return _logged("\n".join(lines), path, change.deadline_s + _STRAGGLER_S)

    def hold(self, holder: str, wait_s: int) -> str:
        # The lock is the directory itself, so that nothing is left behind; who waited for a directory that an
        # undo has removed meanwhile starts again, and so does, once, who finds it half removed. It is entered
        # to be compared: a chroot may have no /proc.
        # Never at once: whoever asks for the holder has the lock for a moment.
        patience = max(1, wait_s)
        held = f"exit {HELD_BY_ANOTHER}"
        lines = [
            "umask 022",
            f"enter() {{ {_folders(_HOST_LOCK)} && cd {_HOST_LOCK}; }}",
            "while :; do",
            "{ enter 2>/dev/null || enter; } && exec 9<. || exit 1",
            f"{_lock(9, patience)} || {{ cat {_HOLDER} 2>/dev/null || echo somebody; {held}; }}",
            f'test "$(stat -c %i .)" = "$(stat -c %i {_HOST_LOCK} 2>/dev/null)" && break',
            "done",
            f"rm -f {_HOLDER}; exec 8<{_LOCK} || exit 1",
            f"{_lock(8, patience)} || {{ echo {quote(_STRAGGLER)}; {held}; }}",
            "exec 8<&-",
            # Of controllers that died between bringing files and acting on them.
            f"find /tmp -maxdepth 1 -type d -name {quote(UPLOADS.format('?' * UPLOADS_LETTERS))}"
            f" -mmin +{_FORGOTTEN_MIN} -exec rm -rf {{}} + 2>/dev/null || true",
            f"printf '%s\\n' {quote(holder)} > {_HOLDER}",
            "cat >/dev/null",
            f"rm -f {_HOLDER}; {{ rmdir {_HOST_LOCK} {DIRECTORY}",
            # A change that goes on has its receipt there, and needs its lock.
            f"test -e {DIRECTORY} || rmdir {' '.join(_SHARED)} {_LOCK} {_STATE}; }} 2>/dev/null || true",
        ]
        return "\n".join(lines)

    def holder(self) -> str:
        # Only whoever holds the lock is told: a killed one leaves its name behind.
        # flock is given no path: it would make a file of one that was removed just now.
        return f"( exec 9<{_HOST_LOCK} && {{ flock -n 9 || cat {_HOLDER}; }} ) 2>/dev/null || true"

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
    """Killed on the host itself, with all that it started: closing a connection ends nothing there."""
    return _watched(script, deadline_s)


def _logged(script: str, path: str, deadline_s: int, uploads: str = "") -> str:
    """Limited, with all output shown at the end.

    Whoever reads it may be gone by then, and a package manager that loses its reader stops halfway.
    """
    log = quote(f"{path}.log")
    opened = f"umask 022; mkdir -p {DIRECTORY} && exec 6>{log} 7<{log} && rm -f {log} || exit 1\n"
    before = f"{_removed_at_exit(uploads)}{opened}"
    return _watched(script, deadline_s, before=before, streams=">&6 2>&1 6>&- 7<&-", after=f"{_AS_TEXT} <&7")


def _watched(script: str, deadline_s: int, before: str = "", streams: str = "", after: str = ":") -> str:
    # busybox's timeout ends but the one process that it has started, so that one ends everything else.
    # A shell that nobody reads must not end by that: what it is to remove would stay.
    over = f"kill -KILL -$job; {after}; ( echo killed after {deadline_s} s >&2 ); exit 124"
    watch = (
        f"{before}trap {quote(over)} TERM\n"
        f'setsid sh -c "$1" <&0 {streams} & job=$!\nwait $job; status=$?; {after}; exit $status'
    )
    return f"timeout -k {_KILL_AFTER_S} {deadline_s} sh -c {quote(watch)} watch {_word(script)}"


def _removed_at_exit(uploads: str) -> str:
    return f"uploads={quote(uploads)}; export uploads; trap 'rm -rf \"$uploads\"' EXIT\n" if uploads else ""


def _word(script: str) -> str:
    """The script as one word, which has 128 KiB at most (execve(2)).

    Up to three more shells on the way there quote each quotation mark again and again.
    """
    plain = quote(script)
    if len(quote(quote(quote(plain)))) <= _WORD_CHARACTERS:
        return plain
    return f'"$(printf %s {b64encode(script.encode()).decode()} | base64 -d)"'


def _head(path: str) -> Iterator[str]:
    yield _HEAD
    yield f"{_folders(_LOCK)}; receipt={quote(path)}; export receipt"
    # A command of a preparation whose controller died may still be at work.
    waited = f"waited {_STRAGGLER_S} s in vain for {_STRAGGLER}"
    held = f"{{ echo {quote(waited)} >&2; exit {HELD_BY_ANOTHER}; }}"
    yield f"exec 8<{_LOCK}; {_lock(8, _STRAGGLER_S)} || {held}"


def _renamed(item: str) -> Iterator[str]:
    """A record under the name that its item had goes on under today's."""
    if item in FORMERLY:
        former = f"{DIRECTORY}/{FORMERLY[item]}"
        yield (
            f'for kind in before json; do if test -e {former}.$kind && ! test -e "$receipt.json";'
            f' then mv -f {former}.$kind "$receipt.$kind"; fi; done'
        )


def _folders(private: str) -> str:
    # Entered in between: were the state's directory removed just then, it would be made root's alone as well.
    return (
        f"mkdir -p {DIRECTORY} && ( umask 077; cd {_STATE} && mkdir -p {private.removeprefix(f'{_STATE}/')} )"
    )


def _lock(descriptor: int, patience_s: int) -> str:
    # busybox's flock has no -w, and what its timeout leaves behind keeps a descriptor open for a second.
    return f"{{ flock -n {descriptor} || timeout {patience_s} flock {descriptor}; }}"


def _kept(snapshot: str) -> str:
    """What was there before, whole or not at all: what is missing from it would be taken for ours later."""
    listed = f'{{ {snapshot}; }} > "$receipt.new"; test -s "$receipt.new"'
    return f'test -e "$receipt.before" || {{ {listed}; mv -f "$receipt.new" "$receipt.before"; }}'


def _isolated(change: Change) -> Iterator[str]:
    """Each command in a shell of its own, which does not hold the lock on."""
    for command in change.commands:
        yield f"{_limited(f'set -e; {command}', change.deadline_s)} 8<&- </dev/null"


def _document(receipt: Receipt, variables: Mapping[str, str]) -> list[str]:
    """The receipt as words, alternately literal and names of the shell variables to be filled in."""
    made = {**receipt.made, **{name: _blank(name) for name in variables}}
    filled_in = {name: _blank(name) for name in ("state", "time")}
    blank = replace(receipt, made=made, state=filled_in["state"], at=filled_in["time"])
    document = {"schemaVersion": SCHEMA_VERSION, **asdict(blank)}
    blanks = {f'"{_blank(name)}"': variable for name, variable in variables.items()}
    blanks |= {text: name for name, text in filled_in.items()}
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


def _recorded(change: Change) -> Iterator[str]:
    """Measure, and write down what was made, also by a change that failed halfway."""
    receipt, measured = change.receipt, change.measured
    variables = {name: _variable(name) for name in measured}
    measures = [_measured(name, command, receipt.made.get(name)) for name, command in measured.items()]
    for measure, name in zip(measures, measured, strict=True):
        # What went wrong first is what the reader must know.
        in_vain = f"echo {quote(f'what has changed cannot be measured: {name}')} >&2; exit 1"
        yield f'{measure} || {{ test -z "$failed" || exit $failed; {in_vain}; }}'
    yield f'test -n "$failed" && state={FAILED} || state={COMPLETE}'
    yield _write(_document(receipt, variables))


def _measured(name: str, command: str, earlier: object) -> str:
    """The lines that a command prints, with earlier ones, as a JSON array in a variable.

    In a shell of its own, as the status of a command in a pipeline is lost.
    """
    known: list[str] = list(earlier) if isinstance(earlier, list) else []  # pyright: ignore[reportUnknownArgumentType] - of text: we measured it
    print_known = f"printf '%s\\n' {' '.join(quote(line) for line in known)}; " if known else ""
    to_json = r"""sort -u | sed -e 's/[\\"]/\\&/g' -e 's/\t/\\t/g' -e 's/.*/"&"/' | paste -s -d , -"""
    printable = r"tr -d '\000-\010\013-\037'"
    lines = f'{{ {print_known}cat "$receipt.new"; }} | {printable} | {to_json}'
    return (
        f'sh -c {quote(f"set -e; {command}")} 8<&- </dev/null > "$receipt.new"'
        f" && {_variable(name)}=$(printf '['; {lines} | tr -d '\\n'; printf ']')"
    )
