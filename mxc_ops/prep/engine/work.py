"""One request as a whole: all hosts at once, each in a greenlet; first the plans, then the changes."""

# pyright: reportUnknownMemberType=false
# pyinfra annotates states and contexts incompletely.

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gevent.pool import Pool
from paramiko.ssh_exception import SSHException
from pyinfra.api.config import Config
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State, StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_state

from backends.errors import MxcError
from backends.needs import Health
from mxc_ops.prep.engine.applying import apply
from mxc_ops.prep.engine.examining import examine
from mxc_ops.prep.engine.fixes import from_here
from mxc_ops.prep.engine.inventory import InventoryUnusable, choose, load
from mxc_ops.prep.engine.lock import HeldByAnother, holding
from mxc_ops.prep.engine.planning import Step, plan_items, plan_undo, planned, verify
from mxc_ops.prep.engine.session import Session, choices_for, open_session, read_receipts_again
from mxc_ops.prep.engine.tell import Teller
from mxc_ops.prep.engine.troubles import connection_trouble
from mxc_ops.prep.items import items_for, named, naming_none, needs_of, unsupported
from mxc_ops.prep.messages import Answer, Event, Request, Task
from mxc_ops.prep.operations.common import HostFailure, access

__all__ = ["Work"]

_DEFAULT_BACKENDS = ("bubblewrap",)
_MEND = "mend what the message says, then the same command again"
_CHROOTS = "@chroot/"


@dataclass
class _Plan:
    session: Session
    steps: list[Step]


