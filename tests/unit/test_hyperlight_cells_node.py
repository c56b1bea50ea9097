"""The program that runs cells in JavaScript, as a plain process of node."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from backends.inside.cells_source import node_program
from mxc_ops.hyperlight.exchange import Lost
from tests.cells import PlainInterpreter

NODE = shutil.which("node") or ""
pytestmark = pytest.mark.skipif(not NODE, reason="this host has no node; the image of that name has")


@pytest.fixture(scope="module")
def shared() -> Iterator[PlainInterpreter]:
    made = PlainInterpreter((NODE, "-e", node_program()))
    made.tool(add)
    yield made
    made.end()


def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize(
    ("code", "value", "shown"),
    [
        ("1 + 1", 2, "2"),
        ("'text'", "text", "'text'"),
        ("({a: [1, {b: null}]})", {"a": [1, {"b": None}]}, "{ a: [ 1, { b: null } ] }"),
        ("undefined", None, ""),
        ("null", None, "null"),
        ("({a: NaN})", None, "{ a: NaN }"),
        ("new Date(0)", None, "1970-01-01T00:00:00.000Z"),
        ("5n", None, "5n"),
        ("const l = []; l.push(l); l", None, "<ref *1> [ [Circular *1] ]"),
        ("await Promise.resolve(3)", 3, "3"),
        ("Promise.resolve(4)", 4, "4"),
    ],
)
def test_the_value_is_that_of_the_last_expression(
    shared: PlainInterpreter, code: str, value: object, shown: str
) -> None:
    done = shared.run(code).done
    assert (done.code, done.value, done.value_repr) == (0, value, shown)


def test_declarations_stay(shared: PlainInterpreter) -> None:
    shared.run("const kept = 1; let other = 2; function twice(n) { return 2 * n } class C {}")
    shared.run("const awaited = await tools.add(1, 2)")
    assert shared.run("[kept, other, twice(2), awaited, typeof C]").done.value == [1, 2, 4, 3, "function"]


def test_tools_are_called_by_position_or_by_names(shared: PlainInterpreter) -> None:
    code = "[await tools.add(1, 2), await call_tool('add', {a: 3, b: 4}), Object.keys(tools)]"
    assert shared.run(code).done.value == [3, 7, ["add"]]
    code = "(await Promise.all([...Array(200).keys()].map((n) => tools.add(n, 1)))).at(-1)"
    assert shared.run(code).done.value == 200
    code = "try { await tools.add('1', 2) } catch (e) { console.log(e.name, e.tool, e.type) }"
    assert shared.run(code).stdout == "ToolError add BadArguments\n"
    failed = shared.run("await call_tool('add', 1)").done.error
    assert failed is not None and failed[0] == "ToolError" and "eval" not in failed[2]
    assert "UnknownTool" in shared.run("await call_tool('add', 1, 2)", allow=[]).stderr
    shared.run("globalThis.late = () => tools.add(1, 2)")
    assert "not JSON" in shared.run("await tools.add(1n, 2)").stderr


def test_errors_are_told_as_node_tells_them(shared: PlainInterpreter) -> None:
    ran = shared.run("function f() { return null.x }\nf()")
    assert ran.done.error is not None
    assert ran.done.error[0] == "TypeError" and ran.stderr == ran.done.error[2]
    assert "at f (<cell" in ran.stderr and "node:" not in ran.stderr
    for code, kind in (("let = (", "SyntaxError"), ("throw 5", "number"), ("await x.y", "ReferenceError")):
        error = shared.run(code).done.error
        assert error is not None and error[0] == kind
    code = "setTimeout(() => { throw new Error('later') }, 1); await new Promise((r) => setTimeout(r, 50)); 1"
    ran = shared.run(code)
    assert ran.done.value == 1 and ran.stderr.startswith("Error: later\n")


def test_output_is_apart_and_no_frame_whoever_writes_it(shared: PlainInterpreter) -> None:
    code = """
const { execSync, spawn, spawnSync } = require("child_process");
console.log("one"); require("fs").writeSync(1, "two\\n"); (await import("fs")).writeSync(2, "oops\\n");
execSync("echo three; echo e3 >&2", { stdio: "inherit" });
spawnSync("echo", ["four"], { stdio: ["inherit", 1, 2] });
const options = { stdio: "inherit" };
await new Promise((r) => spawn("sh", ["-c", "cat; echo five; echo e5 >&2"], options).on("close", r));
process.stdout.write("six");
"""
    ran = shared.run(code)
    assert (ran.stdout, ran.stderr) == ("one\ntwo\nthree\nfour\nfive\nsix", "oops\ne3\ne5\n")
    assert len(shared.run("console.log('x'.repeat(5_000_000))").stdout) == 5_000_001
    code = (
        "process.stdin.on('data', console.log); await new Promise((r) => process.stdin.on('end', r)); 'end'"
    )
    assert shared.run(code).done.value == "end"


def test_what_is_written_between_cells_comes_with_the_next(shared: PlainInterpreter) -> None:
    shared.run("setTimeout(console.log, 100, 'late'); 0")
    time.sleep(0.4)
    assert shared.exchange.at_rest
    assert shared.run("0").stdout == "late\n"


@pytest.mark.parametrize("code", ["while (true) {}", "await new Promise(() => {})"])
def test_an_interrupted_cell_leaves_the_rest_as_it_was(shared: PlainInterpreter, code: str) -> None:
    shared.run("globalThis.stays = 1")
    ran = shared.run(code, timeout_s=0.3, grace_s=10)
    assert ran.done.interrupted and "interrupted" in ran.stderr
    assert shared.run("stays").done.value == 1


def test_it_ends_with_its_program_and_with_the_host() -> None:
    ended = PlainInterpreter((NODE, "-e", node_program()))
    with pytest.raises(Lost):
        ended.run("process.exit(3)")
    assert ended.process.wait(20) == 3
    ended.end()
    left = PlainInterpreter((NODE, "-e", node_program()))
    left.close()
    assert left.process.wait(20) == 0
