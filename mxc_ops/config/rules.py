"""Rules between the fields of a well-shaped document.

`contract_rules` belong to the contracts themselves: upstream's types and schemas state them. `parser_rules`
are what a parser adds before anything runs: config-schema.md §3 and §4, lifecycle.md §3. Each rule reports
all its findings. Null counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backends.errors import Problem
from mxc_ops.config import extension, rules_network, rules_phase, wording
from mxc_ops.config.document import RequestKind
from mxc_ops.config.models.editions import PROCESS_CONTAINER, SEATBELT, Edition
from mxc_ops.config.reading import process_container, section
from mxc_ops.config.versions import Governing

Body = Mapping[str, Any]

RESERVED_CAPABILITIES = frozenset({"learningmodelogging", "permissivelearningmode"})

SAME_SECTION = (("processContainer", "appContainer"), ("seatbelt", "macos_sandbox"))

_PROXY_FIELDS = ("localhost", "builtinTestServer", "url")

_HYPERVISED = ("windows_sandbox", "vm")
_SECTION_OWNERS: Mapping[tuple[str, ...], tuple[str | None, ...]] = {
    ("processContainer",): (*PROCESS_CONTAINER, None),
    ("appContainer",): (*PROCESS_CONTAINER, None),
    ("lxc",): ("lxc",),
    ("seatbelt",): (*SEATBELT, None),
    ("macos_sandbox",): (*SEATBELT, None),
    ("experimental", "seatbelt"): (*SEATBELT, None),
    ("experimental", "macos_sandbox"): (*SEATBELT, None),
    ("experimental", "windows_sandbox"): _HYPERVISED,
    ("experimental", "wslc"): ("wslc",),
    ("experimental", "isolation_session"): ("isolation_session",),
    ("windowsSandbox",): _HYPERVISED,
    ("wslc",): ("wslc",),
    ("hyperlight",): ("hyperlight",),
}
_BACKEND_ROOTS = frozenset(path[0] for path in _SECTION_OWNERS)


def contract_rules(body: Body, edition: Edition) -> Iterator[Problem]:
    """What the version's own types and schema say beyond the shape of single fields."""
    for name, old_name in SAME_SECTION:
        if old_name in body and name in body:
            yield Problem(
                "duplicate_key",
                f"/{old_name}",
                f"'{old_name}' is the old name of '{name}', and both are there",
                fix=f"move everything into '{name}' and remove '{old_name}'",
            )
    if edition.capability_names:
        yield from _check_capabilities(body)
    proxy = section(body, "network", "proxy") if edition.one_proxy else None
    if proxy is not None and body.get("network") and body["network"].get("proxy") is not None:
        yield from _check_one_proxy(proxy)
    for path, containments in edition.section_needs.items():
        yield from _check_section_needs(body, path, containments)


def parser_rules(body: Body, governing: Governing, kind: RequestKind) -> Iterator[Problem]:
    """What a parser refuses although every field has its right shape."""
    if kind is RequestKind.ONE_SHOT or kind is RequestKind.EXEC:
        yield from _check_process(body)
    if kind is RequestKind.ONE_SHOT:
        yield from rules_phase.check_one_shot(body)
        if governing.contract is not None and rules_phase.lacks_acknowledgement(body):
            yield rules_phase.missing_acknowledgement()
    else:
        yield from rules_phase.check(body, governing, kind)
    if body.get("filesystem"):
        yield from _check_filesystem(body)
    if body.get("network"):
        yield from rules_network.check_network(body, governing)
    has_backend_section = not _BACKEND_ROOTS.isdisjoint(body)
    if has_backend_section or "runtimeConfig" in body:
        yield from rules_network.check_runtime_proxy(body, governing)
    if has_backend_section:
        if kind is RequestKind.ONE_SHOT:
            yield from _check_backend_sections(body, governing)
        yield from _check_capture(body)
        name, container = process_container(body)
        enumerable = section(container, "filesystem").get("enumeratePaths")
        yield from _check_paths(enumerable, f"/{name}/filesystem/enumeratePaths")
        yield from _check_port_mappings(body)
    if extension.KEY in body:
        yield from extension.check(body[extension.KEY] or {}, body)


def _check_capabilities(body: Body) -> Iterator[Problem]:
    name, container = process_container(body)
    for index, capability in enumerate(container.get("capabilities") or ()):
        pointer = f"/{name}/capabilities/{index}"
        if "," in capability:
            yield Problem(
                "invalid_value",
                pointer,
                f"{wording.shown(capability)} packs several capabilities into one entry",
                expected="one capability per entry",
            )
        elif capability.lower() in RESERVED_CAPABILITIES:
            yield Problem(
                "reserved_name",
                pointer,
                f"the capability {wording.shown(capability)} is reserved",
                fix="use processContainer.learningMode or processContainer.captureDenials",
            )


def _check_one_proxy(proxy: dict[str, Any]) -> Iterator[Problem]:
    there = [name for name in _PROXY_FIELDS if name in proxy]
    if len(there) != 1:
        said = f"has {' and '.join(there)}" if there else "is empty"
        yield Problem(
            "conflicting_fields",
            "/network/proxy",
            f"network.proxy {said}",
            expected="exactly one of 'localhost', 'builtinTestServer' or 'url'",
        )