class Work:
    """Carries one request out; everything that happens is told."""

    def __init__(self, request: Request, teller: Teller) -> None:
        self._request = request
        self._teller = teller
        self._plans: dict[str, _Plan] = {}
        self._items: dict[str, list[str]] = {}
        self._failed: set[str] = set()
        self._hosts: list[Host] = []

    def run(self, ask: Callable[[], Answer]) -> None:
        """Plan, ask, change. What is wrong with the command line or inventory is INVALID, for no host."""
        try:
            inventory = load(self._request)
            self._hosts = choose(inventory, self._request.limit, self._request.exclude)
        except InventoryUnusable as error:
            fix = "see inventories/fleet.py for an example"
            self._teller.tell(Event.INVALID, message=str(error), fix=fix, usage=error.usage)
            self._teller.tell(Event.FINISHED)
            return
        state = self._make_state(inventory)
        with ctx_state.use(state):
            self._teller.tell(Event.HOSTS, names=[host.name for host in self._hosts])
            self._on_each(state, self._hosts, self._plan)
            approved = set[str]() if self._nobody_has_what_was_asked_for() else self._approved(ask)
            state.set_stage(StateStage.Execute)
            state.is_executing = True
            self._on_each(state, [host for host in self._hosts if host.name in approved], self._change)
            for plan in self._plans.values():
                plan.session.host.disconnect()
        self._teller.tell(Event.FINISHED)

    def _approved(self, ask: Callable[[], Answer]) -> set[str]:
        self._teller.tell(Event.ASK)
        return set(ask().apply)

    def _nobody_has_what_was_asked_for(self) -> bool:
        """Whether an item was named that is not to be had, which is told.

        A host that could not be looked at might have it.
        """
        known = dict.fromkeys(name for names in self._items.values() for name in names)
        nowhere = naming_none(known, self._request.items)
        if not nowhere or len(self._items) < len(self._hosts):
            return False
        message = f"no item of what is to be prepared is called {nowhere[0]!r}"
        self._teller.tell(
            Event.INVALID, message=message, fix=f"--item may name {', '.join(known)}", usage=True
        )
        return True

    def _make_state(self, inventory: Inventory) -> State:
        state = State(inventory, Config(), check_for_changes=False)
        state.set_stage(StateStage.Connect)
        state.set_stage(StateStage.Prepare)
        return state

    def _on_each(self, state: State, hosts: Iterable[Host], work: Callable[[Host], None]) -> None:
        """Do the work for all hosts at once, no more than so many; what goes wrong stays with its host."""

        def at(host: Host) -> None:
            with ctx_state.use(state), ctx_config.use(state.config.copy()), ctx_host.use(host):
                try:
                    work(host)
                except HostFailure as error:
                    self._fail(Event.INVALID, host, str(error), _MEND)
                except (PyinfraError, SSHException, EOFError, OSError) as error:
                    self._fail(Event.UNREACHABLE, host, *connection_trouble(host, error))
                except MxcError as error:
                    problem = error.problems[0]
                    expected = f"; expected: {problem.expected}" if problem.expected else ""
                    self._fail(Event.INVALID, host, problem.message + expected, problem.fix)
                except Exception as error:
                    self._fail(Event.INVALID, host, f"{type(error).__name__}: {error}", "please report this")

        pool = Pool(self._request.parallel or state.config.PARALLEL or len(self._hosts))
        for _ in pool.imap_unordered(at, hosts):
            pass

    def _fail(self, event: Event, host: Host, message: str, fix: str = "") -> None:
        self._failed.add(host.name)
        self._teller.tell(event, host.name, message=message, fix=fix)

    def _stop(self, host: Host) -> None:
        fix = "mend the hosts that failed, then the same command again"
        self._teller.tell(Event.STOPPED, host.name, message="not begun: too many hosts failed", fix=fix)

    def _may_go_on(self) -> bool:
        return len(self._failed) * 100 <= self._request.fail_percent * len(self._hosts)

    def _plan(self, host: Host) -> None:
        if not self._may_go_on():
            self._stop(host)
            return
        session = open_session(host, self._request)
        facts = session.facts
        self._teller.tell(Event.HOST, host.name, distribution=facts.distribution, elevation=facts.elevation)
        match self._request.task:
            case Task.EXAMINE:
                examine(session, self._request, self._teller)
                return
            case Task.VERIFY:
                steps = verify(session)
            case Task.UNDO:
                steps = plan_undo(session, self._request.items, insist=self._request.insist)
            case Task.PREPARE:
                steps = self._wanted(session)
        self._plans[host.name] = _Plan(session, steps)
        # Such a host has failed as it is: nothing at all is changed there.
        if any(step.decision.refusal and not step.verdict for step in steps):
            self._failed.add(host.name)
        told = [planned(step, facts.system) for step in steps]
        for entry in told:
            entry["fix"] = from_here(entry["fix"], session, self._request)
        self._teller.tell(Event.PLANNED, host.name, items=told)
        # What an undo leaves is as it was before us, also where somebody else wants a restart of it.
        if session.restart and self._request.task is not Task.UNDO:
            self._teller.tell(Event.RESTART, host.name, message=session.restart)

    def _wanted(self, session: Session) -> list[Step]:
        choices = choices_for(session.host, self._request, _DEFAULT_BACKENDS)
        needs = needs_of(choices)
        trouble = unsupported(needs, session.facts)
        if trouble:
            self._teller.tell(Event.UNSUPPORTED, session.host.name, message=trouble.message, fix=trouble.fix)
            return []
        items = items_for(needs, session.facts, choices)
        steps = plan_items(session, named(items, self._request.items))
        self._items[session.host.name] = [item.identifier for item in items]
        return steps

    def _change(self, host: Host) -> None:
        plan = self._plans[host.name]
        if not self._may_go_on():
            self._stop(host)
            return
        access.set(plan.session.access)
        holder = f"{self._request.controller} for {host.name}"
        try:
            with holding(plan.session, holder, self._request.wait_s):
                read_receipts_again(plan.session)
                steps, request = plan.steps, self._request
                done, succeeded = apply(plan.session, steps, request, self._teller, self._may_go_on)
        except HeldByAnother as error:
            self._failed.add(host.name)
            fix = "wait for it: the same command with --wait 600"
            self._teller.tell(Event.HELD, host.name, message=str(error), fix=fix)
            return
        if not succeeded:
            self._failed.add(host.name)
            return
        if not self._proves(plan):
            self._failed.add(host.name)
        if any(step.decision.restart for step in done):
            self._teller.tell(
                Event.RESTART, host.name, message="what was changed takes effect at the next start"
            )

    def _proves(self, plan: _Plan) -> bool:
        """Try out what was prepared: False when something of it does not work.

        A chroot has no kernel of its own to try it on, and a part of what is needed proves nothing.
        """
        session, request = plan.session, self._request
        changed = any(step.changes for step in plan.steps)
        whole = request.task is Task.PREPARE and not request.items
        if changed and whole and not session.host.name.startswith(_CHROOTS):
            return examine(session, request, self._teller, unproven=Health.WARNING)
        return True
