"""What earlier preparations have recorded on the host."""

from __future__ import annotations

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.receipts import DIRECTORY, texts_by_item


class Receipts(FactBase[dict[str, str]]):
    """The receipts' texts, by what their items are called now; each is one line."""

    @override
    def command(self) -> str:
        show = 'echo "$path" && tr -d "\\n" < "$path" && echo'
        return f'for path in {DIRECTORY}/*.json; do if test -e "$path"; then {show}; fi; done'

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        names = [line.rpartition("/")[2].removesuffix(".json") for line in output[::2]]
        return texts_by_item(dict(zip(names, output[1::2], strict=True)))