def _check_section_needs(body: Body, path: str, containments: tuple[str, ...]) -> Iterator[Problem]:
    *parents, last = path.split("/")
    if last in section(body, *parents) and body.get("containment") not in containments:
        yield Problem(
            "foreign_section",
            f"/{path}",
            f"the section '{last}' needs 'containment' to say which backend it is for",
            expected=f"containment {wording.listed(containments)}",
        )


def _check_backend_sections(body: Body, governing: Governing) -> Iterator[Problem]:
    """One backend section, and only the one of the containment asked for (config-schema.md §4, rule 1).

    ``process`` or nothing takes either platform's section; whether it is this platform's is for planning.
    """
    containment = body.get("containment")
    own: str | None = None
    for path, owners in _SECTION_OWNERS.items():
        if section(body, *path[:-1]).get(path[-1]) is None:
            continue
        section_name, pointer = ".".join(path), "/" + "/".join(path)
        if containment not in owners:
            yield Problem(
                "foreign_section",
                pointer,
                f"the section '{section_name}' is for another backend than 'containment' asks for",
                expected=f"only a section of {wording.shown(containment or 'process')}",
                fix=f"remove '{section_name}', or set containment to '{owners[0]}'",
            )
        elif own is not None and (own, section_name) not in SAME_SECTION:
            yield Problem(
                "foreign_section",
                pointer,
                f"the sections '{own}' and '{section_name}' are both there",
                expected="one backend section",
                fix=f"set containment, and remove '{own}' or '{section_name}'",
            )
        else:
            own = section_name
    yield from _check_moved_seatbelt(body, governing)


def _check_moved_seatbelt(body: Body, governing: Governing) -> Iterator[Problem]:
    """Seatbelt settings left `experimental` in 0.6 (as macos_sandbox) and 0.7 (config-schema.md §3.10)."""
    at_home = {"seatbelt": "0.7.0-dev", "macos_sandbox": "0.5.0-alpha"}
    for name, version in at_home.items():
        if section(body, "experimental").get(name) is not None and governing.published != version:
            yield Problem(
                "moved_field",
                f"/experimental/{name}",
                f"'experimental.{name}' has moved to the root",
                fix="use the top-level 'seatbelt' instead",
            )


def _check_process(body: Body) -> Iterator[Problem]:
    process = section(body, "process")
    command = process.get("commandLine")
    if command is None and not section(body, extension.KEY).get("args"):
        yield Problem(
            "missing_field",
            "/process" if body.get("process") is None else "/process/commandLine",
            "nothing says what to run",
            expected="process.commandLine, a shell command line",
            fix='add "process": {"commandLine": "…"}, or "mxcOps": {"args": ["…"]}',
        )
    elif command is not None and not command.strip():
        said = "is empty" if not command else "holds only white space"
        yield Problem(
            "empty_value", "/process/commandLine", f"the command line {said}", expected="a shell command line"
        )
    entries: list[str] = process.get("env") or []
    for index, entry in enumerate(entries):
        name, equals, _value = entry.partition("=")
        if not equals:
            yield _bad_entry(index, "has no '='")
        elif not name:
            yield _bad_entry(index, "has an empty name")


def _bad_entry(index: int, why: str) -> Problem:
    return Problem("invalid_value", f"/process/env/{index}", f"the entry {why}", expected="NAME=value")


def _check_filesystem(body: Body) -> Iterator[Problem]:
    for name in ("readwritePaths", "readonlyPaths", "deniedPaths"):
        yield from _check_paths(body["filesystem"].get(name), f"/filesystem/{name}")


def _check_paths(paths: Sequence[str] | None, pointer: str) -> Iterator[Problem]:
    for index, path in enumerate(paths or ()):
        if not path.strip():
            why = "the path is empty"
        elif '"' in path:
            why = f"the path {wording.shown(path)} contains '\"'"
        else:
            continue
        yield Problem("invalid_value", f"{pointer}/{index}", why, expected="an absolute path")


def _check_capture(body: Body) -> Iterator[Problem]:
    name, container = process_container(body)
    output = section(container, "captureDenials").get("outputPath")
    if output is None:
        return
    pointer = f"/{name}/captureDenials/outputPath"
    on_drive = output[1:3] in (":\\", ":/") and output[:1].isalpha()
    if not (on_drive or output.startswith(("/", "\\\\"))):
        yield Problem("relative_path", pointer, "the path is relative", expected="an absolute path")
    elif not output.strip("/\\") or (on_drive and len(output.rstrip("/\\")) == 2):
        yield Problem("invalid_value", pointer, "the path is a root directory", expected="a file")


def _check_port_mappings(body: Body) -> Iterator[Problem]:
    places = (("experimental", "wslc"), ("wslc",), ("wslc", "provision"))
    for place in places:
        mappings = section(body, *place).get("portMappings")
        seen: set[tuple[int, str]] = set()
        for index, mapping in enumerate(mappings or ()):
            protocol = mapping.get("protocol") or "tcp"
            key = (mapping["windowsPort"], protocol)
            if key in seen:
                yield Problem(
                    "duplicate_value",
                    f"/{'/'.join(place)}/portMappings/{index}/windowsPort",
                    f"windowsPort {key[0]} is mapped twice for protocol '{protocol}'",
                    fix="give each mapping a port of its own",
                )
            seen.add(key)
