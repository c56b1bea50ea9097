"""Services: running now, and started with the host where something does that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do

__all__ = ["RULES", "processes"]

_States = Mapping[str, Mapping[str, Any]]
_LINKS = {"systemd": "/etc/systemd/system", "openrc": "/etc/runlevels"}
"""Where the links are that have a service started with the host (systemctl(1) enable, rc-update(8))."""
_NOT_KEPT = ("", "disabled", "enabled-runtime")
_SETTLE_S, _STOP_S = 2, 30
_NAME_LENGTH = 15  # of what the kernel keeps of a program's name (Linux: TASK_COMM_LEN)


def processes(name: str) -> str:
    """A command that prints the process ids of a program's processes on this host.

    Not those of containers, nor of a host around us: they have another root directory or other mounts.
    """
    return (
        "for process in /proc/[0-9]*; do"
        f' if read -r program 2>/dev/null < $process/comm && test "$program" = {quote(name[:_NAME_LENGTH])}'
        ' && test "$(stat -L -c %d:%i $process/root 2>/dev/null)" = "$(stat -L -c %d:%i /)"'
        ' && test "$(readlink $process/ns/mnt)" = "$(readlink /proc/self/ns/mnt)";'
        " then echo ${process#/proc/}; fi; done 2>/dev/null"
    )


def _queries(
    service: str, manager: str, otherwise: Sequence[str] = (), daemonize: str = ""
) -> tuple[Query, ...]:
    del daemonize
    return (Query("services.States", {"names": [service, *otherwise], "manager": manager}),)


def decide(
    states: _States, *, service: str, manager: str, otherwise: Sequence[str] = (), daemonize: str = ""
) -> Decision:
    """A service running, and started with the host.

    Without a service manager the program is started all the same, because what is prepared next needs it; the
    plan says that nothing will start it after a restart.

    Parameters
    ----------
    states: see `mxc_ops.prep.facts.services.States`.
    manager: systemd, openrc or none.
    otherwise: names of services that do instead. The first that is in use is taken, else the first that is
        installed, so that no second one is put beside one that a person has chosen.
    daemonize: the option by which the program goes to the background, for hosts without a service manager.
    """
    name = _chosen(states, (service, *otherwise))
    state = states.get(name)
    if state and state["kept"] == "masked":
        return Decision(
            f"{name} masked",
            _wanted(name, manager),
            refusal=f"{name} is masked: somebody has forbidden it to be started",
            fix=f"systemctl unmask {name}.service",
        )
    if manager == "none" and not daemonize and not (state and state["active"]):
        return Decision(
            f"{name} not running",
            _wanted(name, manager),
            refusal="there is no service manager here that could start it",
            fix=f"start {name}, and have whoever starts this host start it too",
        )
    notice = (
        "" if manager != "none" else f"nothing starts {name} after a restart: then prepare this host again"
    )
    starts, keeps = not (state and _running(state)), _must_be_kept(state, manager)
    if not starts and not keeps:
        return nothing_to_do(_wanted(name, manager), notice=notice)
    return Decision(
        _described(name, state),
        _wanted(name, manager),
        (*([_keep(name, manager)] if keeps else []), *([_start(name, manager, daemonize)] if starts else [])),
        prior={"active": not starts, "triggers": _active_triggers(state)},
        made={"service": name},
        notice=notice,
    )


def _chosen(states: _States, names: Sequence[str]) -> str:
    used = [
        name
        for name in names
        if name in states and (_running(states[name]) or states[name]["kept"] == "enabled")
    ]
    return next(iter([*used, *(name for name in names if name in states), *names]))


def _running(state: Mapping[str, Any]) -> bool:
    """A service that ends when it is idle runs as long as something listens for it."""
    return state["active"] or any(state["triggers"].values())


def _active_triggers(state: Mapping[str, Any] | None) -> list[str]:
    return [name for name, active in state["triggers"].items() if active] if state else []


def _must_be_kept(state: Mapping[str, Any] | None, manager: str) -> bool:
    return manager != "none" and (state is None or state["kept"] in _NOT_KEPT)


def _wanted(name: str, manager: str) -> str:
    return f"{name} running" if manager == "none" else f"{name} running, started with the host"


def _described(name: str, state: Mapping[str, Any] | None) -> str:
    if state is None:
        return f"{name} not installed"
    kept = f", {state['kept']}" if state["kept"] else ""
    return f"{name} {'running' if _running(state) else 'not running'}{kept}"


def _keep(name: str, manager: str) -> str:
    if manager == "systemd":
        return f"systemctl enable {quote(name)}.service"
    return f"rc-update add {quote(name)} default"


def _start(name: str, manager: str, daemonize: str) -> str:
    match manager:
        case "systemd":
            return f"systemctl start {quote(name)}.service"
        case "openrc":
            return f"rc-service {quote(name)} start"
        case _:
            # Who goes to the background has promised nothing yet: a wrong configuration ends it there.
            ended = f"{quote(name)} ended at once; run it without {quote(daemonize)} to see why"
            return (
                f"{quote(name)} {quote(daemonize)}; sleep {_SETTLE_S};"
                f' test -n "$({processes(name)})" || {{ echo {quote(ended)} >&2; exit 1; }}'
            )


def _links(manager: str) -> str:
    # The directory itself is listed too: a list of nothing would not tell that it is whole.
    place = _LINKS[manager]
    return f"{{ echo {place}; find {place} -type l 2>/dev/null; }} | LC_ALL=C sort"


def _snapshot(service: str, manager: str, otherwise: Sequence[str] = (), daemonize: str = "") -> str:
    del service, otherwise, daemonize
    return _links(manager) if manager in _LINKS else ""


def _measured(
    service: str, manager: str, otherwise: Sequence[str] = (), daemonize: str = ""
) -> Mapping[str, str]:
    """What is enabled along with a service, such as its sockets."""
    del service, otherwise, daemonize
    return (
        {"links": f'{_links(manager)} | LC_ALL=C comm -13 "$receipt.before" -'} if manager in _LINKS else {}
    )


def _reverse_queries(
    service: str,
    manager: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    otherwise: Sequence[str] = (),
    daemonize: str = "",
) -> tuple[Query, ...]:
    del prior
    links = Query("files.Existing", {"paths": made.get("links", [])})
    return *_queries(service, manager, otherwise, daemonize), links


def reverse(
    states: _States,
    links: list[str],
    *,
    service: str,
    manager: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    otherwise: Sequence[str] = (),
    daemonize: str = "",
) -> Decision:
    """Stopped if it was, and exactly those links gone by which it is started with the host since then.

    What a service manager has started along with it goes on, such as the sockets of other services: who needs
    it by now is not known.

    Parameters
    ----------
    links: of those that were measured, the ones that are still there.
    """
    del service, otherwise, daemonize
    name: str = made["service"]
    state = states.get(name)
    stops = state is not None and _running(state) and not prior["active"]
    if not stops and not links:
        return nothing_to_do(f"{_described(name, state)}, as before")
    woken = [trigger for trigger in _active_triggers(state) if trigger not in prior["triggers"]]
    unkeep = [f"rm -f {' '.join(quote(link) for link in links)}"] if links else []
    reload = ["systemctl daemon-reload"] if links and manager == "systemd" else []
    return Decision(
        _described(name, state),
        "as before",
        (*([_stop(name, manager, woken)] if stops else []), *unkeep, *reload),
    )


def _stop(name: str, manager: str, triggers: Sequence[str]) -> str:
    match manager:
        case "systemd":
            # Together with what would start it again at once.
            return "systemctl stop " + " ".join(quote(unit) for unit in (*triggers, f"{name}.service"))
        case "openrc":
            return f"rc-service {quote(name)} stop"
        case _:
            find = processes(name)
            return (
                f"for process in $({find}); do kill $process || true; done; left={_STOP_S};"
                f' while test -n "$({find})"; do left=$((left - 1)); sleep 1;'
                f" if test $left = 0; then echo {quote(f'{name} does not stop')} >&2; exit 1; fi; done"
            )


RULES = {"running": Rule(_queries, decide, reverse, _snapshot, _measured, _reverse_queries)}
