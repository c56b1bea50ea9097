"""What code puts into its folder, onto the host: files and directories only, in bounds, and nowhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from backends.agent.errors import GuestError, GuestRefused
from backends.errors import ConfigError, MxcError, Problem
from backends.guest_files.tar_reader import ArchiveRefused, Entry, StreamLimits, read_archive
from backends.inside.agent_protocol import GuestFiles, Step
from mxc_ops.hyperlight.result import OutputFiles
from mxc_ops.session.copy_target import HostTarget, receive_entries

__all__ = ["MOST_FILES", "bring", "check_folder", "wanted"]

MOST_FILES = 10_000
_NAME_BYTES = 4 << 20


def check_folder(folder: str) -> None:
    """Raises `ConfigError` for what is no directory of the host."""
    if not (Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        message = f"{folder!r} is no directory that you can write to"
        fix = f"mkdir -p {folder}"
        raise ConfigError(Problem("no_output_folder", "output_dir", message, fix=fix))


def wanted(place: str, most_bytes: int) -> GuestFiles:
    """What to ask the guest's agent for."""
    return GuestFiles(place, at_most_bytes=most_bytes, at_most_entries=MOST_FILES)


def bring(chunks: Iterator[bytes], folder: str, most_bytes: int) -> OutputFiles:
    """Join an archive of the guest's with a directory of the host's, whose files it replaces.

    All of it takes its place at the end. Links are left out, whatever they lead to: on the host they would
    lead elsewhere. Raises nothing for what the guest does: `OutputFiles.problem` tells.
    """
    limits = StreamLimits(
        content_bytes=most_bytes, file_bytes=most_bytes, entries=MOST_FILES, name_bytes=_NAME_BYTES
    )
    names: list[str] = []
    skipped: list[str] = []

    def without_links() -> Iterator[tuple[Entry, Iterator[bytes]]]:
        for entry, content in read_archive(chunks, limits):
            if stat.S_ISLNK(entry.mode):
                skipped.append(entry.path)
                continue
            if stat.S_ISREG(entry.mode):
                names.append(entry.path)
            yield entry, content

    try:
        with HostTarget(f"{folder}/", "") as target:
            receive_entries(without_links(), target)
    except GuestRefused as error:
        full = error.step is Step.TOO_MUCH
        told = f"it holds more than {most_bytes >> 20} MiB, or {MOST_FILES} files" if full else str(error)
        return OutputFiles(problem=told)
    except (ArchiveRefused, GuestError, MxcError) as error:
        return OutputFiles(problem=str(error))
    return OutputFiles(tuple(sorted(names)), tuple(sorted(skipped)))
