"""An SSH server that answers as Windows' own would, from a `machine.Machine` in a file.

``python -m tests.prep.windows.scripted_end FOLDER`` serves the machine in ``FOLDER/machine.json`` to the key
in ``FOLDER/client.pub``, prints its port, and writes every script that arrives to
``FOLDER/transcript.jsonl``. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import asyncssh

from tests.prep.windows.machine import UNSCRIPTED, Answer, Machine

_LINE = re.compile(
    r"powershell\.exe -NoLogo -NoProfile -NonInteractive -EncodedCommand ([A-Za-z0-9+/=]+)", re.ASCII
)
_LONGEST_LINE = 8191
_HELD = 75
# PowerShell adds this to whatever else is on standard error.
_PROGRESS = (
    '#< CLIXML\r\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
    '<Obj S="progress" RefId="0"><TN RefId="0"><T>System.Object</T></TN><MS><I64 N="SourceId">1</I64>'
    '<PR N="Record"><AV>Preparing modules for first use.</AV></PR></MS></Obj></Objs>\r\n'
)
_FROM_INPUT = "$text=(-join @($input))"


class _End:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "machine.json"

    async def serve(self, process: asyncssh.SSHServerProcess[str]) -> None:
        line = process.command or ""
        script = ""
        matched = _LINE.fullmatch(line)
        if matched and len(line) <= _LONGEST_LINE:
            script = b64decode(matched.group(1)).decode("utf-16-le")
            if script.startswith(_FROM_INPUT):
                script = b64decode(await process.stdin.read()).decode()
        if "# mxc:hold " in script:
            answer = await self._hold(script, process)
        elif "# mxc:test " in script:
            answer = await _tested(script, process)
        else:
            # cmd.exe would run anything; what we do not send on purpose is a mistake.
            answer = (
                self._answer(script) if script else Answer(error=f"no such program: {line}", code=UNSCRIPTED)
            )
        self._note(script or line, answer)
        if process.is_closing():
            return
        process.stdout.write("".join(f"{text}\r\n" for text in answer.stdout))
        if answer.error:
            process.stderr.write(f"{answer.error}\r\n{_PROGRESS}")
        process.exit(answer.code)

    def _answer(self, script: str) -> Answer:
        machine = Machine.load(self._path)
        answer = machine.answer(script)
        machine.save(self._path)
        return answer

    async def _hold(self, script: str, process: asyncssh.SSHServerProcess[str]) -> Answer:
        found = re.search(r"^# mxc:hold (.*)$", script, re.MULTILINE)
        assert found
        machine = Machine.load(self._path)
        if machine.holder:
            return Answer([machine.holder], code=_HELD)
        machine.holder = json.loads(found.group(1))["holder"]
        machine.save(self._path)
        try:
            await process.stdin.read()
        finally:
            machine = Machine.load(self._path)
            machine.holder = ""
            machine.save(self._path)
        return Answer()

    def _note(self, script: str, answer: Answer) -> None:
        entry = {"script": script, "stdout": answer.stdout, "stderr": answer.error, "exit": answer.code}
        with (self._folder / "transcript.jsonl").open("a") as transcript:
            transcript.write(json.dumps(entry) + "\n")


async def _tested(script: str, process: asyncssh.SSHServerProcess[str]) -> Answer:
    """For tests of the connection itself: ``{"stdout", "stderr", "exit", "reads", "waits", "bytes"}``.

    `reads`: standard input comes back; `waits`: it goes on until the connection ends; `bytes`: printed as
    they are, in hexadecimal digits.
    """
    found = re.search(r"^# mxc:test (.*)$", script, re.MULTILINE)
    assert found
    told = json.loads(found.group(1))
    lines: list[str] = told.get("stdout", [])
    if told.get("reads"):
        lines += (await process.stdin.read()).splitlines()
    if told.get("waits"):
        await process.wait_closed()
    if "bytes" in told:
        channel: Any = process.channel
        channel.set_encoding(None)
        channel.write(bytes.fromhex(told["bytes"]))
        channel.set_encoding("utf-8")
    return Answer(lines, told.get("stderr", ""), told.get("exit", 0))


async def _main(folder: Path) -> None:
    key: Any = asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType] - incompletely annotated
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        authorized_client_keys=str(folder / "client.pub"),
        server_version="OpenSSH_for_Windows_9.5",
        process_factory=_End(folder).serve,
        password_auth=False,
        kbdint_auth=False,
    )
    public = key.export_public_key().decode().strip()
    print(json.dumps({"port": server.get_port(), "key": public}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
