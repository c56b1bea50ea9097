"""Bytes → JSON value, with everything refused that would make two readers disagree about a document.

The good path is one pass of the C scanner; only when its hooks object is the text read a second time, slowly,
to say where. Limits: issue "Config documents"; RFC 8259 §4 (duplicate names), §8 (encoding).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn, cast

from backends.errors import ConfigError, Problem
from mxc_ops.config import wording

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_DIGITS = 20  # of an integer: 2**64 - 1 has 20
MAX_PROBLEMS = 50

_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


def parse(source: bytes) -> Any:
    """Parse one JSON document.

    Parameters
    ----------
    source: at most `MAX_BYTES` of UTF-8 without a byte order mark.

    Raises `ConfigError` with every duplicate key, NUL, lone surrogate and unusable number that it found, or
    with the one reason why the text is not JSON.
    """
    text = _decoded(source)
    if source.count(b"{") + source.count(b"[") > MAX_DEPTH:
        _refuse_deep(text)
    try:
        # A NUL or a surrogate can only be there as an escape: raw ones are no JSON or no UTF-8.
        if b"\\u" in source and _has_suspicious_escape(source):
            raise _LookCloser
        return _FAST.decode(text)
    except _LookCloser:
        return _parse_slowly(text)
    except json.JSONDecodeError as error:
        raise _refused("invalid_json", _syntax_message(error), fix=_syntax_fix(error, text)) from None
    except RecursionError:
        raise _refused("too_deep", f"nested deeper than {MAX_DEPTH} levels") from None


class _LookCloser(Exception):
    """The fast pass met something that needs the slow pass."""


class _Pairs(list[tuple[str, Any]]):
    """An object of the slow pass: its members in order, duplicates kept."""


class _BadNumber:
    """A number of the slow pass that is refused; `why` says why."""

    def __init__(self, why: str) -> None:
        self.why = why


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _LookCloser
    return members


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 1:
        raise _LookCloser
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _LookCloser
    return value


def _constant(_word: str) -> NoReturn:
    raise _LookCloser


_FAST = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _slow_integer(digits: str) -> int | _BadNumber:
    return int(digits) if len(digits) <= MAX_DIGITS + 1 else _BadNumber(f"has more than {MAX_DIGITS} digits")


def _slow_float(digits: str) -> float | _BadNumber:
    value = float(digits)
    return _BadNumber("is too large for a number") if value in (float("inf"), float("-inf")) else value


def _slow_constant(word: str) -> _BadNumber:
    return _BadNumber(f"is {word}, which JSON does not have")


_SLOW = json.JSONDecoder(
    object_pairs_hook=_Pairs,
    parse_int=_slow_integer,
    parse_float=_slow_float,
    parse_constant=_slow_constant,
)


def _decoded(source: bytes) -> str:
    if len(source) > MAX_BYTES:
        raise _refused(
            "too_large", f"the document has {len(source)} bytes", expected=f"at most {MAX_BYTES} bytes"
        )
    if source.startswith(_BOM):
        raise _refused(
            "byte_order_mark",
            "the document starts with a byte order mark",
            expected="UTF-8 without one",
            fix="sed -i '1s/^\\xEF\\xBB\\xBF//' FILE",
        )
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        hint = "iconv -f UTF-16 -t UTF-8 FILE" if source.startswith(_WIDE_BOMS) else ""
        raise _refused(
            "not_utf8", f"byte {error.start} is not UTF-8", expected="UTF-8 text", fix=hint
        ) from None
    if not text.strip():
        raise _refused("empty", "the document is empty", expected="a JSON object")
    return text


def _has_suspicious_escape(source: bytes) -> bool:
    folded = source.lower()
    return b"\\u0000" in folded or b"\\ud" in folded


def _refuse_deep(text: str) -> None:
    import re

    depth = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]+', "", text, flags=re.DOTALL):
        if bracket in "]}":
            depth -= 1
            continue
        depth += 1
        if depth > MAX_DEPTH:
            raise _refused("too_deep", f"nested deeper than {MAX_DEPTH} levels")


def _parse_slowly(text: str) -> Any:
    try:
        value = _SLOW.decode(text)
    except json.JSONDecodeError as error:
        raise _refused("invalid_json", _syntax_message(error), fix=_syntax_fix(error, text)) from None
    problems: list[Problem] = []
    for problem in _findings(value, ()):
        problems.append(problem)
        if len(problems) == MAX_PROBLEMS:
            break
    if problems:
        raise ConfigError(problems)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(member) for key, member in value}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value


def _findings(value: Any, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, member in value:
            here = (*path, key)
            if key in seen:
                message = f"the key '{wording.name(key)}' is there more than once"
                yield Problem(
                    "duplicate_key",
                    wording.pointer(here),
                    message,
                    fix="keep one of them and remove the rest",
                )
            seen.add(key)
            yield from _text_findings(key, here, "the key")
            yield from _findings(member, here)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _findings(item, (*path, index))
    elif isinstance(value, str):
        yield from _text_findings(value, path, "the string")
    elif isinstance(value, _BadNumber):
        yield Problem("unusable_number", wording.pointer(path), f"the number {value.why}")


def _text_findings(text: str, path: tuple[str | int, ...], what: str) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem("nul_character", wording.pointer(path), f"{what} contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        yield Problem(
            "lone_surrogate",
            wording.pointer(path),
            f"{what} contains half of a surrogate pair",
            expected="whole Unicode characters",
        )


def _syntax_message(error: json.JSONDecodeError) -> str:
    reason = wording.escaped(error.msg.removesuffix(" at"))
    return f"not valid JSON: {reason} at line {error.lineno} column {error.colno}"


def _syntax_fix(error: json.JSONDecodeError, text: str) -> str:
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return "the text ends too early: complete it"
    if error.msg == "Extra data":
        return "remove what follows the JSON object"
    return ""


def _refused(code: str, message: str, *, expected: str = "", fix: str = "") -> ConfigError:
    return ConfigError(Problem(code, "", message, expected=expected, fix=fix))
