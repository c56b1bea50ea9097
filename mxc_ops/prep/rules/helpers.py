"""Programs of ours in the store: compiled on the host or brought there, found by their sources' hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from shlex import quote
from typing import Any

from backends.inside.build import COMPILERS, source_archive
from backends.inside.store import PROGRAMS, flags
from mxc_ops.prep.decision import Decision, Query, Rule, Upload, nothing_to_do
from mxc_ops.prep.rules.files import remove_empty

_COMPILE_S = 120
_WORK = ".build"
_BEFORE = ".before"
"""Beside a program that we have put there: what was in its place until then, an empty file for nothing."""


def _queries(store: str, key: str, program: str, **_rest: Any) -> tuple[Query, ...]:
    path = f"{store}/{key}/{program}"
    return Query("files.Checksum", {"path": path}), Query("helpers.Stored", {"store": store})


def _reverse_queries(
    *, prior: Mapping[str, Any], made: Mapping[str, Any], store: str, key: str, program: str, **_rest: Any
) -> tuple[Query, ...]:
    del prior
    kept = [f"{folder}/{made['before']}" for folder in made["folders"]]
    status = Query("files.Status", {"path": f"{store}/{key}/{program}"})
    return *_queries(store, key, program), status, Query("files.Existing", {"paths": kept})


def decide_built(
    checksum: str, stored: list[str], *, store: str, key: str, program: str, machine: str
) -> Decision:
    """A program compiled on the host from our sources, which the command carries.

    Parameters
    ----------
    checksum: SHA-256 of the program in its place, "" when it is not there or not safely root's.
    stored: keys that the store holds; all but `key` are of other versions.
    machine: as ``uname -m`` of the host.
    """
    if checksum:
        return _stays(stored, key)
    options = " ".join(quote(flag) for flag in [*flags(machine), f'-DMXC_KEY="{key}"'])
    sources = " ".join(f'"$work/{name}"' for name in PROGRAMS[program].sources if name.endswith(".c"))
    return _stored_as(
        store,
        key,
        program,
        (
            f'printf %s {source_archive(PROGRAMS[program])} | base64 -d | tar -xzf - -C "$work"',
            f"for name in {' '.join(COMPILERS)}; do compiler=$(command -v $name) && break; done"
            f' && "$compiler" {options} -o "$work/{program}" {sources}',
        ),
        "not built from these sources",
    )


def decide_pushed(
    checksum: str, stored: list[str], *, store: str, key: str, program: str, source: str, sha256: str
) -> Decision:
    """A program that was compiled on the controller, checked before it takes its place.

    Parameters
    ----------
    source: its path on the controller.
    """
    if checksum == sha256:
        return _stays(stored, key)
    copy = f'cp "$uploads/{program}" "$work/{program}"'
    check = f"printf '%s  %s\\n' {sha256} \"$work/{program}\" | sha256sum -c - >/dev/null"
    decision = _stored_as(store, key, program, (copy, check), "not there, or another one")
    return replace(decision, uploads=(Upload(source, program),))


def _stays(stored: list[str], key: str) -> Decision:
    others = len([name for name in stored if name not in (key, _WORK)])
    notice = f"{others} of other versions are kept beside it" if others else ""
    return nothing_to_do("built from these sources", notice=notice)


def _stored_as(store: str, key: str, program: str, make: tuple[str, ...], before: str) -> Decision:
    folder = f"{store}/{key}"
    path = f"{folder}/{program}"
    # It must say its own key before it takes its place: a compiler that misbuilds it is found out here.
    install = (
        f'chmod 0755 "$work/{program}" && {{ test "$("$work/{program}" --version)" = {key}'
        f" || {{ echo {quote(f'the new {program} does not answer with its key')} >&2; false; }}; }}"
        f" && mkdir -p {quote(folder)} && chmod 0755 {quote(folder)} && {_keep(folder, program)}"
        f' && cp "$work/{program}" {quote(folder)}/.new && mv -f {quote(folder)}/.new {quote(path)}'
    )
    commands = " && ".join(["umask 022", *make, install])
    return Decision(
        before,
        path,
        # In the store rather than in /tmp, which may be mounted noexec.
        # A name that is always the same: what was killed before it could clean up is found again.
        (
            f'work={quote(f"{store}/{_WORK}")} && rm -rf "$work" && mkdir -m 0700 "$work"'
            f" && trap 'rm -rf \"$work\"' EXIT && {commands}",
        ),
        made={"folders": [folder], "before": _BEFORE},
        deadline_s=_COMPILE_S,
    )


def _keep(folder: str, program: str) -> str:
    """A command that keeps what is in the program's place before our first change, in one step."""
    before, path = quote(f"{folder}/{_BEFORE}"), quote(f"{folder}/{program}")
    kept = f"if {_is_there(path)}; then ln {path} {before}; else : > {before}; fi"
    return f"{{ {_is_there(before)} || {kept}; }}"


def _is_there(name: str) -> str:
    return f"test -e {name} || test -L {name}"


def reverse(
    checksum: str,
    stored: list[str],
    status: Mapping[str, str] | None,
    kept: list[str],
    *,
    store: str,
    key: str,
    program: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    **_rest: Any,
) -> Decision:
    """What we put into the store gone, of earlier versions too, and what it replaced in its place again.

    Parameters
    ----------
    status: of what is in the program's place, safely root's or not.
    kept: of `_BEFORE` in the folders, what is there.
    made: ``folders``, ``before``, and ``sha256`` of what we put there, once it was measured.
    """
    del prior
    folders: list[str] = [folder for folder in made["folders"] if f"{folder}/{made['before']}" in kept]
    unfinished = [f"rm -rf {quote(f'{store}/{_WORK}')}"] if _WORK in stored else []
    if not folders and not unfinished:
        return nothing_to_do("not there, as before")
    remove = [command for folder in folders for command in _remove(folder, program, made["before"])]
    there = " ".join(folders) or f"{store}/{_WORK}"
    ours: list[str] = made.get("sha256", [])
    changed = status is not None and ours and checksum not in ours
    return Decision(
        there,
        "not there, as before",
        (*unfinished, *remove),
        refusal=f"{store}/{key}/{program} is no longer what we made it" if changed else "",
    )


def _remove(folder: str, program: str, kept: str) -> tuple[str, ...]:
    """Each step leaves what the next attempt goes on from: without what was kept, nothing there is ours."""
    before, path = quote(f"{folder}/{kept}"), quote(f"{folder}/{program}")
    back = (
        f"if test -s {before} || test -L {before}; then mv -f {before} {path};"
        f" elif test -e {before}; then rm -f {path} && rm -f {before}; fi"
    )
    return f"rm -f {quote(folder)}/.new", back, *remove_empty([folder])


def _measured(store: str, key: str, program: str, **_rest: Any) -> Mapping[str, str]:
    return {"sha256": f"sha256sum < {quote(f'{store}/{key}/{program}')} | cut -d ' ' -f 1"}


RULES = {
    "built": Rule(_queries, decide_built, reverse, measured=_measured, reverse_queries=_reverse_queries),
    "pushed": Rule(_queries, decide_pushed, reverse, measured=_measured, reverse_queries=_reverse_queries),
}
