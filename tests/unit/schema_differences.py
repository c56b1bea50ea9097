"""Where our verdict on a document differs, on purpose, from an upstream schema file: the one table of it.

``python -m tests.unit.schema_differences > docs/schema-differences.md`` writes the page that users read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mxc_ops.config.document import Strictness

STABLE, DEV = "stable/mxc-config.schema", "dev/mxc-config.schema"

SCHEMAS: Mapping[str, tuple[str, str, Strictness]] = {
    "0.4.0-alpha": (f"{STABLE}.0.4.0-alpha.json", "0.4.0-alpha", Strictness.CONTRACT),
    "0.5.0-alpha": (f"{STABLE}.0.5.0-alpha.json", "0.5.0-alpha", Strictness.CONTRACT),
    "0.5.0-alpha-strict": (f"{STABLE}.0.5.0-alpha-strict.json", "0.5.0-alpha", Strictness.CONTRACT),
    "0.6.0-alpha": (f"{STABLE}.0.6.0-alpha.json", "0.6.0-alpha", Strictness.CONTRACT),
    "0.7.0-dev": (f"{DEV}.0.7.0-dev.json", "0.7.0-dev", Strictness.CONTRACT),
    "0.7.0-alpha": (f"{STABLE}.0.7.0-alpha.json", "0.7.0-alpha", Strictness.CONTRACT),
    "0.8.0-alpha": (f"{STABLE}.0.8.0-alpha.json", "0.8.0-alpha", Strictness.RANGED),
    "0.8.0-alpha (exact)": (f"{DEV}.0.8.0-alpha.json", "0.8.0-alpha", Strictness.CONTRACT),
    "0.9.0-dev": (f"{DEV}.0.9.0-dev.json", "0.9.0-dev", Strictness.CONTRACT),
}
"""Schema file, the version its documents declare, and the strictness that speaks for it.

