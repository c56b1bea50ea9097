"""The machine of an object and the interpreter in it, from one run to the next.

Whoever uses it has a ticket, that is, their turn: nobody else does anything with it meanwhile.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any

from backends.agent.from_loop import from_loop
from backends.errors import LaunchFailed, Problem
from backends.inside.agent_protocol import RANDOM_BYTES
from backends.linux.duplicates import Duplicates
from backends.qemu.loop_thread import submit
from mxc_ops.hyperlight import output
from mxc_ops.hyperlight.exchange import Exchange, Lost, TimedOut
from mxc_ops.hyperlight.machine import Blueprint, CodeMachine, Copy, Started
from mxc_ops.hyperlight.result import OutputFiles
from mxc_ops.hyperlight.running import Interpreter
from mxc_ops.hyperlight.settings import Settings, command_for, interpreter_source, make_blueprint
from mxc_ops.hyperlight.turns import Ticket

__all__ = ["KeptMachine"]

_GREET_S = 30.0
_KILL_S = 20.0


class KeptMachine:
    """Started when it is first asked for. `close` it in every case."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: tuple[Blueprint, Duplicates] | None = None
        self._machine: CodeMachine | None = None
        self._interpreter: Interpreter | None = None

    @property
    def blueprint(self) -> Blueprint:
        """Made once. Raises what `mxc_ops.run` raises before a command starts."""
        if self._made is None:
            if self._settings.output_dir:
                output.check_folder(self._settings.output_dir)
            self._made = make_blueprint(self._settings)
        return self._made[0]

    @property
    def template(self) -> str:
        """The key of what all machines of it are clones of."""
        return self.blueprint.plan.template.key

    @property
    def is_made(self) -> bool:
        """Whether there is anything to close."""
        return self._made is not None

    @property
    def was_started(self) -> bool:
        """Whether there is a machine, or was one that has ended by itself."""
        return self._machine is not None

    @property
    def is_lost(self) -> bool:
        """Whether there is no machine, or it has ended by itself."""
        return self._machine is None or self._machine.is_lost

    def machine(self, ticket: Ticket) -> CodeMachine:
        """Raises `LaunchFailed` for one that has ended by itself."""
        if self._machine is None:
            self._start(ticket, None)
        assert self._machine is not None
        if self._machine.is_lost:
            self._drop()
            raise self._machine.loss()
        return self._machine

    def interpreter(self, ticket: Ticket) -> tuple[Interpreter, bool]:
        """One that is ready, and whether it has just begun."""
        machine = self.machine(ticket)
        if self._interpreter is not None:
            return self._interpreter, False
        command = command_for(self.blueprint, interpreter_source(self._settings.runtime))
        made = self._over_sockets(ticket, lambda theirs: machine.start_interpreter(command, theirs))
        try:
            with ticket.talking(made.exchange):
                made.exchange.greet(time.monotonic() + _GREET_S)
        except (Lost, TimedOut) as error:
            self.drop_interpreter()
            raise _not_ready(error, bytes(made.started.words)) from error
        except BaseException:
            self.drop_interpreter()
            raise
        return made, True

    def drop_interpreter(self) -> None:
        """End it, whatever it does, also when the ticket was stopped."""
        interpreter = self._interpreter
        self._drop()
        if interpreter is not None:
            submit(interpreter.started.kill()).result(_KILL_S)

    def forget_interpreter(self) -> None:
        """It has ended."""
        self._drop()

    def end_program(self, program: Started) -> None:
        """One that was started in the machine, whatever becomes of the machine."""
        submit(program.kill()).result(_KILL_S)

    def copy(self, ticket: Ticket) -> Copy:
        """Raises `LaunchFailed`."""
        machine, interpreter = self.machine(ticket), self._interpreter
        if interpreter is not None and not interpreter.exchange.at_rest:
            message = "the interpreter has said something that nobody asked for"
            raise LaunchFailed(Problem("not_at_rest", "", message, fix="run something, and try again"))
        return ticket.on_loop(machine.copy(None if interpreter is None else interpreter.started))

    def restore(self, ticket: Ticket, copy: Copy) -> None:
        """Instead of the machine that is. Raises `LaunchFailed`: there is none then."""
        self.end()
        machine = self._start(ticket, copy)
        standing = copy.standing
        if standing is not None:
            made = self._over_sockets(ticket, lambda theirs: machine.take_interpreter(standing, theirs))
            made.exchange.seed(os.urandom(RANDOM_BYTES))

    def bring_output(self, ticket: Ticket) -> OutputFiles:
        """What is in the code's folder, onto the host."""
        settings, machine = self._settings, self.machine(ticket)
        wanted = output.wanted(settings.output_at, settings.output_bytes)
        download, loop = ticket.on_loop(machine.download(wanted))
        try:
            return output.bring(from_loop(download, loop), settings.output_dir, settings.output_bytes)
        finally:
            submit(download.aclose()).result()

    def connect(self) -> socket.socket:
        """A way to the machine's agent, for files. Raises `LaunchFailed`; needs no turn."""
        machine = self._machine
        if machine is None or machine.is_lost:
            message = "there is no machine: it was not started, or has ended"
            raise LaunchFailed(Problem("no_machine", "", message, fix="start()"))
        ours, theirs = socket.socketpair()
        try:
            submit(machine.serve(theirs))
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    def bring_back(self, ticket: Ticket) -> None:
        """Read-write grants. Raises `CopyBackFailed`."""
        machine = self._machine
        if machine is not None and self._settings.policy.read_write and not machine.is_lost:
            self.drop_interpreter()
            ticket.on_loop(machine.bring_back())

    def end(self) -> None:
        """The machine, with all that is in it, also when the ticket was stopped; the next one starts from
        nothing. Idempotent."""
        self._drop()
        machine, self._machine = self._machine, None
        if machine is not None:
            _ended(machine)

    def close(self) -> None:
        """All of it, and for good."""
        try:
            self.end()
        finally:
            if self._made is not None:
                self._made[1].close()

    def _start(self, ticket: Ticket, copy: Copy | None) -> CodeMachine:
        blueprint, made = self.blueprint, self._made
        assert made is not None  # with the blueprint
        machine = CodeMachine(blueprint, made[1])
        if copy is not None:
            self._machine = machine  # should it not start: there was one, and its state is gone
        try:
            ticket.on_loop(machine.start(copy))
        except BaseException:  # stopped, it may have started all the same
            _ended(machine)
            raise
        self._machine = machine
        return machine

    def _over_sockets(
        self, ticket: Ticket, start: Callable[[socket.socket], Coroutine[Any, Any, Started]]
    ) -> Interpreter:
        ours, theirs = socket.socketpair()
        try:
            started = ticket.on_loop(start(theirs))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._interpreter = Interpreter(started, Exchange(ours))
        return self._interpreter

    def _drop(self) -> None:
        interpreter, self._interpreter = self._interpreter, None
        if interpreter is not None:
            interpreter.exchange.close()


def _ended(machine: CodeMachine) -> None:
    """End it; interrupted, this returns after its end all the same: it uses descriptors of ours."""
    ending = submit(machine.end())
    try:
        ending.result()
    except BaseException:
        wait({ending})
        raise


def _not_ready(error: Lost | TimedOut, words: bytes) -> LaunchFailed:
    why = error.why if isinstance(error, Lost) and error.why else "it ended, or did not answer in time"
    said = words.decode(errors="backslashreplace").strip()
    message = f"the interpreter in the guest is not ready: {why}" + (f"; it said: {said}" if said else "")
    return LaunchFailed(Problem("interpreter_not_ready", "", message))
