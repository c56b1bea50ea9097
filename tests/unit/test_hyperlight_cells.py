"""The program that runs cells, as a plain process: what it keeps, what it tells, and what it sends when."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from mxc_ops.hyperlight.exchange import Lost
from tests.cells import PlainInterpreter


@pytest.fixture(scope="module")
def shared() -> Iterator[PlainInterpreter]:
    """For tests that leave it as it was."""
    made = PlainInterpreter()
    made.tool(int.__add__, "add")
    yield made
    made.end()


@pytest.fixture
def own() -> Iterator[PlainInterpreter]:
    made = PlainInterpreter()
    yield made
    made.end()


def test_names_stay_and_the_last_expression_is_the_value(shared: PlainInterpreter) -> None:
    assert shared.run("import math\ndef f(x): return x * 2\nn = 20").done.value is None
    ran = shared.run("n += 1\nf(n)")
    assert (ran.done.value, ran.done.value_repr, ran.stdout) == (42, "42", "")
    assert shared.run(
        "class A: pass\nimport pickle; pickle.loads(pickle.dumps(A())).__class__ is A"
    ).done.value
    assert shared.run("None").done.value_repr == ""
    assert shared.run("{'a': (1, None)}").done.value == {"a": [1, None]}


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("object", "<class 'object'>"),
        ("float('nan')", "nan"),
        ("{1, 2}", "{1, 2}"),
        ("l = []; l.append(l); l", "[[...]]"),
        ("class B:\n def __repr__(self): raise ValueError\nB()", "<B whose repr raised ValueError>"),
        ("'x' * 3_000_000", "'" + "x" * 19_999 + "… (3000002 characters)"),
    ],
)
def test_a_value_that_json_does_not_hold_is_shown(shared: PlainInterpreter, code: str, shown: str) -> None:
    done = shared.run(code).done
    assert (done.code, done.value, done.value_repr) == (0, None, shown)


def test_an_exception_is_told_as_python_tells_it(shared: PlainInterpreter) -> None:
    ran = shared.run("def f():\n    1 / 0\nf()")
    assert ran.done.error is not None
    kind, message, trace = ran.done.error
    assert (ran.done.code, kind, message) == (1, "ZeroDivisionError", "division by zero")
    lines = [line.strip() for line in trace.splitlines()]
    assert (
        lines[0] == "Traceback (most recent call last):"
        and lines[-1] == "ZeroDivisionError: division by zero"
    )
    assert "1 / 0" in lines and "f()" in lines and "backends" not in trace
    assert ran.stderr == trace
    assert shared.run("import json; json.loads('{')").done.error[0] == "json.decoder.JSONDecodeError"  # type: ignore[index]
    assert shared.run("def g(:").done.error[0] == "SyntaxError"  # type: ignore[index]
    assert shared.run("'\0'; '\\ud800'").done.error is not None
    assert shared.run("class E(Exception):\n def __str__(self): 1/0\nraise E").done.error[0] == "E"  # type: ignore[index]


def test_leaving_ends_the_cell_and_not_the_interpreter(shared: PlainInterpreter) -> None:
    shared.run("kept = 1")
    ran = shared.run("import sys; sys.exit(7)")
    assert (ran.done.code, ran.done.error) == (7, None)
    ran = shared.run("raise SystemExit('no')")
    assert (ran.done.code, ran.stderr) == (1, "no\n")
    assert shared.run("kept").done.value == 1


def test_output_is_complete_apart_and_in_order_whoever_writes_it(shared: PlainInterpreter) -> None:
    code = """
