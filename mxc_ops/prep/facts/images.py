"""Images that are in the store."""

from __future__ import annotations

from shlex import quote
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override


class Stored(FactBase[dict[str, Any]]):
    """What a name of the store of images leads to: ``{"key", "used", "distribution"}``.

    `key` is "" for nothing; `used`: something holds the image's lock; `distribution` is os-release's ID.
    """

    @override
    def command(self, store: str, image: str) -> str:
        link = quote(f"{store}/names/{image}")
        folder = f'{quote(store)}/"$key"'
        return (
            f"key=$(readlink {link} 2>/dev/null | sed 's#^[.][.]/##');"
            f' if test -n "$key" && test -f {folder}/image.json; then echo "key $key";'
            f" ( exec 9<{folder} && flock -n 9 ) 2>/dev/null || echo used; fi;"
            " sed -n 's/^ID=/distribution /p' /etc/os-release 2>/dev/null | tr -d '\"'; true"
        )

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"key": "", "used": False, "distribution": ""}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        told = {name: text for name, _, text in (line.partition(" ") for line in output)}
        return {
            "key": told.get("key", ""),
            "used": "used" in told,
            "distribution": told.get("distribution", ""),
        }
