"""`mxc-ops backends`: every containment that MXC knows, whether it works here, and why not."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from mxc_ops.cli.output import complete, print_document, print_table


def configure(parser: ArgumentParser) -> None:
    complete(parser, _list)


def _list(options: Namespace) -> int:
    from backends.registry import CONTAINMENTS
    from mxc_ops.cli.availability import look

    found = {name: look(name, sys.platform) for name in CONTAINMENTS}
    if options.json:
        entries = [
            {
                "containment": name,
                "available": answer.usable,
                "platforms": list(CONTAINMENTS[name].platforms),
                "why": answer.why,
                "fix": answer.fix,
                "warnings": list(answer.warnings),
            }
            for name, answer in found.items()
        ]
        print_document({"backends": entries})
        return 0
    rows = [
        (name, "yes" if answer.usable else "no", "; ".join([answer.why, *answer.warnings]).strip("; "))
        for name, answer in found.items()
    ]
    print_table(("containment", "here", "why"), rows)
    return 0
