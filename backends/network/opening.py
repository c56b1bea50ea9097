"""A sandbox's network as it is: opened before anything of it starts, closed after its end (effectful)."""

from __future__ import annotations

import os
from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from contextlib import suppress
from threading import Lock
from weakref import WeakSet

from backends.egress.settings import EgressSettings, Listener, Rules
from backends.errors import BackendUnavailable, LaunchFailed, MxcError, Problem
from backends.frozen import replace
from backends.guest_etc import INSIDE_ID
from backends.inside.codec import spec_memfd
from backends.inside.protocol import ContainerIds, UserNamespace
from backends.linux.numbers import take
from backends.linux.uid_range import configured_range, lease
from backends.network.arrange import Given, after_rules, before_rules, bridge_places, layout
from backends.network.counters import counters_request, tables, tables_request
from backends.network.egress import HOST_SETS
from backends.network.exact_sets import filling
from backends.network.facts import Bridge, host_addresses
from backends.network.gate import Asked, Gate
from backends.network.layout import Layout
from backends.network.nflog import bind_messages
from backends.network.outcome import NetworkOutcome, concluded, proxy_lost
from backends.network.plan import TAP, HelperUplink, NetworkPlan, Opening
from backends.network.policy import NetworkPolicy
from backends.network.ruleset import LOG_GROUP, is_ours, ruleset, waking
from backends.network.serving import Served
from backends.network.steps import Ask, Await, Enter, Helper, Listen, Log, Run, Serve, Step, Tap, Watch

__all__ = ["Network", "open_network"]

_LOADING_MS = 30_000
_WAKING_MS = 5_000  # meanwhile the rules that hold hear of no address that the host gets
_LOG_MIB = 4
_FIX_LOADING = "mxc-ops doctor --feature network"
_NOT_LOADED = (
    "{} says that it has loaded the rules of the sandbox's network, and the kernel does not have them"
)
_BACKLOG = 1024
_RANDOM_BYTES = 6
_FIX_RANGE = "mxc-ops prep host --backend bubblewrap --yes"


