"""One-shot runs against bare bubblewrap, in one go: ``python -m tests.bench.bench_run``.

Ratios are what counts; the figures that the project promises stand beside them. Where upstream's executors
are installed (npm package @microsoft/mxc-sdk), name them in MXC_EXECUTOR_07 and MXC_EXECUTOR_10 to see them
side by side.
"""

from __future__ import annotations

import asyncio
import compileall
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mxc_ops import Policy, Sandbox, arun, run
from tests.bench.bare import BareBwrap, temporary_folder
from tests.bench.measure import Durations, in_turns, once_ms, table

ROUNDS = int(os.environ.get("MXC_BENCH_ROUNDS", "40"))
RUNS = int(os.environ.get("MXC_BENCH_RUNS", "500"))
IN_FLIGHT = 8
GIB = 1024**3
CHECKOUT = Path(__file__).resolve().parents[2]
TRUE = ["true"]
GIBIBYTE = ["head", "-c", str(GIB), "/dev/zero"]


def main() -> None:
    compileall.compile_dir(CHECKOUT, quiet=2, maxlevels=6)
    with temporary_folder() as folder:
        bare = BareBwrap(Path(folder))
        captured_true(bare)
        throughput(bare)
        cold_start(Path(folder))
        one_gibibyte(bare)


def captured_true(bare: BareBwrap) -> None:
    policy = Policy()
    with asyncio.Runner() as loop:
        durations = in_turns(
            {
                "bare bwrap": lambda: bare.run(TRUE),
                "mxc_ops.run": lambda: run(policy, TRUE),
                "mxc_ops.arun": lambda: loop.run(arun(policy, TRUE)),
            },
            ROUNDS,
        )
    table("Captured `true` (promised: run within x 1.5 of bare)", durations, against="bare bwrap")


def throughput(bare: BareBwrap) -> None:
    sandbox = Sandbox(Policy())

    def threads(one: Callable[[], object]) -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for started in [pool.submit(one) for _ in range(RUNS)]:
                started.result()

    async def tasks() -> None:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with slots:
                await sandbox.arun(TRUE)

        await asyncio.gather(*(one() for _ in range(RUNS)))

    durations = in_turns(
        {
            "bare bwrap, threads": lambda: threads(lambda: bare.run(TRUE)),
            "mxc_ops.run, threads": lambda: threads(lambda: sandbox.run(TRUE)),
            "mxc_ops.arun, tasks": lambda: asyncio.run(tasks()),
        },
        2,
    )
    title = f"{RUNS} runs, {IN_FLIGHT} in flight (promised: within x 1.3 of bare)"
    table(title, durations, against="bare bwrap, threads")


def cold_start(folder: Path) -> None:
    numbers = itertools.count()
    environment = {**os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    path = folder / "config.json"

    def command(*argv: str) -> None:
        subprocess.run(argv, env=environment, check=True, capture_output=True)

    def hello(name: str, version: str = "1.0.0") -> str:
        process = {"commandLine": "echo hello"}
        config = {"version": version, "containerId": name, "containment": "bubblewrap", "process": process}
        path.write_text(json.dumps(config))
        return str(path)

    scripts = Path(sys.executable).parent
    mxc_exec, mxc_ops = str(scripts / "mxc-exec"), str(scripts / "mxc-ops")
    candidates: dict[str, Callable[[], object]] = {
        "python -c pass": lambda: command(sys.executable, "-c", "pass"),
        "mxc-exec, never seen (promised: min < 180 ms)": lambda: command(mxc_exec, hello(str(next(numbers)))),
        "mxc-exec, seen before (promised: min < 60 ms)": lambda: command(mxc_exec, hello("seen")),
        "mxc-ops --help (promised: < 60 ms)": lambda: command(mxc_ops, "--help"),
        "mxc_ops.run in a running process": lambda: run(Policy(), "echo hello"),
    }
    executors = {
        "MXC_EXECUTOR_07": ("upstream's executor 0.7", "0.7.0-alpha"),
        "MXC_EXECUTOR_10": ("upstream's executor 1.0", "1.0.0"),
    }
    for variable, (name, version) in executors.items():
        executor = os.environ.get(variable)
        if executor:
            candidates[name] = _executor(command, executor, lambda version=version: hello("seen", version))
    table("Hello from a cold process", in_turns(candidates, max(5, ROUNDS // 2)))


def _executor(command: Callable[..., None], executor: str, config: Callable[[], str]) -> Callable[[], object]:
    return lambda: command(executor, config())


def one_gibibyte(bare: BareBwrap) -> None:
    policy = Policy()
    durations: Durations = {
        "bare bwrap | cat": [_into_cat(lambda out: bare.run(GIBIBYTE, stdout=out)) for _ in range(3)],
        "mxc_ops.run(stdout=…) | cat": [
            _into_cat(lambda out: run(policy, GIBIBYTE, stdout=out).check()) for _ in range(3)
        ],
        "mxc_ops.run, captured": [once_ms(lambda: run(policy, GIBIBYTE).check()) for _ in range(3)],
    }
    table("1 GiB through stdout (promised: at pipe speed)", durations, against="bare bwrap | cat")


def _into_cat(send: Callable[[int], object]) -> float:
    with (
        Path(os.devnull).open("wb") as nowhere,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=nowhere) as reader,
    ):
        assert reader.stdin is not None

        def whole() -> None:
            assert reader.stdin is not None
            send(reader.stdin.fileno())
            reader.stdin.close()
            reader.wait()

        return once_ms(whole)


if __name__ == "__main__":
    main()
