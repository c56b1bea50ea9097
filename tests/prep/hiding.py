"""Shell for overlays of this host: what others may be changing meanwhile is hidden, not taken away."""

from __future__ import annotations

__all__ = ["HIDE"]

HIDE = r"""
# hide LOWER UPPER PATH...: PATH below LOWER is missing once UPPER is laid over it (overlayfs: whiteouts).
# To remove it there, file by file, fails when something is added to it at that time.
hide() {
    lower=$1 upper=$2
    shift 2
    for path; do
        test -e "$lower/$path" || continue
        above=$path parents=
        while test "$above" != "${above%/*}"; do
            above=${above%/*}
            parents="$above $parents"
        done
        for parent in $parents; do
            test -d "$upper/$parent" || mkdir "$upper/$parent"
            chown --reference="$lower/$parent" "$upper/$parent"
            chmod --reference="$lower/$parent" "$upper/$parent"
        done
        mknod "$upper/$path" c 0 0
    done
}
"""
