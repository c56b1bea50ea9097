"""Open a template while the modules that will use it are still being imported (effectful).

A process that runs one command spends as long on those imports as on copying the template's memory, and the
kernel copies without the interpreter's lock.
"""

from __future__ import annotations

import threading

from backends.qemu.template_store import StoredTemplate, TemplateStore

__all__ = ["open_ahead", "take_opened"]


class _Opening:
    def __init__(self, store: TemplateStore, key: str) -> None:
        self.name = (store.folder, key)
        self._store = store
        self._key = key
        self._found: StoredTemplate | None = None
        self._thread = threading.Thread(target=self._open, name="mxc-ops-template", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        try:
            self._found = self._store.open(self._key)
        except Exception:  # whoever opens it in earnest meets it again, and tells
            self._found = None

    def take(self) -> StoredTemplate | None:
        self._thread.join()
        return self._found


_opening: _Opening | None = None


def open_ahead(store: TemplateStore, key: str) -> None:
    """Begin to open a template, if there is one. Nothing is raised."""
    global _opening  # noqa: PLW0603 - one command, one template
    _opening = _Opening(store, key)


def take_opened(store: TemplateStore, key: str) -> StoredTemplate | None:
    """What `open_ahead` has opened, once, when it is this one; the caller closes it."""
    global _opening
    if _opening is None or _opening.name != (store.folder, key):
        return None
    opening, _opening = _opening, None
    return opening.take()
