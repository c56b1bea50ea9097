"""Programs that a fork of the waiting interpreter runs: what ``python3 -c`` does, they do."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.inside import agent_codec
from backends.inside.agent_protocol import Channel, Flag, GuestCommand, Kind, Step
from tests.unit.agent_client import PATH, AgentClient, Outcome, private_agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent is root in its namespaces")
ZYGOTE = (os.path.realpath(sys.executable), str(Path(__file__).parents[2] / "backends/inside/zygote.py"))


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentClient]:
    with private_agent(interpreter=("zygote", *ZYGOTE)) as client:
        yield client


def python(agent: AgentClient, source: str, stdin: bytes = b"", **more: Any) -> Outcome:
    spec = GuestCommand(("-c",), PATH, zygote=source, **more)
    return agent.run(spec, stdin)


PROGRAMS = {
    "nothing": "",
    "text": "print('é', 'two', sep='\\n', end='')",
    "both streams": "import sys; print('out'); print('err', file=sys.stderr)",
    "exit without a code": "raise SystemExit",
    "exit code": "import sys; sys.exit(7)",
    "large exit code": "raise SystemExit(256 + 3)",
    "negative exit code": "raise SystemExit(-1)",
    "true is a code": "raise SystemExit(True)",
    "exit text": "raise SystemExit('what is wrong')",
    "exit in a function": "def f():\n    raise SystemExit(4)\nf()",
    "exception": "def f():\n    1 / 0\nf()",
    "chained exception": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e",
    "exception group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "syntax error": "def f(:",
    "indentation error": "if 1:\nprint(1)",
    "interrupt": "raise KeyboardInterrupt",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)",
    "own death": "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)",
    "abort": "import os; os.abort()",
    "_exit": "import os; print('lost', end=''); os._exit(9)",
    "exit functions": "import atexit\natexit.register(print, 'bye')\nprint('hello')",
    "exit function after an error": "import atexit\natexit.register(print, 'bye')\n1 / 0",
    "threads": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()\nprint('early')",
    "a file nobody closed": "f = open('/tmp/mxc-left-open', 'w'); f.write('kept')",
    "one in a circle": "class A: pass\na = A(); a.a = a\n"
    "a.f = open('/tmp/mxc-left-open', 'w'); a.f.write('kept')",
    "finalizers": "class A:\n    def __del__(self):\n        print('gone')\na = A()",
    "a hook": "import sys\nsys.excepthook = lambda *a: print('hooked', a[0].__name__)\n1 / 0",
    "a closed stream": "import sys; sys.stdout.close()",
    "the input": "import sys; print(input()); print(sys.stdin.read()); print(sys.stdin.closed)",
    "the end of the input": "input(); input(); input()",
    "its module": "print(__name__, __doc__, __spec__, __loader__.__name__, sorted(globals()))",
    "its names": "import sys; print(sys.argv, sys.path[0], sys.stdout.name)",
    "its streams": "import sys\n"
    "for s in sys.stdin, sys.stdout, sys.stderr: print(s.name, s.mode, s.encoding, s.line_buffering)",
    "main module": "import sys; print(sys.modules['__main__'].__dict__ is globals())",
    "a fork": "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('parent' if pid else 'child')",
    "a program": "import subprocess; print(subprocess.run(['echo', 'x'], capture_output=True).stdout)",
    "several processes": "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p:"
    "\n    print(p.map(abs, [-1, -2]))",
    "a loop": "import asyncio\nasync def f():\n    return await asyncio.sleep(0, 5)\nprint(asyncio.run(f()))",
    "recursion": "def f(n): return n and f(n - 1)\nprint(f(900))",
    "pickles": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_a_new_interpreter_does(agent: AgentClient, name: str) -> None:
    source, stdin = PROGRAMS[name], b"first\nsecond\n"
    left = Path("/tmp/mxc-left-open")
    left.unlink(missing_ok=True)
    expected = subprocess.run(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", ZYGOTE[0], "-c", source],
        input=stdin, capture_output=True, check=False, cwd="/",
        env={**dict(PATH), "LANG": "C.UTF-8"}, timeout=60,
    )  # fmt: skip
    content = left.read_text() if left.exists() else None
    left.unlink(missing_ok=True)
    seen = python(agent, source, stdin)
    assert (seen.stdout, seen.stderr, seen.exit_code) == (
        expected.stdout,
        expected.stderr,
        expected.returncode,
    )
    assert (left.read_text() if left.exists() else None) == content
    left.unlink(missing_ok=True)


def test_it_has_exactly_what_was_asked_for(agent: AgentClient) -> None:
    source = (
        "import os, sys, resource\n"
        "print(os.getuid(), os.getgid(), os.getgroups(), os.getcwd(), resource.getrlimit(7))\n"
        "print(sys.argv, sorted(os.environ), oct(os.umask(0)), os.getsid(0) == os.getpid(), os.getppid())\n"
        "print(sorted(os.listdir('/proc/self/fd')))"
    )
    spec = GuestCommand(("a", "b"), (("A", "é"),), "/usr", (7, 8), ((7, 50, 60),), 0o027, zygote=source)
    assert agent.run(spec).stdout.decode().splitlines() == [
        "7 8 [] /usr (50, 60)",
        "['a', 'b'] ['A'] 0o27 True 1",
        "['0', '1', '2', '3']",
    ]


@pytest.mark.parametrize("uid", [0, 1000])
def test_it_has_no_privileges_and_cannot_regain_any(agent: AgentClient, uid: int) -> None:
    status = python(agent, "print(open('/proc/self/status').read())", user=(uid, uid)).stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    sets = [fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    assert (sets, fields["NoNewPrivs"]) == (["0" * 16] * 5, "1")


def test_a_privileged_one_keeps_them(agent: AgentClient) -> None:
    source = "print(open('/proc/self/status').read())"
    status = python(agent, source, user=(0, 0), privileged=True).stdout.decode()
    assert "CapEff:\t0000000000000000" not in status
    assert "NoNewPrivs:\t0" in status


def test_the_environment_is_heeded_where_an_interpreter_would(agent: AgentClient) -> None:
    source = "import sys, time, os; print(time.tzname[0], sys.path[1]); os.write(1, b'second')"
    env = (*PATH, ("TZ", "XYZ3"), ("PYTHONPATH", "/one:/two"), ("PYTHONUNBUFFERED", "1"))
    done = agent.run(GuestCommand(("-c",), env, zygote=source))
    assert done.stdout == b"XYZ /one\nsecond"
    assert agent.run(GuestCommand(("-c",), PATH, zygote=source)).stdout.startswith(b"secondUTC ")


def test_what_an_interpreter_does_of_the_environment_is_done_late(agent: AgentClient) -> None:
    source = (
        "import sys, warnings, faulthandler, asyncio\n"
        "print(sys.dont_write_bytecode, faulthandler.is_enabled(), sys.warnoptions, len(warnings.filters))\n"
        "asyncio.run(asyncio.sleep(0)); loop = asyncio.new_event_loop()\n"
        "print(loop.get_debug(), flush=True); loop.close()\n"
        "warnings.warn('mine', UserWarning)"
    )
    settings = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONWARNINGS": "default::ResourceWarning,error::UserWarning",
    }
    done = agent.run(GuestCommand(("-c",), (*PATH, *settings.items()), zygote=source))
    real = subprocess.run(
        [ZYGOTE[0], "-c", source], env={"PATH": "/usr/bin:/bin", **settings}, capture_output=True, check=False
    )
    assert (done.stdout, done.exit_code) == (real.stdout, real.returncode)
    assert done.stderr.splitlines()[-1] == real.stderr.splitlines()[-1] == b"UserWarning: mine"
    plain = python(agent, source)
    assert plain.stdout.startswith(b"False False [] ") and plain.exit_code == 0


def test_a_module_that_a_filter_of_warnings_names_is_confined(agent: AgentClient, tmp_path: Path) -> None:
    (tmp_path / "named.py").write_text(
        "import os\nprint(os.listdir('/proc/self/fd'), os.getuid(), flush=True)\n"
    )
    env = (*PATH, ("PYTHONWARNINGS", "error::named.Mine"), ("PYTHONPATH", str(tmp_path)))
    source = "import os; print(os.listdir('/proc/self/fd'), os.getuid(), flush=True)"
    early, late = agent.run(GuestCommand(("-c",), env, zygote=source, user=(0, 0))).stdout.splitlines()
    assert early == late, "nothing of the agent's is open"


def test_the_filter_holds_from_the_first_line_on(agent: AgentClient) -> None:
    number = {"x86_64": 83, "aarch64": 34}[os.uname().machine]
    instructions = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    done = python(agent, "import os; os.mkdir('/tmp/refused')", seccomp=program)
    assert b"PermissionError" in done.stderr


def test_what_cannot_be_started_says_where_it_failed(agent: AgentClient) -> None:
    cases: tuple[tuple[dict[str, Any], Step, int], ...] = (
        ({"cwd": "/no/such"}, Step.CWD, 2),
        ({"rlimits": ((99, 1, 1),)}, Step.RLIMIT, 22),
        ({"seccomp": bytes(8)}, Step.SECCOMP, 22),
    )
    for more, step, errno in cases:
        failed = python(agent, "print(1)", **more).failed
        assert failed is not None
        assert (failed.step, failed.errno) == (step, errno)


def test_no_two_have_the_same_random_numbers(agent: AgentClient) -> None:
    source = "import random, uuid, os; print(random.random(), random.randbytes(8).hex(), uuid.uuid4())"
    lines = [python(agent, source).stdout for _ in range(4)]
    assert len({word for line in lines for word in line.split()}) == 12


def test_a_terminal_asks_and_is_answered(agent: AgentClient) -> None:
    stream = agent.start(GuestCommand(("-c",), PATH, zygote="print('got', input('> '))", tty=(20, 30)))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.INPUT, stream, b"answer\n")
    done = agent.finish(stream)
    assert b"got answer" in done.stdout
    assert done.exit_code == 0


def test_several_run_at_once(agent: AgentClient) -> None:
    source = "import sys; print(sys.stdin.read())"
    streams = [agent.start(GuestCommand(("-c",), PATH, zygote=source)) for _ in range(5)]
    for stream in reversed(streams):
        agent.send(Kind.INPUT, stream, b"%d" % stream)
        agent.send(Kind.INPUT_END, stream)
    assert [agent.finish(stream).stdout for stream in streams] == [b"%d\n" % stream for stream in streams]


def test_signals_and_timeouts_reach_it(agent: AgentClient) -> None:
    assert python(agent, "import time; time.sleep(60)", timeout=(200, 200, 15)).exit_code == -15
    stream = agent.start(GuestCommand(("-c",), PATH, zygote="print('on', flush=True)\nwhile 1: pass"))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.SIGNAL, stream, agent_codec.number(signal.SIGINT))
    done = agent.finish(stream)
    assert (done.exit_code, done.stderr[-18:]) == (-2, b"KeyboardInterrupt\n")


def test_much_output_flows(agent: AgentClient) -> None:
    assert len(python(agent, "print('x' * (3 << 20))").stdout) == (3 << 20) + 1


def test_what_it_does_to_itself_hurts_nobody_else(agent: AgentClient) -> None:
    for source in (
        "import os; os.closerange(0, 1000); os.kill(os.getpid(), 9)",
        "import os, signal\nfor n in range(1, 3000):\n    try: os.kill(n, 9) if n != os.getpid() else None\n"
        "    except OSError: pass",
        "import sys, gc; sys.modules.clear(); gc.collect()",
        "import os; os.killpg(0, 9)",
    ):
        python(agent, source)
        assert python(agent, "print('fine')").stdout == b"fine\n"


def test_one_that_is_killed_comes_back(agent: AgentClient) -> None:
    python(agent, "print(1)")
    killer = "import os\nos.kill(2, 9)"  # the first process that an agent starts
    waiting = agent.start(GuestCommand(("sleep", "60"), PATH))
    assert python(agent, killer, user=(0, 0), privileged=True).ended is not None
    deadline = time.monotonic() + 30
    while (done := python(agent, "print('again')")).failed is not None:
        assert done.failed.step is Step.ZYGOTE
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert done.stdout == b"again\n"
    agent.send(Kind.SIGNAL, waiting, agent_codec.number(signal.SIGKILL))
    agent.finish(waiting)


def test_it_survives_a_signal_to_everybody_and_a_greeting(agent: AgentClient) -> None:
    agent.send(Kind.SIGNAL, 0, agent_codec.number(signal.SIGKILL), Flag.EVERY)
    assert python(agent, "print('alive')").stdout == b"alive\n"
    stream = agent.start(GuestCommand(("-c",), PATH, zygote="print('x' * (1 << 20))"))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.CREDIT, stream, agent_codec.number(1), Channel.STDOUT)
    assert agent.hello().has_zygote
    agent.last_stream = 0
    assert python(agent, "print('alive')").stdout == b"alive\n"


def test_what_is_to_be_copied_has_its_next_fork_ready(agent: AgentClient) -> None:
    assert agent.ask(Kind.SYNC).kind is Kind.DONE
    assert agent_codec.read_report(agent.ask(Kind.REPORT).payload).processes == 3
