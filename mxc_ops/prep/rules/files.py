"""Directories, and text files that are wholly ours."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file


def _directory_queries(path: str) -> tuple[Query, ...]:
    return Query("files.Status", {"path": path}), Query("files.Existing", {"paths": parents_of(path)})


def decide_directory(seen: Mapping[str, str] | None, parents: list[str], *, path: str) -> Decision:
    """A directory of root's, mode 0755.

    Parameters
    ----------
    seen: ``{"kind", "mode" (octal), "owner" (uid)}``; None where there is nothing.
    parents: those of the directories above it that exist.
    """
    after = "directory of root's, mode 755"
    if seen is None:
        made = [path] + [above for above in parents_of(path) if above not in parents]
        return Decision(
            "not there",
            after,
            (f"umask 022 && mkdir -p {quote(path)} && chmod 0755 {quote(path)}",),
            prior={"directories": made},
            made={"directories": made},
        )
    before = f"{seen['kind']} of uid {seen['owner']}, mode {seen['mode']}"
    mode = int(seen["mode"], 8)
    if seen["kind"] != "directory" or seen["owner"] != "0" or mode & 0o022:
        return Decision(
            before,
            after,
            refusal=f"{path} is a {before}: programs that run for others must not be kept there",
            fix=f"look at what it is for, then: rm -r {quote(path)}",
        )
    if mode & 0o555 != 0o555:
        made = {"mode": "755"}
        open_it = f"chmod 0755 {quote(path)}"
        return Decision(before, after, (open_it,), prior={"mode": seen["mode"]}, made=made)
    return nothing_to_do(f"directory of root's, mode {seen['mode']}")


def parents_of(path: str) -> list[str]:
    """The directories above, the nearest first."""
    places = [place for place, letter in enumerate(path) if letter == "/" and place]
    return [path[:place] for place in reversed(places)]


def reverse_directory(
    seen: Mapping[str, str] | None,
    parents: list[str],
    *,
    path: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The directories that we made, as far as they are empty: what others put there stays."""
    del parents
    if seen is None:
        return nothing_to_do("not there, as before")
    if "directories" not in prior:
        back = f"mode {prior['mode']}, as before"
        if seen["mode"] == prior["mode"]:
            return nothing_to_do(back)
        return Decision(
            f"mode {seen['mode']}",
            back,
            (f"chmod 0{prior['mode']} {quote(path)}",),
            refusal="" if seen["mode"] == made["mode"] else f"{path} is no longer of mode {made['mode']}",
        )
    first, *above = [quote(directory) for directory in prior["directories"]]
    # Of those above, others may have begun to use some; the item's own must go.
    commands = (f"rmdir {first}", *(f"rmdir {directory} 2>/dev/null || true" for directory in above))
    return Decision(f"{path} is there", "not there, as before", commands)


def remove_empty(directories: list[str]) -> tuple[str, ...]:
    """Commands that remove directories as far as they are empty, the innermost first."""
    return tuple(f"rmdir {quote(directory)} 2>/dev/null || true" for directory in directories)


def _text_queries(path: str, content: str) -> tuple[Query, ...]:
    del content
    return Query("files.Texts", {"paths": [path]}), Query("files.Existing", {"paths": parents_of(path)})


def decide_text(texts: Mapping[str, str], parents: list[str], *, path: str, content: str) -> Decision:
    """A text file of root's, mode 0644, with exactly this content."""
    found = texts.get(path)
    if found == content:
        return nothing_to_do("as wanted")
    return Decision(
        "not there" if found is None else "differs",
        path,
        (write_file(path, content),),
        prior=prior_text(found, path, parents),
        made={"text": content},
        files=(FileChange(path, found, content),),
    )


def prior_text(found: str | None, path: str, parents: list[str]) -> dict[str, Any]:
    """What `restore_text` needs: the earlier text, and the directories that must be made for the file."""
    return {"text": found, "directories": [above for above in parents_of(path) if above not in parents]}


def put_back(path: str, prior: Mapping[str, Any]) -> tuple[str, ...]:
    """Commands for the earlier text, or for no file and none of the directories that were made for it."""
    if prior["text"] is None:
        return (f"rm -f {quote(path)}", *remove_empty(prior["directories"]))
    return (write_file(path, prior["text"]),)


def restore_text(
    found: str | None, *, path: str, prior: Mapping[str, Any], made: Mapping[str, Any]
) -> Decision:
    """The earlier text, or no file; the directories that were made for it go when they are empty."""
    earlier = prior["text"]
    if found == earlier:
        return nothing_to_do("as before")
    drifted = "" if found == made["text"] else f"{path} is no longer what we made it"
    return Decision(
        path,
        "not there, as before" if earlier is None else "as before",
        put_back(path, prior),
        refusal=drifted,
        files=(FileChange(path, found, earlier),),
    )


def reverse_text(
    texts: Mapping[str, str],
    parents: list[str],
    *,
    path: str,
    content: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """See `restore_text`."""
    del parents, content
    return restore_text(texts.get(path), path=path, prior=prior, made=made)


RULES = {
    "root_directory": Rule(_directory_queries, decide_directory, reverse_directory),
    "text": Rule(_text_queries, decide_text, reverse_text),
}
