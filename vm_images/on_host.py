"""Have an image on a host that is being prepared: run there as root, from nothing but our sources.

``python -m vm_images.on_host build NAME STORE`` or ``… import FILE NAME STORE``. Steps and errors are lines
on standard error; the exit code is 0 or 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from backends.errors import MxcError
from vm_images.archive import import_image
from vm_images.build import build_image
from vm_images.recipe_document import shipped_recipe

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Carry out one of the two commands."""
    try:
        match arguments:
            case ["build", name, store]:
                build_image(shipped_recipe(name), _tell, store=store)
            case ["import", file, name, store]:
                import_image(Path(file), name, into=store)
            case _:
                _tell(__doc__ or "")
                return 1
    except MxcError as error:
        _tell(str(error))
        return 1
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
