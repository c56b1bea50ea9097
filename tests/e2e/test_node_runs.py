"""JavaScript source in a virtual machine: a clone's waiting node runs it as ``node -e`` would."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mxc_ops import (
    CommandKind,
    Limits,
    Outcome,
    Policy,
    PolicyRefused,
    Result,
    Sandbox,
    Session,
    VirtualMachine,
    run,
)
from tests.images import image

pytestmark = [pytest.mark.backend("vm"), pytest.mark.usefixtures("node_image")]
NODE = VirtualMachine(command=CommandKind.NODE)

FACTS = """
const local = require('./local'), shared = require('shared');
const esm = await import('./module.mjs');
const facts = {
  argv: process.argv, env: { ...process.env }, cwd: process.cwd(), umask: process.umask(),
  ids: [process.getuid(), process.getgid(), process.getgroups().filter((g) => g !== process.getgid())],
  local, shared, esm: esm.default, main: require.main === undefined, cache: Object.keys(require.cache),
  stdin: fs.readFileSync(0, 'utf8'), tty: process.stdout.isTTY ?? false,
  child: child_process.execFileSync(process.execPath, ['-p', '6 * 7'], { encoding: 'utf8' }),
};
const status = (thread) => fs.readFileSync(`/proc/self/task/${thread}/status`, 'utf8').split('\\n');
const fields = (thread) => Object.fromEntries(status(thread).map((line) => line.split(':\\t')));
await util.promisify(crypto.randomBytes)(8); // by a thread of the pool
facts.threads = fs.readdirSync('/proc/self/task').map(fields);
process.on('exit', () => console.error('at exit'));
console.log(JSON.stringify(facts));
"""

RANDOM = """
const draw = 'postMessage([Math.random(), require("crypto").randomUUID()])';
const worker = new worker_threads.Worker(`require("worker_threads").parentPort.${draw}`, { eval: true });
const [inWorker, uuidInWorker] = await new Promise((resolve) => worker.on('message', resolve));
const subtle = await crypto.webcrypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, true, ['encrypt']);
console.log(JSON.stringify({
  math: Math.random(),
  'math in a context': vm.runInNewContext('Math.random()'),
  'math in a worker': inWorker,
  bytes: crypto.randomBytes(16).toString('hex'),
  'bytes of the pool': (await util.promisify(crypto.randomBytes)(16)).toString('hex'),
  int: crypto.randomInt(2 ** 47),
  uuid: crypto.randomUUID(),
  'uuid in a worker': uuidInWorker,
  web: [...crypto.webcrypto.getRandomValues(new Uint8Array(16))].join(),
  key: Buffer.from(await crypto.webcrypto.subtle.exportKey('raw', subtle)).toString('hex'),
  prime: crypto.generatePrimeSync(64, { bigint: true }).toString(),
  salt: fs.mkdtempSync('/tmp/x'),
}));
"""


@pytest.fixture(scope="module")
def node_image() -> None:
    image("node")


def node(source: str, *, stdin: bytes | None = None, **policy: Any) -> Result:
    return run(Policy(containment="vm", vm=NODE, **policy), source, input=stdin)


def test_a_program_sees_what_a_new_node_shows_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    work = tmp_path / "work"
    (work / "node_modules" / "shared").mkdir(parents=True)
    (work / "local.js").write_text("module.exports = __filename")
    (work / "module.mjs").write_text("export default 'module'")
    (work / "node_modules" / "shared" / "index.js").write_text("exports.shared = true")
    environment = {"GREETING": "grüß dich", "PATH": "/usr/bin:/bin"}
    result = node(FACTS, stdin="Wört".encode(), read_only=[work], cwd=work, env=environment)
    assert result.ok, result.stderr
    assert result.stderr == b"at exit\n"
    facts = json.loads(result.stdout)
    assert facts["argv"] == ["/usr/bin/node"]
    assert facts["env"].items() >= environment.items() and "LD_PRELOAD" not in facts["env"]
    assert (facts["cwd"], facts["umask"], facts["ids"]) == (str(work), 0o022, [1000, 1000, []])
    assert (facts["local"], facts["shared"], facts["esm"]) == (f"{work}/local.js", {"shared": True}, "module")
    assert facts["main"] and facts["cache"] == [f"{work}/local.js", f"{work}/node_modules/shared/index.js"]
    assert (facts["stdin"], facts["tty"], facts["child"]) == ("Wört", False, "42\n")
    assert len(facts["threads"]) >= 5
    for thread in facts["threads"]:
        sets = [thread[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
        assert (sets, thread["NoNewPrivs"], thread["Seccomp"]) == (["0" * 16] * 5, "1", "2")
        assert (thread["Uid"].split(), thread["Gid"].split()) == (["1000"] * 4, ["1000"] * 4)
        assert thread["Groups"].strip() == ""


def test_two_runs_share_no_randomness() -> None:
    one, other = (json.loads(node(RANDOM).check().stdout) for _ in range(2))
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] == other[name]] == []


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("process.exitCode = 7", 7, ""),
        ("function f() { throw new Error('for a reason') }\nf()", 1, "Error: for a reason"),
        ("await Promise.reject(new RangeError('late'))", 1, "RangeError: late"),
        ("let x = ;", 1, "SyntaxError: Unexpected token ';'"),
        ("process.kill(process.pid, 'SIGTERM'); setInterval(() => {}, 1000)", 143, ""),
    ],
)
def test_how_programs_end(source: str, code: int, said: str) -> None:
    result = node(source)
    assert (result.exit_code, result.stdout) == (code, b"")
    told = result.stderr.decode()
    assert said in told and bool(told) == bool(said)
    assert "mxc" not in told and (not said or told.startswith("[eval]:1\n"))


def test_much_goes_in_and_out_and_is_whole_when_it_exits() -> None:
    data = bytes(range(256)) * (1 << 12)
    source = (
        "const all = fs.readFileSync(0); process.stderr.write(all);"
        "process.stdout.write(all, () => {}); process.exit(3)"
    )
    result = node(source, stdin=data)
    assert (result.stdout, result.stderr, result.exit_code) == (data, data, 3)


def test_limits_hold() -> None:
    memory = node("let a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))", limits=Limits(memory_mib=100))
    assert (memory.exit_code, memory.limits_hit) == (137, ("memoryMib",))
    time = node("console.log('on'); for (;;);", limits=Limits(cpu_seconds=1))
    assert (time.limits_hit, time.signal, time.stdout) == (("cpuSeconds",), signal.SIGXCPU, b"on\n")
    forks = (
        "for (let n = 0; n < 40; n++) child_process.spawn('sleep', ['9']).on('error', (e) => {"
        " console.log(e.code); process.exit(5) })"
    )
    pids = node(forks, limits=Limits(pids=30))
    assert (pids.exit_code, pids.stdout) == (5, b"EAGAIN\n")
    files = "try { for (;;) fs.openSync('/etc/passwd') } catch (e) { console.log(e.code) }"
    assert node(files, limits=Limits(open_files=64)).stdout == b"EMFILE\n"


def test_a_timeout_ends_it() -> None:
    source = (
        "process.on('SIGINT', () => { console.log('cleaned'); process.exit() }); setInterval(() => {}, 1000)"
    )
    late = node(f"console.log('up'); {source}", timeout_s=2, grace_s=60, timeout_signal="INT")
    assert (late.exit_code, late.outcome, late.stdout) == (124, Outcome.TIMED_OUT, b"up\ncleaned\n")


def test_a_dialogue_on_a_terminal() -> None:
    source = (
        "const lines = require('readline').createInterface({ input: process.stdin });"
        "process.stdout.write(`${process.stdout.isTTY} ${process.stdout.columns} who? `);"
        "lines.on('line', (name) => { console.log('hello', name); lines.close() })"
    )
    with Sandbox(Policy(containment="vm", vm=NODE, tty=True)).spawn(source) as process:
        assert process.stdout.read(len(b"true 80 who? ")) == b"true 80 who? "
        process.stdin.write(b"me\n")
        process.stdin.flush()
        assert process.stdout.read() == b"me\r\nhello me\r\n"
        assert process.wait().ok


def test_a_document_asks_for_it_and_files_come_back(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("1\n2\n3\n")
    line = f"const sum = fs.readFileSync('{tmp_path}/in', 'utf8').split('\\n').reduce((a, b) => a + +b, 0);"
    body = {
        "version": "1.1.0-alpha",
        "containment": "microvm",
        "process": {"commandLine": f"{line} fs.writeFileSync('{tmp_path}/sum', `${{sum}}`); process.exit(4)"},
        "filesystem": {"readwritePaths": [str(tmp_path)]},
        "mxcOps": {"vm": {"command": "node"}},
    }
    assert run(body).exit_code == 4
    assert (tmp_path / "sum").read_text() == "6"


def test_source_is_not_run_by_a_node_that_is_denied() -> None:
    """It waits in every clone, and /proc/self/exe of it is the denied file."""
    for denied in ("/usr/bin/node", "/usr/bin"):
        with pytest.raises(PolicyRefused) as caught:
            node("console.log(fs.readFileSync('/proc/self/exe').length)", denied=[denied])
        (problem,) = caught.value.problems
        assert (problem.code, problem.path) == ("interpreter_denied", "denied[0]")
    assert node("console.log('fine')", denied=["/usr/share/perl"]).stdout == b"fine\n"


def test_what_only_a_new_node_would_heed_is_refused() -> None:
    with pytest.raises(PolicyRefused) as caught:
        node("1", env={"NODE_OPTIONS": "--disallow-code-generation-from-strings"})
    assert caught.value.problems[0].code == "variable_unheeded"


def test_each_command_of_a_session_has_a_node_of_its_own() -> None:
    policy = Policy(containment="vm", vm=NODE)
    with Session.open(policy) as session:
        first = session.exec("globalThis.left = 1; console.log(process.pid)")
        second = session.exec("console.log(process.pid, typeof left)")
        assert first.ok and second.ok
        assert second.stdout.decode().split()[1] == "undefined"
        assert first.stdout.split()[0] != second.stdout.split()[0]
        with pytest.raises(PolicyRefused, match="NODE_DEBUG"):
            session.exec("1", policy=session.policy(env={"NODE_DEBUG": "net"}))
        seen: set[bytes] = set()
        for fork in session.fork(2).sessions:
            with fork:
                seen.add(fork.exec("console.log(Math.random(), crypto.randomUUID())").check().stdout)
        assert len({word for line in seen for word in line.split()}) == 4
