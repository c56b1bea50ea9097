"""Programs that a waiting node becomes: what ``node -e`` does, they do. With this host's node."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.inside import agent_codec
from backends.inside.agent_protocol import Channel, Flag, GuestCommand, Kind, Step
from backends.inside.build import build_program
from backends.inside.store import NODE_ADDON, find_program
from tests.unit.agent_client import PATH, AgentClient, Outcome, private_agent
from vm_images.interpreters import INTERPRETERS

NODE = os.path.realpath(shutil.which("node") or "/usr/bin/node")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an agent is root in its namespaces"),
    pytest.mark.skipif(not Path(NODE).exists(), reason="no node on this host"),
]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentClient]:
    folder = tmp_path_factory.mktemp("node")
    waiting = INTERPRETERS["node"]
    (folder / waiting.script).write_bytes(waiting.read_script())
    shutil.copy(find_program(NODE_ADDON) or build_program(NODE_ADDON), folder / NODE_ADDON.name)
    words = waiting.line.replace("/usr/lib/mxc-ops", str(folder)).replace("/usr/bin/node", NODE).split()
    with private_agent(interpreter=tuple(words)) as client:
        yield client


def node(agent: AgentClient, source: str, stdin: bytes = b"", **more: Any) -> Outcome:
    return agent.run(GuestCommand(("node",), more.pop("env", PATH), zygote=source, **more), stdin)


PROGRAMS = {
    "nothing": "",
    "text": "process.stdout.write('é two')",
    "both streams": "console.log('out'); console.error('err')",
    "an object": "console.log({ a: [1, 'x', null], m: new Map([[1, { b: 2 }]]) }, 5n, Symbol('s'))",
    "exit code": "process.exit(7)",
    "an exit code for later": "process.exitCode = 9; console.log('still')",
    "exit in a function": "(function f() { process.exit(4) })()",
    "an error": "function f() { null.x }\nf()",
    "a thrown text": "throw 'what is wrong'",
    "a cause": "throw new Error('x', { cause: new TypeError('y') })",
    "a rejection": "Promise.reject(new Error('nobody caught it'))",
    "a handled one": "process.on('unhandledRejection', (e) => console.log('got', e.message));"
    "Promise.reject(new Error('x'))",
    "a handler": "process.on('uncaughtException', (e) => console.log('got', e.message));"
    "throw new Error('x')",
    "an error at the end": "process.on('exit', () => { throw new Error('late') })",
    "exit functions": "process.on('exit', (c) => console.log('bye', c)); process.on('exit', () => {"
    " process.exitCode = 3 })",
    "more to do before the end": "let n = 2;"
    "process.on('beforeExit', () => { if (n--) setTimeout(console.log, 1, n) })",
    "one last thing": "process.once('beforeExit', () => setTimeout(() => console.log('last'), 1))",
    "a syntax error": "function f(",
    "a word out of place": "let let = 1",
    "an end in between": "}); console.log('out'); (() => {",
    "own death": "process.kill(process.pid, 'SIGUSR2'); setTimeout(() => {}, 5000)",
    "an order": "setImmediate(() => console.log('immediate'), 5);"
    "process.nextTick(() => console.log('tick')); Promise.resolve().then(() => console.log('promise'));"
    "queueMicrotask(() => console.log('microtask')); console.log('script')",
    "timers": "const begun = Date.now(); setTimeout(() => console.log(Date.now() - begun >= 20), 20)",
    "the input": "process.stdin.setEncoding('utf8').on('data', (d) => console.log([d]))"
    ".on('end', () => console.log('.'))",
    "the input at once": "console.log(fs.readFileSync(0, 'utf8').split('\\n'))",
    "lines": "require('readline').createInterface({ input: process.stdin })"
    ".on('line', (l) => console.log([l]))",
    "its names": "console.log(__filename, __dirname, typeof require, typeof module, typeof exports);"
    "console.log(this === globalThis)",
    "its module": "console.log(module.id, module.filename, module.paths, module.children, require.main)",
    "modules by name": "console.log(os.EOL, path.sep, util.format('%d', 1), require('node:fs') === fs)",
    "its own names for them": "const fs = 1, path = 2; console.log(fs, path)",
    "its globals": "console.log(Object.keys(globalThis).sort());"
    "console.log(Object.getOwnPropertyNames(globalThis).sort())",
    "its variables": "var a = 1; let b = 2; function c() {}\n"
    "console.log(globalThis.a, globalThis.b, typeof globalThis.c)",
    "what is loaded": "console.log(Object.keys(require.cache), module.parent, process.mainModule)",
    "its words": "console.log(process.argv.length, process.title.endsWith('node'))",
    "import()": "import('node:path').then((m) => console.log(m.sep)); import('./nothing.mjs').catch((e) =>"
    " console.log(e.code))",
    "what vm has": "console.log(Object.keys(vm), vm.runInNewContext('1 + 1'))",
    "eval": "console.log(eval('1 + 1'), new Function('return 2')())",
    "a child": "console.log(child_process.execFileSync('echo', ['x'], { encoding: 'utf8' }))",
    "a shell": "const options = { env: { A: 'b' } };"
    "child_process.exec('echo $A; exit 3', options, (e, out) => console.log(e.code, out))",
    "itself": "const { execPath } = process;"
    "console.log(child_process.execFileSync(execPath, ['-p', '6 * 7']) + '')",
    "a worker": "const source = 'require(`worker_threads`).parentPort.postMessage(process.argv.length)';"
    "new worker_threads.Worker(source, { eval: true }).on('message', console.log)",
    "files": "fs.promises.readFile('/proc/self/comm', 'utf8').then(console.log)",
    "a server": "const s = net.createServer((c) => c.end('hello')).listen(0, '127.0.0.1', () => {"
    " net.connect(s.address().port, '127.0.0.1').on('data', (d) => { console.log(d + ''); s.close() }) })",
    "a hash": "console.log(crypto.createHash('sha256').update('x').digest('hex'))",
    "recursion": "function f() { f() }\ntry { f() } catch (e) { console.log(e.name) }",
    "a terminal?": "console.log(process.stdin.isTTY, process.stdout.isTTY, process.stderr.isTTY)",
    "a closed stream": "process.stdout.end('x')",
    "strict": "'use strict'; try { undeclared = 1 } catch (e) { console.log(e.name) }",
}  # fmt: skip


def told(stderr: bytes) -> list[str]:
    """What is said of an error, and where in the program: below that, each is started in its own way."""
    lines = stderr.decode().splitlines()
    ours = re.compile(r"\s+at (?!\[eval\]:|.* \(\[eval\]:)|\s+\.\.\. \d+ lines|node:internal/")
    return [line for line in lines if not ours.match(line)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_a_new_node_does(agent: AgentClient, name: str) -> None:
    source, stdin = PROGRAMS[name], b"first\nsecond\n"
    expected = subprocess.run(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", NODE, "-e", source],
        input=stdin, capture_output=True, check=False, cwd="/", env=dict(PATH), timeout=60,
    )  # fmt: skip
    seen = node(agent, source, stdin)
    assert (seen.stdout.decode(), seen.exit_code) == (expected.stdout.decode(), expected.returncode)
    assert told(seen.stderr) == told(expected.stderr)
    assert b"mxc" not in seen.stderr and b"node.cjs" not in seen.stderr


def test_promises_may_be_awaited_where_a_script_could_not(agent: AgentClient) -> None:
    source = "const x = await Promise.resolve(6)\nconsole.log(x * 7, await import('fs').then((m) => m === 1))"
    done = node(agent, source)
    assert (done.stdout, done.exit_code) == (b"42 false\n", 0)
    failed = node(agent, "await 1\nthrow new Error('x')")
    assert failed.exit_code == 1 and b"\n    at [eval]:2:7\n" in failed.stderr
    first = node(agent, "await fail('x')")
    assert first.exit_code == 1 and b"\n    at [eval]:1:1\n" in first.stderr
    for wrong in ("await 1; a b", "import fs from 'fs'"):
        done = node(agent, wrong)
        assert done.exit_code == 1 and b"\nSyntaxError: " in done.stderr


def test_it_has_exactly_what_was_asked_for(agent: AgentClient) -> None:
    source = (
        "console.log(process.getuid(), process.getgid(), process.getgroups(), process.cwd());"
        "console.log(process.argv.slice(1), process.env, process.umask().toString(8), process.ppid);"
        "console.log(process.execArgv, process.argv[0] === process.execPath, module.paths[0]);"
        "const told = 'ulimit -n; ulimit -Hn; cat /proc/$PPID/environ';"
        "console.log(child_process.execSync(told, { encoding: 'utf8' }));"
        "const open = (n) => { try { return fs.readlinkSync(`/proc/self/fd/${n}`) } catch { return '' } };"
        "const usual = /^(pipe|anon_inode|.dev.null)/;"
        "console.log(fs.readdirSync('/proc/self/fd').map(open).filter((l) => !usual.test(l)))"
    )
    env = (("A", "é"), ("PATH", "/usr/bin:/bin"), ("B", ""))
    spec = GuestCommand(("x", "a", "b"), env, "/usr", (7, 8), ((7, 50, 60),), 0o027, zygote=source)
    done = agent.run(spec)
    lines = done.stdout.decode().replace("\0", " ").splitlines()
    assert lines[:5] == [
        "7 8 [ 8 ] /usr",
        "[ 'a', 'b' ] { A: 'é', PATH: '/usr/bin:/bin', B: '' } 27 1",
        "[] true /usr/node_modules",
        "50",
        "60",
    ], done.stderr
    assert "LD_PRELOAD" not in lines[5] and "mxc" not in lines[5]
    assert lines[-1] == "[ '' ]"  # the directory that is being read


def threads(text: bytes) -> list[dict[str, str]]:
    parts = (part.splitlines() for part in text.decode().split("--"))
    return [dict(line.split(":\t", 1) for line in lines if ":\t" in line) for lines in parts]


STATUS = (
    "require('crypto').randomBytes(8, () => console.log(fs.readdirSync('/proc/self/task').map((t) =>"
    " fs.readFileSync(`/proc/self/task/${t}/status`, 'utf8')).join('--')))"
)
"""With the threads of its pool, which begin when they are needed."""


def test_no_thread_has_privileges_or_can_regain_any(agent: AgentClient) -> None:
    allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
    found = threads(node(agent, STATUS, seccomp=allow).stdout)
    assert len(found) >= 6
    for fields in found:
        sets = [fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
        assert (sets, fields["NoNewPrivs"]) == (["0" * 16] * 5, "1")
        assert (fields["Uid"], fields["Gid"]) == ("\t".join(["1000"] * 4), "\t".join(["1000"] * 4))
        assert fields["Groups"].strip() == "" and fields["Seccomp"] == "2"


def test_a_privileged_one_keeps_them(agent: AgentClient) -> None:
    for fields in threads(node(agent, STATUS, user=(0, 0), privileged=True).stdout):
        assert (fields["NoNewPrivs"], fields["CapEff"] != "0" * 16) == ("0", True)
    assert node(agent, "console.log(process.getuid())").stdout == b"1000\n"


def test_the_filter_holds_from_the_first_line_on_and_in_every_thread(agent: AgentClient) -> None:
    number = {"x86_64": 83, "aarch64": 34}[os.uname().machine]
    instructions = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    source = (
        "try { fs.mkdirSync('/tmp/refused') } catch (e) { console.log(e.code) }"
        "fs.mkdir('/tmp/refused', (e) => console.log(e.code));"
        "new worker_threads.Worker(`require('fs').mkdirSync('/tmp/refused')`, { eval: true })"
        ".on('error', (e) => console.log(e.code))"
    )
    assert node(agent, source, seccomp=program).stdout == b"EPERM\n" * 3


def test_what_cannot_be_started_says_where_it_failed(agent: AgentClient) -> None:
    cases: tuple[tuple[dict[str, Any], Step, int], ...] = (
        ({"cwd": "/no/such"}, Step.CWD, 2),
        ({"rlimits": ((99, 1, 1),)}, Step.RLIMIT, 22),
        ({"seccomp": bytes(8)}, Step.SECCOMP, 22),
        ({"user": (0, 0)}, Step.IDENTITY, 1),  # a root without privileges: no thread could give them up alone
    )
    for more, step, errno in cases:
        failed = node(agent, "console.log(1)", **more).failed
        assert failed is not None
        assert (failed.step, failed.errno) == (step, errno)


def test_what_its_start_took_is_not_the_programs(agent: AgentClient) -> None:
    source = (
        "let now; do now = process.cpuUsage(); while (now.user < 3e5); console.log(now.user + now.system)"
    )
    done = node(agent, source)
    assert done.ended is not None
    assert 0 < done.ended.user_us + done.ended.system_us < int(done.stdout)
    limited = node(agent, "console.log('on'); while (true);", rlimits=((0, 1, 2),))
    assert limited.exit_code == -signal.SIGXCPU and limited.stdout == b"on\n"


def test_the_environment_is_heeded_where_an_interpreter_would(agent: AgentClient) -> None:
    source = "console.log(new Date(0).getHours(), require('module').globalPaths.slice(0, 2))"
    done = node(agent, source, env=(*PATH, ("TZ", "XYZ3"), ("NODE_PATH", "/one:/two")))
    assert done.stdout == b"21 [ '/one', '/two' ]\n"
    assert node(agent, source).stdout.startswith(b"0 ")


def test_a_terminal_asks_and_is_answered(agent: AgentClient) -> None:
    source = (
        "const r = require('readline').createInterface({ input: process.stdin, output: process.stdout });"
        "const { isTTY, columns } = process.stdout;"
        "r.question('> ', (a) => { console.log('got', a, isTTY, columns); r.close() })"
    )
    stream = agent.start(GuestCommand(("node",), PATH, zygote=source, tty=(20, 30)))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.INPUT, stream, b"answer\n")
    done = agent.finish(stream)
    assert b"got answer true 30" in done.stdout and done.exit_code == 0


def test_several_run_at_once(agent: AgentClient) -> None:
    source = "process.stdin.pipe(process.stdout)"
    streams = [agent.start(GuestCommand(("node",), PATH, zygote=source)) for _ in range(4)]
    for stream in reversed(streams):
        agent.send(Kind.INPUT, stream, b"%d" % stream)
        agent.send(Kind.INPUT_END, stream)
    assert [agent.finish(stream).stdout for stream in streams] == [b"%d" % stream for stream in streams]


def test_signals_and_timeouts_reach_it(agent: AgentClient) -> None:
    assert node(agent, "setTimeout(() => {}, 60000)", timeout=(200, 200, 15)).exit_code == -15
    source = (
        "process.on('SIGINT', () => { console.log('told'); process.exit(5) });"
        "console.log('on'); setInterval(() => {}, 9)"
    )
    stream = agent.start(GuestCommand(("node",), PATH, zygote=source))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.SIGNAL, stream, agent_codec.number(signal.SIGINT))
    done = agent.finish(stream)
    assert (done.exit_code, done.stdout[-5:]) == (5, b"told\n")


@pytest.mark.parametrize("end", ["", "; process.exit()", "; process.on('beforeExit', () => {})"])
def test_much_output_flows_to_its_end(agent: AgentClient, end: str) -> None:
    assert len(node(agent, f"console.log('x'.repeat(3 << 20)){end}").stdout) == (3 << 20) + 1


def test_what_it_does_to_itself_hurts_nobody_else(agent: AgentClient) -> None:
    for source in (
        "for (let fd = 0; fd < 40; fd++) try { fs.closeSync(fd) } catch {}\nprocess.kill(process.pid, 9)",
        "for (let n = 1; n < 3000; n++) if (n !== process.pid) try { process.kill(n, 9) } catch {}",
        "for (const name of Object.getOwnPropertyNames(globalThis)) delete globalThis[name]",
        "Object.prototype.then = 1; Array.prototype[Symbol.iterator] = null",
        "require('inspector').open(0)",
    ):
        node(agent, source)
        assert node(agent, "console.log('fine')").stdout == b"fine\n"


def test_nothing_is_left_of_the_one_before(agent: AgentClient) -> None:
    assert node(agent, "globalThis.left = 1; process.env.LEFT = '1'; console.log(process.pid)").exit_code == 0
    done = node(agent, "console.log(typeof left, process.env.LEFT)")
    assert done.stdout == b"undefined undefined\n"


def test_those_that_wait_and_are_killed_come_back(agent: AgentClient) -> None:
    agent.ask(Kind.SYNC)
    killer = (
        "for (const n of fs.readdirSync('/proc').map(Number).filter((n) => n > 1 && n !== process.pid))"
        " process.kill(n, 9)"
    )
    assert node(agent, killer, user=(0, 0), privileged=True).ended is not None
    deadline = time.monotonic() + 30
    while (done := node(agent, "console.log('again')")).stdout != b"again\n":
        # What was to become the program may be dying still when it is chosen.
        assert done.failed.step is Step.ZYGOTE if done.failed else done.exit_code == -signal.SIGKILL
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_they_survive_a_signal_to_everybody_and_a_greeting(agent: AgentClient) -> None:
    agent.send(Kind.SIGNAL, 0, agent_codec.number(signal.SIGKILL), Flag.EVERY)
    assert node(agent, "console.log('alive')").stdout == b"alive\n"
    stream = agent.start(GuestCommand(("node",), PATH, zygote="console.log('x'.repeat(1 << 20))"))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.CREDIT, stream, agent_codec.number(1), Channel.STDOUT)
    assert agent.hello().has_zygote
    agent.last_stream = 0
    assert node(agent, "console.log('alive')").stdout == b"alive\n"


def test_what_is_to_be_copied_has_its_next_one_ready(agent: AgentClient) -> None:
    node(agent, "")
    assert agent.ask(Kind.SYNC).kind is Kind.DONE
    assert agent_codec.read_report(agent.ask(Kind.REPORT).payload).processes in (2, 3)  # one waits, or two
