"""`mxc-ops plan`: what a run would do, as JSON. The host is looked at; nothing is started or changed.

Exit codes: 0 planned, 125 refused. A lifecycle document (one with a `phase`) is checked and answered with its
envelope, and 0 or 1, as by ``mxc-exec --dry-run``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from backends.errors import MxcError, UsageError
from mxc_ops.cli.machine_flags import add_accelerator_flag, with_accelerator
from mxc_ops.cli.output import complete, print_document, report_error

EXIT_REFUSED = 125


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a config file; - is standard input")
    add_accelerator_flag(parser)
    complete(parser, _plan)


def _plan(options: Namespace) -> int:
    from mxc_ops.cli import lifecycle
    from mxc_ops.cli.source import read_source
    from mxc_ops.config.request import build_request
    from mxc_ops.one_shot import prepare
    from mxc_ops.provenance import canonical_hash

    try:
        document = lifecycle.take(read_source(options.config))
        if document is None:
            return lifecycle.EXIT_FAILED
        if document.body.get("phase") is not None:
            return lifecycle.validate(document)
        request = with_accelerator(build_request(document), options)
        with prepare(request, may_import=False) as prepared:
            plan = prepared.plan.as_dict()
            hashes = {"documentHash": str(request.document_hash), "planHash": canonical_hash(plan)}
            print_document({"plan": plan, "warnings": list(prepared.warnings), **hashes})
    except UsageError:
        raise
    except MxcError as error:
        report_error(error, as_json=options.json)
        return EXIT_REFUSED
    return 0
