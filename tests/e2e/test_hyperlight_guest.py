"""What a program finds in the native driver's machine: the packages' own guest, carried by Wasmtime here.

All but the machine is real: the guest's Python and its executor, our code in it and its calls to the worker,
the worker and its confinement.
"""

from __future__ import annotations

import json

import pytest

from backends.base import Environment
from backends.ended import Outcome
from backends.hyperlight.native.facts import NativeFacts
from backends.hyperlight.native.guest_modules import GUEST_MODULES
from tests.hyperlight_packages import with_the_real_guest
from tests.native_runs import asking, facts_with, run

pytestmark = pytest.mark.backend("hyperlight")

TRACEBACK = (
    b'Traceback (most recent call last):\n  File "<string>", line 2, in <module>\n'
    b"ZeroDivisionError: division by zero\n"
)


@pytest.fixture(scope="module")
def facts() -> NativeFacts:
    return facts_with(with_the_real_guest())


@pytest.mark.parametrize(
    ("source", "code", "stdout", "stderr"),
    [
        ("print(6 * 7)", 0, b"42\n", b""),
        ("import sys\nprint('out')\nprint('err', file=sys.stderr)", 0, b"out\n", b"err\n"),
        ("import sys\nsys.exit()", 0, b"", b""),
        ("import sys\nsys.exit(3)", 3, b"", b""),
        ("import sys\nsys.exit(-1)", 255, b"", b""),
        ("import sys\nsys.exit('bye')", 1, b"", b"bye\n"),
        ("\n1/0", 1, b"", TRACEBACK),
        ("raise KeyboardInterrupt", 130, b"", None),
        ("not Python", 1, b"", None),
        (
            "print(__name__, 'call_tool' in globals(), 'run_program' in globals())",
            0,
            b"__main__ False False\n",
            b"",
        ),
        ("import sys\nsys.stdout.buffer.write(bytes(range(256)))", 0, bytes(range(256)), b""),
        ("print('\\udc80\\u00e9')", 0, b"\x80\xc3\xa9\n", b""),
        ("import atexit\natexit.register(print, 'last')\nprint('first')", 0, b"first\nlast\n", b""),
        ("import sys\nsys.stdout.close()\nsys.exit(4)", 4, b"", b""),
    ],
)
def test_a_program_runs_as_python_runs_it(
    facts: NativeFacts, source: str, code: int, stdout: bytes, stderr: bytes | None
) -> None:
    result = run(facts, source)
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.EXITED, code, stdout), result.stderr
    assert result.stderr == stderr if stderr is not None else result.stderr != b""


def test_it_has_its_environment_arguments_and_input(facts: NativeFacts) -> None:
    source = "import json, os, sys\nprint(json.dumps([dict(os.environ), sys.argv, sys.stdin.read()]))"
    environment = Environment((("A", "b=c"), ("RAW", "\udc80"), ("EMPTY", "")))
    result = run(facts, asking(source, args=("one", "two"), environment=environment), input=b"1\n\xff")
    expected = [{"A": "b=c", "RAW": "\udc80", "EMPTY": ""}, ["-c", "one", "two"], "1\n\udcff"]
    assert json.loads(result.stdout) == expected, result.stderr


def test_more_than_a_call_may_take_is_printed_whole(facts: NativeFacts) -> None:
    result = run(facts, "print('abc' * 500_000)")
    assert result.stdout == b"abc" * 500_000 + b"\n"


def test_what_was_printed_arrives_although_the_machine_stops(facts: NativeFacts) -> None:
    result = run(facts, "import os\nprint('so far', flush=True)\nos._exit(4)")
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.SIGNALLED, 134, 6)
    assert result.stdout == b"so far\n"
    assert "the machine stopped: RuntimeError: Execution failed" in result.warnings[0]


def test_nothing_of_one_run_is_in_the_next(facts: NativeFacts) -> None:
    source = "import builtins, random\nprint(hasattr(builtins, 'left'), random.random())\nbuiltins.left = 1"
    first, second = (run(facts, source).stdout.split() for _ in range(2))
    assert first[0] == second[0] == b"False"
    assert first[1] != second[1]


@pytest.mark.parametrize("source", ["open('/etc/passwd')", "import os\nos.listdir('/')", "open('/x', 'w')"])
def test_the_machine_has_no_files(facts: NativeFacts, source: str) -> None:
    result = run(facts, source)
    assert (result.exit_code, result.stderr.splitlines()[-1][:17]) == (1, b"FileNotFoundError")


def test_the_modules_that_it_has_are_those_that_we_know(facts: NativeFacts) -> None:
    source = """
import _imp, json, sys
print(json.dumps([*sys.modules, *sys.builtin_module_names, *_imp._frozen_module_names()]))
"""
    of_the_packages = ("wit_world", "componentize_py", "sandbox_executor", "__hello", "__phello")
    found = json.loads(run(facts, source).stdout)
    assert {name for name in found if not name.startswith(of_the_packages)} == GUEST_MODULES