import os, subprocess, sys, threading
os.write(1, b"one\\n")
subprocess.run("echo two; echo oops >&2", shell=True)
thread = threading.Thread(target=print, args=["three"], kwargs={"flush": True})
thread.start(); thread.join()
sys.stderr.write("end\\n")
print("four", end="")
"""
    ran = shared.run(code)
    assert (ran.stdout, ran.stderr) == ("one\ntwo\nthree\nfour", "oops\nend\n")
    assert len(shared.run("print('x' * 5_000_000)").stdout) == 5_000_001


def test_output_comes_line_by_line_when_it_is_wanted_so(shared: PlainInterpreter) -> None:
    code = "import time\nfor n in range(3):\n    print(n)\n    time.sleep(0.1)"
    assert shared.run(code, stream=True).pieces == 3
    assert shared.run(code).pieces == 1


def test_input_is_empty_and_what_is_written_between_cells_comes_with_the_next(own: PlainInterpreter) -> None:
    assert own.run("input()").done.error[0] == "EOFError"  # type: ignore[index]
    own.run("import threading, time\ndef late(): time.sleep(0.2); print('late', flush=True)")
    own.run("t = threading.Thread(target=late); t.start()")
    time.sleep(0.4)
    assert own.exchange.at_rest, "nothing is sent while nobody listens"
    assert own.run("t.join()").stdout == "late\n"


def test_a_fork_is_another_program(shared: PlainInterpreter) -> None:
    code = "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    os.wait(); print('parent')"
    assert shared.run(code).stdout == "child\nparent\n"
    code = "import os\nif os.fork() == 0:\n    tools.add(1, 2)\nelse:\n    os.wait()[1]"
    assert "NoRun" in shared.run(code).stderr
    code = "try:\n    os.wait()\nexcept ChildProcessError:\n    print('none')"
    assert shared.run(code).stdout == "none\n", "we have no children that code would wait for"
    code = "import multiprocessing as m\np = m.get_context('fork').Pool(2)\nprint(p.map(abs, [-1, -2]))"
    assert shared.run(code).stdout == "[1, 2]\n"


def test_tools_are_called_by_name_or_as_attributes(own: PlainInterpreter) -> None:
    def greet(name: str, times: int = 1) -> str:
        return f"hello {name} " * times

    own.tool(greet)
    assert own.run("call_tool('greet', name='a'), tools.greet('b', times=2)").done.value == [
        "hello a ",
        "hello b hello b ",
    ]
    assert own.run("dir(tools), repr(tools)").done.value == [["greet"], "<tools: greet>"]
    code = "try:\n    tools.greet(1)\nexcept ToolError as e:\n    print(e.tool, e.type, e.message)"
    assert own.run(code).stdout == (
        "greet BadArguments name: Input should be a valid string, not 1 (integer)\n"
    )
    assert own.run("tools.other()").done.error[0] == "AttributeError"  # type: ignore[index]
    assert own.run("tools.greet(object())").done.error[1] == (  # type: ignore[index]
        "greet: TypeError: the arguments are not JSON: Object of type object is not JSON serializable"
    )
    assert "UnknownTool" in own.run("call_tool('greet')", allow=[]).stderr


def test_what_a_tool_raises_reaches_the_code_without_the_hosts_paths(own: PlainInterpreter) -> None:
    def fail(how: str) -> object:
        if how == "file":
            open("/nowhere/secret")  # noqa: SIM115, PTH123
        if how == "result":
            return object()
        raise ValueError(f"no {how}")

    own.tool(fail)
    ran = own.run("tools.fail('luck')")
    assert ran.done.error is not None
    assert ran.done.error[:2] == ("ToolError", "fail: ValueError: no luck")
    assert __file__ not in ran.stderr and [one.error for one in ran.calls] == ["ValueError"]
    ran = own.run("tools.fail('file')")
    assert "FileNotFoundError" in ran.stderr and "secret" not in ran.stderr
    assert "BadResult" in own.run("tools.fail('result')").stderr


def test_a_tool_that_takes_too_long_is_a_timeout_and_its_answer_is_dropped(own: PlainInterpreter) -> None:
    go_on = threading.Event()
    own.tool(lambda: go_on.wait(20), "slow", timeout_s=0.1)
    own.tool(lambda: 1, "quick")
    code = "try:\n    tools.slow()\nexcept TimeoutError as e:\n    print(type(e).__name__)\ntools.quick()"
    ran = own.run(code)
    go_on.set()
    assert (ran.stdout, ran.done.value) == ("ToolTimeout\n", 1)
    assert [one.error for one in ran.calls] == ["Timeout", ""]
    assert own.run("tools.quick()").done.value == 1


def test_code_may_await_and_call_many_at_once(own: PlainInterpreter) -> None:
    together = 0
    most = 0

    async def work(number: int) -> int:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.05)
        together -= 1
        return number

    own.tool(work)
    code = "import asyncio\nsum(await asyncio.gather(*(acall_tool('work', n) for n in range(20))))"
    assert own.run(code).done.value == 190
    assert most > 5
    own.run("task = asyncio.ensure_future(acall_tool('work', 1))")
    assert own.run("await task").done.value == 1, "the loop is the same in each cell"
    code = "from concurrent.futures import ThreadPoolExecutor as T\nlist(T(8).map(tools.work, range(8)))"
    assert own.run(code).done.value == list(range(8))


def test_a_call_that_the_cell_did_not_wait_for_fails_with_its_end(own: PlainInterpreter) -> None:
    go_on = threading.Event()
    own.tool(lambda: go_on.wait(20), "slow")
    code = """
