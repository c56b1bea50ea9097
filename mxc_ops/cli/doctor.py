"""`mxc-ops doctor`: what works on this host, proved by doing it, and how to mend what does not.

Exit codes: 0 ready, 1 something does not work, 2 ready with warnings.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mxc_ops.cli.output import complete, print_document, print_table
from mxc_ops.cli.text import printable


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--backend", action="append", metavar="B", help="look at this backend (default: all)")
    complete(parser, _doctor)


def _doctor(options: Namespace) -> int:
    from backends.needs import Health
    from backends.registry import available
    from mxc_ops.doctor import examine

    report = examine(options.backend or available())
    if options.json:
        probes = [
            {
                "identifier": probe.identifier,
                "health": probe.health.value,
                "seen": probe.seen,
                "why": probe.why,
                "fix": probe.fix,
                "privilege": probe.privilege,
            }
            for probe in report.probes
        ]
        print_document({"exitCode": report.exit_code, "probes": probes})
        return report.exit_code
    print_table(
        ("check", "health", "seen"),
        [(probe.identifier, probe.health.value, probe.seen) for probe in report.probes],
    )
    for probe in report.probes:
        if probe.health is not Health.OK:
            print(f"{probe.identifier}: {printable(probe.why)}")
            if probe.fix:
                print(f"  fix ({probe.privilege}): {printable(probe.fix)}")
    return report.exit_code