class Network:
    """Everything of it that runs beside one sandbox: a gate, and where something listens, who serves that.

    `tap` is a machine's end of its link. It is all gone when this is closed, or whoever has it ends.
    """

    def __init__(self, plan: NetworkPlan, launcher: str, users: UserNamespace | None) -> None:
        self._plan = plan
        self._held: list[int] = []
        self._root = os.geteuid() == 0
        self.tap: int | None = None
        self._served: Served | None = None
        self._generation = 0
        self._table = ""
        self._policy = plan.policy
        self._place: int | None = None  # the lock of it, on the bridge
        self._one_at_a_time = Lock()
        self._gate = Gate(launcher)
        _open.add(self)
        try:
            self._output = self._hold(os.memfd_create("output", os.MFD_CLOEXEC))
            self._log, self._read_log = self._sink("log")
            self._events, self._read_events = self._sink("events")
            self._given = self._taken()
            self._gate.enter(self._entering(users), self._place)
            self._make()
        except BaseException:
            self.close()
            raise

    @property
    def namespace(self) -> int:
        return self._gate.network

    @property
    def gate(self) -> int:
        """A pidfd of the gate, without which the sandbox must not go on: nothing is told of it then."""
        return self._gate.pidfd

    @property
    def users(self) -> int | None:
        """The user namespace that the network belongs to; None: the host's."""
        return self._gate.users

    @property
    def decisions(self) -> tuple[int, int]:
        """Where, of a sandbox that is kept, the rules' decisions come, as messages of records
        (`steps.logged`), and the proxy's, as lines. Who reads them has copies of the descriptors."""
        return self._read_log, self._read_events

    def replace(self, policy: NetworkPolicy) -> None:
        """Hold this policy from now on; connections that it does not allow go no further.

        It must need no other way out than the network was opened with. Raises `LaunchFailed`: then the one
        before holds, or, where it cannot be had back, the network ends and the sandbox with it.
        """
        plan = self._plan
        if (policy.needs_uplink and plan.uplink is None) or (policy.needs_names and not plan.filters):
            raise LaunchFailed(_other_way_out())
        with self._one_at_a_time:
            where, before = self._layout(), self._table
            try:
                self._load(policy, where)
                if self._served is not None:
                    self._served.replace(Rules(policy.names, policy.denied_names, policy.deny))
            except BaseException:
                self._take_back(where, before)
                raise
            self._policy = policy

    def _load(self, policy: NetworkPolicy, where: Layout) -> None:
        """Each time under a generation of its own: what an earlier one let through is judged anew."""
        self._generation += 1
        rules = ruleset(policy, where, generation=self._generation)
        nft = (self._plan.nft, "-f", "-")
        self._gate.run(nft, rules.asleep, _LOADING_MS)
        found = self._tables()
        self._check_loaded(rules.table in found)
        if self._plan.uplink is not None:  # an address that came since they were read is in the sets before
            self._gate.do([(_watch(self._plan, rules.table, anew=True), ())])
        self._gate.run(nft, waking(rules.table, sorted(found.keys() - {rules.table})), _WAKING_MS)
        self._check_loaded(self._tables() == {rules.table: True})
        self._table = rules.table

    def _take_back(self, where: Layout, before: str) -> None:
        """Have the rules that were there, in the table `before`. Where that fails nobody knows which hold."""
        try:
            if self._tables() != {before: True}:
                self._load(self._policy, where)
        except BaseException as error:
            self._gate.close()
            if not isinstance(error, MxcError | OSError):
                raise

    def end(self) -> NetworkOutcome:
        """Close it, once everything in the sandbox has ended; what there is to tell: of one that is kept,
        counts only, and of whatever cannot be told, nothing."""
        try:
            lost = b""
            if self._served is not None:
                lost = proxy_lost() if self._served.has_ended else b""
                self._served.close()
            counted = b""
            with suppress(MxcError, OSError):
                counted = self._gate.ask(counters_request(self._table))
            kept = self._plan.kept
            proxied = b"" if kept else _whole(self._events)
            return concluded(counted, b"" if kept else _whole(self._log), proxied + lost)
        finally:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._served is not None:
            self._served.close()
        self._gate.close()
        while self._held:
            os.close(self._held.pop())

    def _hold(self, fd: int) -> int:
        self._held.append(fd)
        return fd

    def _sink(self, name: str) -> tuple[int, int]:
        """Where decisions go, and where they are read: a file, or, while the sandbox runs, from a socket."""
        if not self._plan.kept:
            whole = self._hold(os.memfd_create(name, os.MFD_CLOEXEC))
            return whole, whole
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
        return self._hold(theirs.detach()), self._hold(ours.detach())

    def _taken(self) -> Given:
        if not self._root:
            return Given(groups=(INSIDE_ID, INSIDE_ID))
        if not isinstance(self._plan.uplink, Bridge):
            return Given()
        first, count = bridge_places(self._plan.uplink)
        place = take("places", first, count)
        if place is None:
            message = f"all {count} places on {self._plan.uplink.name} are in use"
            raise BackendUnavailable(
                Problem("bridge_full", "/network", message, fix="wait for a sandbox to end"), retryable=True
            )
        self._place = self._hold(place.lock)
        return Given(place.number, f"mxc{os.urandom(_RANDOM_BYTES).hex()}")

    def _entering(self, users: UserNamespace | None) -> Enter:
        helps = isinstance(self._plan.uplink, HelperUplink)
        if self._root:
            return Enter(os.getpid(), helps=helps)
        if users is not None:
            return Enter(os.getpid(), users.ids, users.mappers, helps)
        return Enter(os.getpid(), (ContainerIds(INSIDE_ID, os.geteuid(), os.getegid()),), (), helps)

    def _make(self) -> None:
        """All of it in one go, in the order in which nothing is ever open that the rules do not hold."""
        plan = self._plan
        wanted = ruleset(plan.policy, self._layout())
        rules = spec_memfd(wanted.unfilled.encode())
        loaded = os.memfd_create("loaded", os.MFD_CLOEXEC)
        inside = [opening for opening in plan.openings if opening.inside]
        load = Run((plan.nft, "-f", "-"), _LOADING_MS)
        steps: list[Asked] = [(step, ()) for step in before_rules(plan, self._given)]
        if plan.routed:
            steps.append((Tap(TAP), ()))
        steps += [
            (Log(bind_messages(LOG_GROUP), 0 if plan.kept else _LOG_MIB), (self._log,)),
            (load, (rules, self._output)),
            *((Ask(some), (loaded,)) for some in filling(wanted.table, wanted.exact)),
            (Ask(tables_request()), (loaded,)),
        ]
        if plan.uplink is not None:
            steps.append((_watch(plan, wanted.table), ()))
        steps += [(step, self._beside(step)) for step in after_rules(plan, self._given)]
        steps += [(Listen(one.address, one.port, _kind(one), _BACKLOG), ()) for one in inside]
        try:
            made = [self._hold(fd) for fd in self._gate.do(steps)]
            self._check_loaded(wanted.table in tables(_whole(loaded)))
            self._table = wanted.table
        finally:
            os.close(rules)
            os.close(loaded)
        if plan.routed:
            self.tap = made.pop(0)
        if plan.openings:
            self._serve(inside, made)

    def _tables(self) -> dict[str, bool]:
        """The rulesets that are in the kernel; whether each one holds."""
        found = tables(self._gate.ask(tables_request()))
        return {name: holds for name, holds in found.items() if is_ours(name)}

    def _check_loaded(self, is_there: bool) -> None:
        """Raises `LaunchFailed` where rules are not in the kernel though nft(8) says so."""
        if not is_there:
            message = _NOT_LOADED.format(self._plan.nft)
            raise LaunchFailed(Problem("rules_not_there", "/network", message, fix=_FIX_LOADING))

    def _layout(self) -> Layout:
        """With the host's addresses of now: the gate hears of those that come after it has entered."""
        led_out = self._plan.uplink is not None
        found = (*self._plan.own, *(host_addresses() if led_out else ()))
        return layout(replace(self._plan, host_addresses=found), self._given)

    def _beside(self, step: Step) -> tuple[int, ...]:
        return (self._output,) if isinstance(step, Helper | Await) else ()

    def _serve(self, inside: list[Opening], made: list[int]) -> None:
        policy = self._plan.policy
        outside = [opening for opening in self._plan.openings if not opening.inside]
        found = [*zip(inside, made, strict=True), *((one, self._hold(_listen(one))) for one in outside)]
        sockets: int | None = None
        if outside:
            ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
            sockets, served = self._hold(ours.detach()), theirs.detach()
            try:
                self._gate.do([(Serve(), (served,))])
            finally:
                os.close(served)
        self._served = Served(
            EgressSettings(
                names=policy.names,
                denied_names=policy.denied_names,
                deny=policy.deny,
                listeners=tuple(Listener(one.kind, fd, one.target) for one, fd in found),
                events=self._events,
                control=-1,
                sockets=sockets,
                user=self._user(),
            )
        )

    def _user(self) -> tuple[int, int] | None:
        """Whom the process becomes that serves: somebody without rights, and without others of that name."""
        if not self._root:
            return None
        uids = configured_range()
        if uids is None:
            message = "what serves a sandbox's network needs a uid of its own, and no range is recorded"
            raise BackendUnavailable(Problem("no_uid_range", "", message, fix=_FIX_RANGE))
        leased = lease(uids)
        self._hold(leased.lock)
        return leased.uid, leased.uid


