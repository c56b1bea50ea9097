"""Whatever bytes come in, a document or a `ConfigError` comes out."""

from __future__ import annotations

import copy
import json
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import ConfigError
from mxc_ops.config.document import Document, Strictness
from mxc_ops.config.loader import MAX_PROBLEMS, load
from mxc_ops.config.models import editions
from tests.unit import instances

_PIECES = (
    *(bytes([byte]) for byte in b'{}[]",:\\/-0.eE \x00\xff\xc3'),
    *(b"null", b"true", b"NaN", b"1e999", b"-0", b"9" * 30, b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 70),
    *(rb"\ud800", rb"\u0000", rb"\u202e", b'"version":', b'"1.0.0"', b'"0.9.0-alpha"', b'"phase":"exec",'),
    *(b'"mxcOps":{"args":["a"]},', b'"network":{"egress":{"allow":[{"to":[{"cidr":"::/0"}]}]}},'),
)  # fmt: skip
_NAMES = sorted({name for shape in editions.ranged(8).shapes.values() for name in shape})
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 2**31, 2**63, 2**64, 10**19, "", " ", "=", "a=b", "\x1b[2J", "\u2028",
    '"', "/", "C:\\", "10.0.0.0/8", "10.0.0.1/8", "::1%lo/64", "1.2.3.4/", "http://[::1", "http://a:99999",
    "http://u:p@h:1", "localhost", "exec", "provision", "process", "wslc", "isolation_session", "iso:", ":",
    "1.0.0", "0.8.0-alpha", [], [None], [[]], [{}], {}, {"": ""}, {"a": {"b": {}}}, ["a"] * 60,
)  # fmt: skip


def _samples(shared_dir: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((shared_dir / "mxc-samples").rglob("*.json"))]


def _torn(source: bytes, chance: random.Random) -> bytes:
    """A few bytes removed, doubled, changed or put in."""
    damaged = bytearray(source)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(damaged) + 1)
        end = start + chance.choice((0, 0, 1, 3, 40))
        damaged[start:end] = chance.choice(
            (b"", chance.choice(_PIECES), bytes(damaged[start:end]) * 2, chance.randbytes(2))
        )
    return bytes(damaged)


def _rewritten(source: bytes, chance: random.Random) -> bytes:
    """Valid JSON with other names and values in it."""
    document = json.loads(source)
    for _ in range(chance.randint(1, 4)):
        place = chance.choice(list(instances.containers(document)))
        value = copy.deepcopy(chance.choice(_VALUES))
        if isinstance(place, list):
            place.insert(chance.randrange(len(place) + 1), value)
        else:
            place[chance.choice([*_NAMES, *place, _word(chance)])] = value
    if chance.random() < 0.3:
        document["version"] = chance.choice([*editions.CONTRACTS, "0.8.7", "0.6.0-x.1", None])
    return json.dumps(document).encode()


def _word(chance: random.Random) -> str:
    return "".join(chance.choice(string.printable) for _ in range(chance.randint(0, 12)))


def _verdict(source: bytes, strictness: Strictness) -> Document | ConfigError:
    try:
        return load(source, strictness=strictness)
    except ConfigError as error:
        return error


def _check(source: bytes) -> Iterator[Document | ConfigError]:
    for strictness in Strictness:
        verdict = _verdict(source, strictness)
        if isinstance(verdict, ConfigError):
            assert 0 < len(verdict.problems) <= MAX_PROBLEMS + 1
            assert all(problem.code and problem.message for problem in verdict.problems)
            assert str(verdict).replace("\n", "").isprintable()
        yield verdict


@pytest.mark.parametrize("mutate", [_torn, _rewritten])
def test_a_damaged_sample_is_a_document_or_a_config_error(
    mutate: Callable[[bytes, random.Random], bytes], shared_dir: Path, soak: bool
) -> None:
    chance = random.Random(20261123)
    samples = _samples(shared_dir)
    taken = refused = 0
    for _ in range(100_000 if soak else 10_000):
        for verdict in _check(mutate(chance.choice(samples), chance)):
            taken += isinstance(verdict, Document)
            refused += isinstance(verdict, ConfigError)
    assert taken > 100
    assert refused > 100


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(_NAMES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=6).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_anything_is_a_document_or_a_config_error(source: bytes) -> None:
    assert all(isinstance(verdict, Document | ConfigError) for verdict in _check(source))
