"""Near misses: what the user may have meant. Used on the error path only."""

from __future__ import annotations

from collections.abc import Iterable

_ALIKE = 0.72


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` most resembles, None when none does.

    Spelling in another style (``readonly_paths``, ``ReadOnlyPaths``) is a sure hit.
    """
    names = list(candidates)
    folded = {_fold(name): name for name in names}
    wanted = _fold(word[:200])
    if wanted in folded:
        return folded[wanted]

    from difflib import get_close_matches

    close = get_close_matches(wanted, folded, n=1, cutoff=_ALIKE)
    return folded[close[0]] if close else None


def _fold(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "").replace(" ", "")