The stable 0.8.0-alpha file is held against the default: `--contract` means the exact contract there.
"""

OPEN = ("0.4.0-alpha", "0.5.0-alpha", "0.5.0-alpha-strict", "0.6.0-alpha", "0.7.0-dev", "0.7.0-alpha")
ALL = tuple(SCHEMAS)
RANGED = ("0.8.0-alpha",)
_VERSION_FREE = tuple(name for name in SCHEMAS if not name.startswith("0.8.0-alpha"))

ABSENT = "(absent)"
"""In an example: remove this field."""


@dataclass(frozen=True)
class Difference:
    """One known difference.

    Parameters
    ----------
    schemas: the schema files, by their names in `SCHEMAS`, that it concerns.
    we: "refuse" what the schema takes, or "accept" what it refuses.
    sign: how it shows: our problem's code, or the keyword of the schema that fails.
    where: pattern of the pointer, matched from its start.
    what, reason: for people.
    example: additions to a minimal document that show it.
    only: what must hold of the value there, when code and place say too little.
    """

    schemas: tuple[str, ...]
    we: str
    sign: str
    where: str
    what: str
    reason: str
    example: Mapping[str, Any]
    only: Callable[[Any], bool] | None = None

    def explains(self, schema: str, we: str, sign: str, pointer: str, value: Any) -> bool:
        return (
            schema in self.schemas
            and we == self.we
            and sign == self.sign
            and re.match(self.where, pointer) is not None
            and (self.only is None or self.only(value))
        )


def _is_integral_float(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


_CLOSED = "a field that is not known is a mistake, and ignoring it could weaken a policy"
_PARSER = "every parser of this line refuses it; the schema cannot say it"

_ParserRule = tuple[str, str, str, dict[str, Any]]
_PARSER_RULES: tuple[_ParserRule, ...] = (
    ("missing_field", "/process", "no command", {"process": {}}),
    (
        "empty_value",
        "/process/commandLine",
        "an empty command (of white space alone: by us only)",
        {"process": {"commandLine": ""}},
    ),
    (
        "invalid_value",
        "/filesystem",
        "a blank path, or one with '\"'",
        {"filesystem": {"readonlyPaths": [""]}},
    ),
    (
        "foreign_section",
        "/",
        "a section of another backend",
        {"containment": "bubblewrap", "lxc": {"distribution": "alpine", "release": "3.20"}},
    ),
    (
        "conflicting_fields",
        "/network|/runtimeConfig",
        "both network shapes, a proxy beside rules, a test proxy beside another",
        {"network": {"defaultPolicy": "block", "egress": {}}},
    ),
    (
        "missing_field",
        "/network|/runtimeConfig",
        "an empty proxy, a proxy peer without proxy, endPort without port",
        {"network": {"proxy": {}}},
    ),
    (
        "invalid_value",
        "/network|/runtimeConfig",
        "what is no network or no proxy address",
        {"network": {"egress": {"allow": [{"to": [{"cidr": "example.org"}]}]}}},
    ),
    (
        "out_of_range",
        "/network/egress",
        "endPort below port",
        {"network": {"egress": {"deny": [{"ports": [{"port": 2, "endPort": 1}]}]}}},
    ),
    (
        "reserved_name",
        "/processContainer",
        "a reserved capability or proxy peer",
        {"containment": "process", "processContainer": {"capabilities": ["learningModeLogging"]}},
    ),
    (
        "relative_path",
        "/processContainer/captureDenials",
        "a relative output path",
        {"containment": "process", "processContainer": {"captureDenials": {"outputPath": "a"}}},
    ),
)

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        OPEN,
        "refuse",
        "unknown_field",
        "/",
        "a field that the schema does not list",
        f"the schema is open: {_CLOSED}",
        {"process": {"commandLine": "true", "args": ["x"]}},
    ),
    Difference(
        ("0.6.0-alpha",),
        "refuse",
        "wrong_type",
        "/appContainer",
        "a malformed 'appContainer'",
        "the open schema does not list the old name; its contract reads it",
        {"appContainer": 1},
    ),
    Difference(
        ("0.6.0-alpha",),
        "refuse",
        "invalid_value",
        "/appContainer",
        "a value in 'appContainer' that does not exist",
        "as above",
        {"appContainer": {"ui": {"isolation": "none"}}},
    ),
    Difference(
        ("0.5.0-alpha-strict",),
        "refuse",
        "wrong_type",
        "/experimental",
        "a malformed 'experimental'",
        "the strict file leaves it out and is open; 0.5.0-alpha has it",
        {"experimental": 1},
    ),
    Difference(
        ("0.5.0-alpha-strict",),
        "accept",
        "enum",
        "/containment",
        "'windows_sandbox', 'microvm', 'wslc', 'macos_sandbox' as containment",
        "the strict file is a subset view of 0.5.0-alpha, which has them",
        {"containment": "wslc"},
    ),
    Difference(
        ALL,
        "refuse",
        "wrong_type",
        "/",
        "a number such as 1.0 for an integer",
        "parsers read an integer, and refuse a fraction point",
        {"process": {"commandLine": "true", "timeout": 1.0}},
        only=_is_integral_float,
    ),
    Difference(
        OPEN,
        "refuse",
        "out_of_range",
        "/process/timeout|/experimental/windows_sandbox/idleTimeoutMs",
        "a time above 4294967295 ms",
        "parsers read an unsigned 32-bit number",
        {"process": {"commandLine": "true", "timeout": 2**32}},
    ),
    Difference(
        ("0.5.0-alpha", "0.7.0-dev"),
        "refuse",
        "out_of_range",
        "/experimental/wslc/(cpuCount|memoryMb)",
        "a count above 4294967295 processors or 2^64 - 1 MB",
        "parsers read unsigned numbers of 32 and 64 bits",
        {"containment": "wslc", "experimental": {"wslc": {"cpuCount": 2**32}}},
    ),
    Difference(
        ("0.6.0-alpha", "0.7.0-alpha"),
        "accept",
        "enum",
        "/containment",
        "'appcontainer' (and in 0.7 'macos_sandbox') as containment",
        "old names, read by the contract",
        {"containment": "appcontainer"},
    ),
    Difference(
        ("0.7.0-alpha",),
        "accept",
        "additionalProperties",
        "$",
        "the section 'macos_sandbox'",
        "the old name of 'seatbelt', read by the contract (fixture macos_sandbox_alias)",
        {"containment": "seatbelt", "macos_sandbox": {}},
    ),
    Difference(
        ("0.6.0-alpha", "0.7.0-alpha", "0.8.0-alpha"),
        "refuse",
        "duplicate_key",
        "/(appContainer|macos_sandbox)",
        "a section under both its names",
        "two spellings of one field are a duplicate",
        {"containment": "process", "processContainer": {}, "appContainer": {}},
    ),
    *(
        Difference(
            schemas,
            "refuse",
            sign,
            "/version$",
            f"a document {what}",
            "the version says which contract to hold it against",
            {"version": version},
        )
        for schemas, sign, what, version in (
            (_VERSION_FREE, "missing_field", "without a version", ABSENT),
            (_VERSION_FREE, "unsupported_version", "with another version", "0.4"),
            (("0.8.0-alpha",), "invalid_version", "with a version that is none", "0.8"),
            (("0.8.0-alpha",), "unsupported_version", "with a version that no parser reads", "0.3.0"),
            (("0.9.0-dev",), "wrong_type", "with null as version", None),
        )
    ),
    Difference(
        RANGED,
        "accept",
        "additionalProperties",
        "",
        "fields of 0.9.0-dev and of the other 0.8 editions ('experimental', 'phase' …), and old names",
        "the default strictness reads what upstream's parser of the line reads, and warns",
        {"experimental": {"test": {}}},
    ),
    Difference(
        RANGED,
        "accept",
        "anyOf",
        "/containment",
        "every containment of the line",
        "as above",
        {"containment": "microvm"},
    ),
    Difference(
        RANGED,
        "accept",
        "required",
        "$",
        "a lifecycle request without 'process'",
        "the stable schema has no lifecycle",
        {"process": ABSENT, "phase": "stop", "sandboxId": "iso:x"},
    ),
    Difference(
        RANGED,
        "refuse",
        "invalid_value",
        "/process/env",
        "an environment entry without '=' or without a name",
        "ours: upstream drops such an entry or fails at launch, and neither is what was asked for",
        {"process": {"commandLine": "true", "env": ["A"]}},
    ),
    *(
        Difference(RANGED, "refuse", sign, where, what, _PARSER, example)
        for sign, where, what, example in _PARSER_RULES
    ),
    Difference(
        ("0.9.0-dev",),
        "refuse",
        "unknown_field",
        "/experimental",
        "a field inside 'experimental' that the schema does not list",
        f"the schema is open there: {_CLOSED}",
        {"experimental": {"surprise": {}}},
    ),
)


def rendered() -> str:
    """The page ``docs/schema-differences.md``."""
    lines = [
        "# Where mxc-ops and the published schemas differ",
        "",
        "mxc-ops is tested against every schema file that upstream publishes, over generated documents.",
        "Where the two verdicts differ, it is for one of these reasons; anything else fails the test.",
        "",
        "The files of 0.4 to 0.7, the exact contract 0.8.0-alpha and 0.9.0-dev are held against",
        "`mxc-ops config check --contract`; the stable 0.8.0-alpha is held against the default. No file is",
        "published of 0.8.0-dev, 0.9.0-alpha, 1.0.0 and 1.1.0-alpha.",
        "",
        "| Schema | mxc-ops | What | Why |",
        "|---|---|---|---|",
    ]
    for row in DIFFERENCES:
        schemas = "all" if row.schemas == ALL else ", ".join(row.schemas)
        lines.append(f"| {schemas} | {row.we}s | {row.what} | {row.reason} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(rendered(), end="")
