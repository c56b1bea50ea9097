"""`mxc-ops config`: check documents, convert them between versions, print a schema.

Exit codes: `check` 0 all valid, 1 at least one refused; `migrate` 0 nothing of weight was lost, 2 something
was (the losses are on stderr), 1 refused; `schema` 0, 1 for a version that does not exist.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from backends.errors import ConfigError, Problem, UsageError
from mxc_ops.cli.output import Parser, complete, print_document, write_file
from mxc_ops.cli.source import as_object, decode_base64, read_source
from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from mxc_ops.config.document import Document
    from mxc_ops.config.losses import Loss

EXIT_REFUSED = 1
EXIT_LOSSY = 2


def configure(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _configure_check(commands.add_parser("check", help="validate documents; all problems at once"))
    _configure_migrate(commands.add_parser("migrate", help="convert a document to another version"))
    schema = commands.add_parser("schema", help="print our JSON Schema of a version")
    schema.add_argument("version", metavar="VERSION", help="e.g. 0.8.0-alpha or 1.0.0")
    complete(schema, _schema)


def _configure_check(check: ArgumentParser) -> None:
    check.add_argument("files", nargs="*", metavar="FILE", help="a config file; - is standard input")
    check.add_argument("--base64", metavar="B64", help="a config as base64")
    check.add_argument("--contract", action="store_true", help="exactly the contract of the version named")
    check.add_argument("--one-shot", action="store_true", help="refuse lifecycle documents")
    check.add_argument("--schema", metavar="FILE", help="validate against this JSON Schema file instead")
    check.add_argument("--portable", action="store_true", help="name what only mxc-ops understands")
    complete(check, _check)


def _configure_migrate(migrate: ArgumentParser) -> None:
    migrate.add_argument("file", metavar="FILE", help="a config file; - is standard input")
    migrate.add_argument("--to", required=True, metavar="VERSION", help="1.0.0 or 1.1.0-alpha")
    migrate.add_argument("-o", "--output", metavar="OUT", help="write here instead of to standard output")
    complete(migrate, _migrate)


def _check(options: Namespace) -> int:
    if not options.files and options.base64 is None:
        raise UsageError(Problem("usage", "", "name a FILE, - for standard input, or --base64"))
    if options.schema and (options.contract or options.one_shot):
        raise UsageError(
            Problem("usage", "--schema", "replaces our own rules: leave out --contract and --one-shot")
        )
    verdicts = [_verdict(name, source, options) for name, source in _sources(options)]
    if options.json:
        print_document({"files": verdicts})
    else:
        for verdict in verdicts:
            _print_verdict(verdict)
    return 0 if all(verdict["valid"] for verdict in verdicts) else EXIT_REFUSED


def _sources(options: Namespace) -> Iterator[tuple[str, bytes | ConfigError]]:
    for name in options.files:
        try:
            yield name, read_source(name)
        except ConfigError as error:
            yield name, error
    if options.base64 is not None:
        try:
            yield "--base64", decode_base64(options.base64)
        except ConfigError as error:
            yield "--base64", error


def _verdict(name: str, source: bytes | ConfigError, options: Namespace) -> dict[str, Any]:
    """What is said about one document; the shape of an entry of ``files`` in the JSON answer."""
    verdict: dict[str, Any] = {"source": name, "valid": True, "warnings": [], "problems": []}
    try:
        if isinstance(source, ConfigError):
            raise source
        if options.schema:
            from mxc_ops.cli.schema_check import check_against_schema

            body = check_against_schema(source, options.schema)
        else:
            document = _load(source, options)
            body = document.body
            verdict |= {"version": document.declared_version, "kind": document.kind.value}
            verdict["warnings"] = [problem.as_dict() for problem in document.warnings]
        if options.portable:
            verdict["warnings"] += [problem.as_dict() for problem in _not_portable(body)]
    except ConfigError as error:
        verdict |= {"valid": False, "problems": [problem.as_dict() for problem in error.problems]}
    return verdict


def _load(source: bytes, options: Namespace) -> Document:
    from mxc_ops.config.document import Strictness
    from mxc_ops.config.loader import load

    strictness = Strictness.CONTRACT if options.contract else Strictness.RANGED
    return load(source, strictness=strictness, one_shot_only=options.one_shot)


def _not_portable(body: Any) -> Iterator[Problem]:
    ours = (as_object(body) or {}).get("mxcOps")
    if ours is None:
        return
    for pointer in [f"/mxcOps/{name}" for name in as_object(ours) or ()] or ["/mxcOps"]:
        yield Problem("not_portable", pointer, "only mxc-ops understands this; upstream refuses it")


def _print_verdict(verdict: dict[str, Any]) -> None:
    said = "valid" if verdict["valid"] else "refused"
    if "kind" in verdict:
        said += f" ({verdict['version'] or 'no version'}, {verdict['kind']})"
    print(f"{printable(verdict['source'])}: {said}")
    for level, problems in (("warning", verdict["warnings"]), ("error", verdict["problems"])):
        for problem in problems:
            place = f"{problem['path']}: " if problem["path"] else ""
            print(f"  {level}: {printable(place + problem['message'])}")
            for name in ("expected", "fix"):
                if problem[name]:
                    print(f"    {name}: {printable(problem[name])}")


def _migrate(options: Namespace) -> int:
    from mxc_ops.config.loader import load
    from mxc_ops.config.migrate import migrate

    migration = migrate(load(read_source(options.file)), options.to)
    if options.output and not migration.refused:
        write_file(options.output, _text(migration.body))
    if options.json:
        document = None if migration.refused else migration.body
        print_document({"document": document, "losses": [_as_dict(loss) for loss in migration.losses]})
    else:
        if not options.output and not migration.refused:
            print(_text(migration.body), end="")
        for loss in migration.losses:
            line = f"{loss.severity.value}: {loss.pointer}: {loss.reason}"
            tell(f"mxc-ops: {printable(line)}")
    if migration.refused:
        return EXIT_REFUSED
    return EXIT_LOSSY if any(loss.severity is loss.severity.LOSSY for loss in migration.losses) else 0


def _text(body: Mapping[str, Any]) -> str:
    import json

    text = json.dumps(body, indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():  # e.g. characters that turn a terminal's line around
        text = json.dumps(body, indent=2)
    return text + "\n"


def _as_dict(loss: Loss) -> dict[str, Any]:
    return {
        "path": loss.pointer,
        "value": loss.value,
        "reason": loss.reason,
        "severity": loss.severity.value,
    }


def _schema(options: Namespace) -> int:
    import json

    from mxc_ops.config.schema_export import schema_for

    print(json.dumps(schema_for(options.version), indent=2))
    return 0
