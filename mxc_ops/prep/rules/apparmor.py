"""AppArmor profiles."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules.files import parents_of, prior_text, put_back

_Texts = Mapping[str, str]
_LOADED = "/sys/kernel/security/apparmor/profiles"


def _profile_queries(switch: str, path: str, program: str) -> tuple[Query, ...]:
    del program
    texts = Query("files.Texts", {"paths": [_proc(switch), _LOADED, path]})
    return texts, Query("files.Existing", {"paths": parents_of(path)})


def _proc(switch: str) -> str:
    return "/proc/sys/" + switch.replace(".", "/")


def profile_text(path: str, program: str) -> str:
    """Unconfined but for its name, to which the right to make user namespaces is given.

    What the program starts keeps the profile, unless it has one of its own (apparmor.d(5), flags).
    """
    return (
        f"# mxc-ops prep host: {program}, and what it starts, may make user namespaces; nothing else may.\n"
        "abi <abi/4.0>,\ninclude <tunables/global>\n\n"
        f"profile {_name(path)} {program} flags=(unconfined) {{\n  userns,\n}}\n"
    )


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_loaded(seen: _Texts, path: str) -> bool:
    """Whether the kernel has the profile; counted as loaded where the kernel does not tell us."""
    listed = seen.get(_LOADED)
    return listed is None or any(line.partition(" (")[0] == _name(path) for line in listed.splitlines())


def decide_profile(seen: _Texts, existing: list[str], *, switch: str, path: str, program: str) -> Decision:
    """Let one program make user namespaces where AppArmor restricts them (host-prep.md §1, §9).

    Parameters
    ----------
    seen: texts by path: of the switch below /proc/sys, of the kernel's list of profiles, of `path`.
    switch: the sysctl that restricts; it stays as it is.
    """
    if seen.get(_proc(switch), "0").strip() != "1":
        return nothing_to_do("AppArmor does not restrict user namespaces here")
    text = profile_text(path, program)
    found = seen.get(path)
    load = f"apparmor_parser -r {quote(path)}"
    if found == text:
        if _is_loaded(seen, path):
            return nothing_to_do(path)
        # Nothing to go back to: it would be loaded at the next start anyway.
        return Decision(f"{path} is not loaded", path, (load,), prior={"text": text}, made={"text": text})
    return Decision(
        "no profile permits user namespaces" if found is None else f"{path} differs",
        path,
        (write_file(path, text), load),
        prior=prior_text(found, path, existing),
        made={"text": text},
        files=(FileChange(path, found, text),),
    )


def reverse_profile(
    seen: _Texts,
    existing: list[str],
    *,
    switch: str,
    path: str,
    program: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The profile unloaded and its file as before."""
    del existing, switch, program
    found = seen.get(path)
    if found == prior["text"]:
        return nothing_to_do("as before")
    unload = () if found is None else (f"apparmor_parser -R {quote(path)} || true",)
    load = () if prior["text"] is None else (f"apparmor_parser -r {quote(path)}",)
    return Decision(
        path,
        "as before",
        (*unload, *put_back(path, prior), *load),
        refusal="" if found == made["text"] else f"{path} is no longer what we made it",
        files=(FileChange(path, found, prior["text"]),),
    )


RULES = {"profile": Rule(_profile_queries, decide_profile, reverse_profile)}