_open: WeakSet[Network] = WeakSet()


def _let_go_in_child() -> None:
    """A fork of ours would keep the namespace, what listens on the host, and the locks, for all its life."""
    for network in tuple(_open):
        network.close()
    _open.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def open_network(plan: NetworkPlan, launcher: str, users: UserNamespace | None = None) -> Network:
    """Open what was planned.

    Parameters
    ----------
    launcher: absolute path of our program.
    users: what the user namespace of a caller who is not root is made with; None: their own ids alone.

    Raises `LaunchFailed` when any of it cannot be made: nothing is then left of it, and nothing was ever
    open; `BackendUnavailable` when the host has no room.
    """
    try:
        return Network(plan, launcher, users)
    except OSError as error:
        message = f"the sandbox's network could not be made: {error}"
        raise LaunchFailed(Problem("network_not_made", "/network", message)) from error


def _other_way_out() -> Problem:
    message = "the sandbox was started with another way out than this takes"
    fix = "stop the sandbox, change its network, and start it again"
    return Problem("other_way_out", "/network", message, fix=fix)


def _watch(plan: NetworkPlan, table: str, *, anew: bool = False) -> Watch:
    return Watch(plan.nft, table, HOST_SETS[4], HOST_SETS[6], anew)


def _kind(opening: Opening) -> int:
    return SOCK_STREAM if opening.is_stream else SOCK_DGRAM


def _listen(opening: Opening) -> int:
    """On the host."""
    family = AF_INET6 if ":" in opening.address else AF_INET
    listening = socket(family, _kind(opening) | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        if opening.is_stream:  # with it two may have one UDP port, and the later one gets what comes
            listening.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        if family == AF_INET6:
            listening.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        listening.bind((opening.address, opening.port))
        if opening.is_stream:
            listening.listen(_BACKLOG)
        return listening.detach()
    except OSError as error:
        listening.close()
        raise LaunchFailed(
            Problem(
                "port_not_free",
                opening.pointer,
                f"the host does not let us listen at {opening.address} port {opening.port}: {error.strerror}",
                fix=f"ss -lntup 'sport = {opening.port}' shows who does; or name another hostPort",
            )
        ) from error


def _whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
