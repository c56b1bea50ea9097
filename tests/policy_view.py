"""A view of the host's files with everything that a filesystem policy can ask for."""

from __future__ import annotations

from backends.base import Effect, FilesystemView, ObjectKind, ViewEntry

VIEW = FilesystemView(
    (
        ViewEntry(
            Effect.BIND_READ_WRITE,
            "/srv/project",
            "/filesystem/readwritePaths/0",
            slot=0,
            kind=ObjectKind.DIRECTORY,
            owner=(1001, 1001),
            object=(1, 10),
        ),
        ViewEntry(
            Effect.MASK_DIRECTORY, "/srv/project/secret", "/filesystem/deniedPaths/0", traversable=True
        ),
        ViewEntry(
            Effect.BIND_READ_ONLY,
            "/srv/project/secret/public",
            "/filesystem/readonlyPaths/0",
            slot=1,
            kind=ObjectKind.FILE,
            owner=(1001, 1001),
            object=(1, 11),
        ),
        ViewEntry(Effect.MASK_FILE, "/srv/project/token", "/filesystem/deniedPaths/1"),
        ViewEntry(Effect.SYMLINK, "/data", "/filesystem/readwritePaths/0", target="/srv/project"),
    ),
    denied=("/data/secret", "/srv/project/secret", "/srv/project/token", "/usr/bin/curl"),
)