import threading, time
def ask():
    try: tools.slow()
    except ToolError as error: errors.append(error.type)
errors, thread = [], threading.Thread(target=ask)
thread.start(); time.sleep(0.1)
"""
    assert [one.error for one in own.run(code).calls] == ["RunEnded"]
    go_on.set()
    assert own.run("thread.join(); errors").done.value == ["RunEnded"]


def test_an_interrupted_cell_leaves_the_rest_as_it_was(own: PlainInterpreter) -> None:
    own.run("kept = []")
    ran = own.run("import time\nkept.append(1)\ntime.sleep(30)", timeout_s=0.3, grace_s=10)
    assert ran.done.interrupted and ran.done.error is not None and ran.done.error[0] == "KeyboardInterrupt"
    assert own.run("kept").done.value == [1]


@pytest.mark.parametrize(
    "how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "__import__('ctypes').string_at(0)"]
)
def test_what_was_written_before_the_interpreter_died_arrives(own: PlainInterpreter, how: str) -> None:
    out: list[bytes] = []
    with pytest.raises(Lost) as caught:
        _run_into(own, f"import os\nos.write(1, b'last ' * 1000)\nos.write(2, b'words')\n{how}", out)
    assert caught.value.why == ""
    assert b"".join(out).count(b"last ") == 1000 and b"words" in b"".join(out)


def _run_into(own: PlainInterpreter, code: str, out: list[bytes]) -> None:
    from mxc_ops.hyperlight.calls import Calls, Host
    from mxc_ops.hyperlight.exchange import Order
    from mxc_ops.hyperlight.loops import tool_loop
    from mxc_ops.hyperlight.workers import Workers

    calls = Calls({}, Host(Workers(1), tool_loop, 0), most=0, default_timeout_s=None, wake=own.exchange.wake)
    until = time.monotonic() + 20
    own.exchange.run(Order(code, "<cell>", False, calls, (), out.append, out.append, until, 0, bool))


def test_random_numbers_are_others_after_a_seed(own: PlainInterpreter) -> None:
    own.run("import random; random.seed(1)")
    own.exchange.seed(b"x" * 64)
    assert own.run("random.random()").done.value != pytest.approx(0.13436424411240122)


def test_it_ends_when_nobody_listens_any_more() -> None:
    gone = PlainInterpreter((sys.executable, "-c", _program()))
    gone.close()
    assert gone.process.wait(20) == 0


def _program() -> str:
    from backends.inside.cells_source import python_program

    return python_program()
