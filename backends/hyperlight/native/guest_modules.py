"""Which modules the packages' Python has, and which a program seems to want (pure).

It is CPython 3.14 as a WebAssembly component that was built with the modules which the packages' own code
imports: there is no more of the standard library than that, and nothing can be installed. The list is what
version 0.8.0 of the guest has in ``sys.modules``, ``sys.builtin_module_names`` and among its frozen modules.
"""

from __future__ import annotations

import re

__all__ = ["GUEST_MODULES", "missing_modules"]

_NAMES = """
__main__ _abc _ast _asyncio _bisect _blake2 _codecs _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp
_codecs_kr _codecs_tw _collections _collections_abc _contextvars _csv _datetime _decimal _elementtree
_frozen_importlib _frozen_importlib_external _functools _heapq _hmac _imp _io _json _locale _lsprof _md5
_multibytecodec _opcode _opcode_metadata _operator _pickle _queue _random _sha1 _sha2 _sha3 _signal
_sitebuiltins _socket _sqlite3 _sre _stat _statistics _string _struct _suggestions _symtable _sysconfig
_thread _tokenize _tracemalloc _types _typing _warnings _weakref _weakrefset _zoneinfo abc annotationlib
array ast atexit binascii bisect builtins cmath codecs collections collections.abc copy copyreg
dataclasses dis encodings encodings.aliases encodings.utf_8 enum errno faulthandler functools gc
genericpath importlib importlib._bootstrap importlib._bootstrap_external importlib.machinery
importlib.util inspect io itertools json json.decoder json.encoder json.scanner keyword linecache marshal
math ntpath opcode operator os os.path posix posixpath pyexpat random re re._casefix re._compiler
re._constants re._parser reprlib runpy select site stat sys time token tokenize types typing unicodedata
weakref zipimport zlib
"""

GUEST_MODULES = frozenset(_NAMES.split())

_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w.]+(?:[ \t]*,[ \t]*[\w.]+)*))",
    re.MULTILINE,
)


def missing_modules(source: str) -> tuple[str, ...]:
    """Modules that `source` imports by its text, and that the packages' Python lacks, in order.

    The source is hostile: it is looked at by one regular expression and never parsed. What it imports by
    other means is not found, and a line of a text may be taken for a statement.
    """
    names: dict[str, None] = {}
    for match in _IMPORT.finditer(source):
        for word in (match.group(1) or match.group(2)).split(","):
            name = word.strip()
            if name not in GUEST_MODULES:
                names.setdefault(name)
    return tuple(names)
