from __future__ import annotations

from backends.frozen import frozen


@frozen
class FilesPlan:
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {}


def plan_files(view: object) -> FilesPlan:
    return FilesPlan()
