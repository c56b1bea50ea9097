"""The search for further names of denied and read-only objects; see `other_names` for why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from backends.base import Access, HostPath, ObjectKind, OtherName
from backends.frozen import replace
from backends.linux.exposure import Exposure, Spot, Unaccounted
from backends.linux.hard_links import Budget, Identity, LinkedFile, find_links, linked_files_below
from backends.linux.mountinfo import KERNEL_INTERFACES, Mount
from backends.linux.open_objects import OpenObjects, object_kind

__all__ = ["search_names"]


def search_names(
    mounts: Sequence[Mount],
    policy: Mapping[str, tuple[Access, int]],
    paths: Sequence[HostPath],
    objects: OpenObjects,
    visible_trees: Sequence[str],
    budget: Budget | None = None,
) -> list[HostPath]:
    """`paths`, with `others` and `links_unaccounted` filled in; the parameters are those of `other_names`.

    `policy` has the strictest access asked for each canonical path, and a descriptor of it.
    """
    try:
        exposure = Exposure(mounts, policy, visible_trees)
    except Unaccounted:
        return [replace(path, links_unaccounted=True) for path in paths]
    return _NameSearch(exposure, objects, paths, budget or Budget()).complete()


class _NameSearch:
    """The further names of each path: second mounts one by one, then hard links of all in one walk."""

    def __init__(
        self, exposure: Exposure, objects: OpenObjects, paths: Sequence[HostPath], budget: Budget
    ) -> None:
        self._exposure = exposure
        self._objects = objects
        self._paths = paths
        self._budget = budget
        kernel = {m.point for m in exposure.mounts.values() if m.filesystem in KERNEL_INTERFACES}
        self._barred = {*exposure.access, *kernel}
        self._names: list[dict[str, str]] = [{} for _ in paths]  # name → why
        self._unaccounted: set[int] = set()

    def complete(self) -> list[HostPath]:
        linked: dict[int, dict[Identity, LinkedFile]] = {}
        for index, path in enumerate(self._paths):
            if path.slot is None or not self._exposure.trees(path.grant.access):
                continue
            try:
                descriptor = self._objects.fileno(path.slot)
                spots = self._spots(path, descriptor)
                self._second_mounts(index, spots)
                linked[index] = self._linked_files(path, descriptor, {spot.device for spot in spots})
            except Unaccounted:
                self._unaccounted.add(index)
        for access in (Access.DENIED, Access.READ_ONLY):
            self._hard_links(access, {i: found for i, found in linked.items() if self._access(i) is access})
        return [self._answer(index) for index in range(len(self._paths))]

    def _access(self, index: int) -> Access:
        return self._paths[index].grant.access

    def _spots(self, path: HostPath, descriptor: int) -> dict[Spot, str]:
        """What is to be kept from other eyes: the object itself and, in a directory, every mount."""
        spots = {self._exposure.locate(path.canonical, descriptor): path.canonical}
        if path.kind is ObjectKind.DIRECTORY:
            spots |= {Spot(m.device, m.root): m.point for m in self._exposure.mounts_below(path.canonical)}
        return spots

    def _second_mounts(self, index: int, spots: Mapping[Spot, str]) -> None:
        access = self._access(index)
        for spot, place in spots.items():
            for name, original in self._exposure.names(spot, place):
                # The policy may have opened again what lies deeper: then its other names are open too.
                if self._exposure.shows(name, access) and not self._exposure.shows(original, access):
                    self._names[index][name] = "second mount"

    def _linked_files(self, path: HostPath, descriptor: int, devices: set[str]) -> dict[Identity, LinkedFile]:
        if devices.isdisjoint(self._exposure.devices):
            return {}
        if path.kind is not ObjectKind.DIRECTORY:
            links = os.fstat(descriptor).st_nlink
            spot = self._exposure.locate(path.canonical, descriptor)
            return {(path.device, path.inode): LinkedFile(links, {spot})} if links > 1 else {}
        if path.grant.access is not Access.DENIED:
            return {}
        return linked_files_below(path.canonical, self._barred, self._exposure, self._budget)

    def _hard_links(self, access: Access, linked: Mapping[int, Mapping[Identity, LinkedFile]]) -> None:
        wanted: dict[Identity, LinkedFile] = {}
        for files in linked.values():
            for identity, file in files.items():
                wanted.setdefault(identity, LinkedFile(file.links)).spots.update(file.spots)
        if not wanted:
            return
        devices = {spot.device for file in wanted.values() for spot in file.spots}
        trees = [
            t for t in self._exposure.trees(access) if not devices.isdisjoint(self._exposure.devices_in(t))
        ]
        complete = True
        try:
            find_links(wanted, trees, self._barred, self._exposure, self._budget)
        except Unaccounted:
            complete = False
        for index, files in linked.items():
            for identity in files:
                file = wanted[identity]
                if not (complete or file.accounted):
                    self._unaccounted.add(index)
                self._add_links(index, file)

    def _add_links(self, index: int, file: LinkedFile) -> None:
        """The links found, and what second mounts show of them: the walk ends when each was seen once."""
        access = self._access(index)
        for found, spot in file.names.items():
            try:
                names = [found, *(name for name, _ in self._exposure.names(spot, found))]
            except Unaccounted:
                self._unaccounted.add(index)
                continue
            for name in names:
                if self._exposure.shows(name, access):
                    self._names[index].setdefault(name, "hard link")

    def _answer(self, index: int) -> HostPath:
        path = self._paths[index]
        others: list[OtherName] = []
        for name, why in self._names[index].items():
            try:
                descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError:
                self._unaccounted.add(index)
                continue
            slot = self._objects.add(descriptor)
            status = os.fstat(descriptor)
            identity, owner = (status.st_dev, status.st_ino), (status.st_uid, status.st_gid)
            others.append(OtherName(name, object_kind(status.st_mode), why, slot, identity, owner))
        if not others and index not in self._unaccounted:
            return path
        return replace(path, others=tuple(others), links_unaccounted=index in self._unaccounted)
