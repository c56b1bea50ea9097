"""Finding the further hard links of files, in a walk of bounded length."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping

from backends.linux.exposure import Exposure, Spot, Unaccounted

__all__ = ["Budget", "Identity", "LinkedFile", "find_links", "linked_files_below"]

Identity = tuple[int, int]  # (st_dev, st_ino)


class Budget:
    """How many directory entries may still be looked at, over all walks of one observation."""

    def __init__(self, entries: int = 500_000) -> None:
        self._left = entries

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unaccounted("too many directory entries")


class LinkedFile:
    """A file with several hard links (`links` by its inode): the spots known so far, and the names found."""

    def __init__(self, links: int, spots: Iterable[Spot] = ()) -> None:
        self.links = links
        self.spots = set(spots)
        self.names: dict[str, Spot] = {}

    @property
    def accounted(self) -> bool:
        return len(self.spots) >= self.links


def linked_files_below(
    directory: str, barred: Collection[str], exposure: Exposure, budget: Budget
) -> dict[Identity, LinkedFile]:
    """Every file below `directory`, outside `barred`, that has several hard links. Raises `Unaccounted`."""
    found: dict[Identity, LinkedFile] = {}
    for entry in _files(directory, barred, budget):
        status = _status(entry.path)
        if status is not None and status.st_nlink > 1:
            linked = found.setdefault((status.st_dev, status.st_ino), LinkedFile(status.st_nlink))
            linked.spots.add(exposure.spot_of(entry.path))
    return found


def find_links(
    wanted: Mapping[Identity, LinkedFile],
    trees: Iterable[str],
    barred: Collection[str],
    exposure: Exposure,
    budget: Budget,
) -> None:
    """Look in `trees` for links of `wanted` until all are known; fills in `spots` and `names`.

    Parameters
    ----------
    trees: directories and files to look at; a tree in `barred` that lies in another tree is not walked twice.

    Raises `Unaccounted` when a tree cannot be searched to its end.
    """
    missing = {identity for identity, linked in wanted.items() if not linked.accounted}
    for tree in trees:
        if not missing:
            return
        inodes = {inode for _, inode in missing} if exposure.exact_inodes(tree) else None
        for path in _candidates(tree, inodes, barred, budget):
            status = _status(path)
            if status is None or (status.st_dev, status.st_ino) not in missing:
                continue
            identity = (status.st_dev, status.st_ino)
            linked = wanted[identity]
            linked.names[path] = exposure.spot_of(path)
            linked.spots.add(linked.names[path])
            if linked.accounted:
                missing.discard(identity)
                if not missing:
                    return


def _candidates(
    tree: str, inodes: Collection[int] | None, barred: Collection[str], budget: Budget
) -> Iterator[str]:
    """Files in `tree` (or `tree` itself) with one of these inode numbers; with None, all files."""
    status = _status(tree)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield tree
        return
    for entry in _files(tree, barred, budget):
        if inodes is None or entry.inode() in inodes:
            yield entry.path


def _files(directory: str, barred: Collection[str], budget: Budget) -> Iterator[os.DirEntry[str]]:
    """What is not a directory or a symbolic link below `directory`, mounts included, `barred` excluded."""
    pending = [directory]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    budget.spend()
                    if entry.is_symlink():
                        continue
                    if not entry.is_dir(follow_symlinks=False):
                        yield entry
                    elif entry.path not in barred:
                        pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as failure:
            if not _beyond_reach(current):
                raise Unaccounted(current) from failure


def _beyond_reach(directory: str) -> bool:
    """Whether the unreadable `directory` is somebody else's: then no sandbox of ours can open it either."""
    status = _status(directory)
    return os.geteuid() != 0 and status is not None and status.st_uid != os.geteuid()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as failure:
        raise Unaccounted(path) from failure
