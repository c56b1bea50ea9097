"""pyinfra's way to Windows hosts, ``@mxcwin/NAME``: SSH with a key, and scripts for PowerShell.

It takes the same host data as pyinfra's ``@ssh``, but host keys must be known from the start. Facts and
operations of pyinfra's own are for Unix; those of `mxc_ops.prep` in the area ``windows`` are for these hosts.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra annotates its connectors incompletely.

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any, ClassVar

import gevent
from paramiko import Channel
from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.output import echo
from pyinfra.connectors.base import DataMeta
from pyinfra.connectors.ssh import SSHConnector, connector_data_meta
from pyinfra.connectors.util import CommandOutput, OutputLine, read_output_buffers, write_stdin
from typing_extensions import override

from mxc_ops.prep.windows import clixml
from mxc_ops.prep.windows.encoding import Invocation, invocation
from mxc_ops.prep.windows.script import quote

__all__ = ["PwshSSHConnector"]

_UNIX_ONLY = ("_sudo", "_sudo_user", "_su_user", "_doas", "_doas_user", "_get_pty")


class PwshSSHConnector(SSHConnector):
    """See the module. Everything is run by Windows PowerShell 5.1, which every Windows has."""

    data_meta: ClassVar[dict[str, DataMeta]] = {
        **connector_data_meta,
        "ssh_strict_host_key_checking": DataMeta("SSH strict host key checking", "yes"),
        "ssh_connect_retries": DataMeta("Number of tries to connect via ssh", 5),
    }

    @override
    @staticmethod
    def make_names_data(name: str) -> Generator[tuple[str, dict[str, str], list[str]]]:
        yield f"@mxcwin/{name}", {"ssh_hostname": name}, ["@mxcwin"]

    @override
    def run_shell_command(
        self,
        command: str | StringCommand,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> tuple[bool, CommandOutput]:
        """Run a script.

        Raises `OperationError` for pyinfra's arguments that mean something on Unix only, and for input to a
        script that is so long that it is sent as input itself; `TimeoutError` after ``_timeout`` seconds: the
        script's own deadline then ends what runs on the host.
        """
        unknown = [name for name in _UNIX_ONLY if arguments.get(name)]
        if unknown:
            raise OperationError(f"{', '.join(unknown)} means nothing on a Windows host")
        script = command if isinstance(command, str) else command.get_raw_value()
        sent = invocation(_placed(arguments) + script)
        stdin = arguments.get("_stdin")
        if sent.stdin and stdin:
            raise OperationError("a script of this length cannot be given standard input")
        logger.debug("Running a script on %s: %s", self.host.name, command)
        if print_input:
            echo(f"{self.host.print_prefix}>>> {command}", err=True)
        code, output = self._run(sent, stdin or sent.stdin, arguments.get("_timeout"), print_output)
        return code in (arguments.get("_success_exit_codes") or [0]), output

    def _run(
        self, sent: Invocation, stdin: Any, timeout_s: int | None, print_output: bool
    ) -> tuple[int, CommandOutput]:
        channel = self._channel()
        channel.exec_command(sent.line)
        # Beside reading: what ends early does not wait for the end of its input.
        writer = gevent.spawn(_write, stdin, channel)
        try:
            output = read_output_buffers(
                _lines(channel.makefile("rb")),
                _lines(channel.makefile_stderr("rb")),
                timeout=timeout_s,
                print_output=print_output,
                print_prefix=self.host.print_prefix,
            )
            return channel.recv_exit_status(), _readable(output)
        finally:
            writer.kill()
            channel.close()

    def _channel(self) -> Channel:
        transport = self.client.get_transport() if self.client else None
        assert transport is not None, "connected first"
        return transport.open_session()


def _placed(arguments: dict[str, Any]) -> str:
    """What pyinfra's ``_env`` and ``_chdir`` come to."""
    environment: dict[str, Any] = arguments.get("_env") or {}
    lines = [f"${{env:{name}}}={quote(str(value))}\n" for name, value in environment.items()]
    if arguments.get("_chdir"):
        lines.append(f"Set-Location -LiteralPath {quote(arguments['_chdir'])}\n")
    return "".join(lines)


def _write(stdin: Any, channel: Channel) -> None:
    try:
        if stdin:
            write_stdin(stdin, channel.makefile_stdin("wb"))
        channel.shutdown_write()
    except OSError:
        return  # the script has ended: its status says how


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    """Text from whatever comes: a program may print in an encoding of its own."""
    for line in file:
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _readable(output: CommandOutput) -> CommandOutput:
    errors = [OutputLine("stderr", line) for line in clixml.decoded(output.stderr_lines)]
    return CommandOutput([line for line in output.combined_lines if line.buffer_name == "stdout"] + errors)
