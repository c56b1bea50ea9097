"""Bridges of our own, with NAT in a table of our own, now and after a restart.

Nothing of lxc-net, libvirt or iptables is used or changed. A bridge of ours is known by its alias; one of the
same name without it is somebody else's, and refused: it could not be taken back to what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules import forwarding
from mxc_ops.prep.rules.boot import BOOT, BootFile
from mxc_ops.prep.rules.bridge import ALIAS, bring_up, ruleset
from mxc_ops.prep.rules.files import parents_of, put_back, remove_empty
from mxc_ops.prep.rules.kernel import reverse_setting, setting_reverse_queries

_Device = Mapping[str, Any] | None
_Texts = Mapping[str, str]


def _unnamed(bridge: str) -> str:
    """Where it is seen that a bridge was killed in the making, see `bridge.bring_up`."""
    return f"/sys/class/net/{bridge}-new"


def _boot_files(bridge: str, address: str, table: str, manager: str, address6: str) -> tuple[BootFile, ...]:
    script = f"/usr/local/lib/mxc-ops/network/{bridge}.sh"
    if manager not in BOOT:
        return ()
    text = f"# mxc-ops prep host: makes the bridge {bridge} and its NAT, also when they are there.\nset -e\n"
    service = BOOT[manager].file(f"mxc-ops-{bridge}", f"network bridge {bridge} and its NAT", script)
    return BootFile(script, text + bring_up(bridge, address, address6, table)), service


def _queries(bridge: str, address: str, table: str, manager: str, address6: str = "") -> tuple[Query, ...]:
    paths = [file.path for file in _boot_files(bridge, address, table, manager, address6)]
    places = list(dict.fromkeys(above for path in paths for above in parents_of(path)))
    links = [BOOT[manager].link(f"mxc-ops-{bridge}")] if manager in BOOT else []
    links.append(_unnamed(bridge))
    return (
        Query("network.Bridge", {"bridge": bridge}),
        Query("network.Subnets", {"around": str(IPv4Interface(address).network)}),
        Query("network.Table", {"table": table}),
        Query("network.ForwardChains"),
        Query("files.Texts", {"paths": paths}),
        Query("files.Existing", {"paths": [*links, *places]}),
        Query("network.Ipv6Forwarded"),
    )


def decide(
    device: _Device,
    subnets: Sequence[Mapping[str, str]],
    listed: str | None,
    chains: Sequence[Mapping[str, str]],
    texts: _Texts,
    existing: list[str],
    forwards6: bool,
    *,
    bridge: str,
    address: str,
    table: str,
    manager: str,
    address6: str = "",
) -> Decision:
    """A bridge that is up, with its addresses, its table, and what brings it back after a restart.

    Parameters
    ----------
    device: see `facts.network.Bridge`.
    subnets: networks of the host's, with the device that leads there.
    listed: our table as it is, "" when there is none, None when that cannot be told.
    chains: those that judge what is forwarded.
    texts, existing: of the files that bring it back.
    forwards6: whether the host forwards IPv6, without which the bridge has none.
    address6: as records of earlier versions have it: "", no IPv6.
    """
    has6 = address6 if forwards6 else ""
    after = f"{bridge} with {' and '.join(filter(None, (address, has6)))}, NAT in table {table}"
    rules = ruleset(bridge, address, address6, table)
    refusal, fix = _in_the_way(
        device, subnets, listed, bridge=bridge, address=address, table=table, rules=rules
    )
    if refusal:
        return Decision(_state(device, bridge), after, refusal=refusal, fix=fix)
    files = _boot_files(bridge, address, table, manager, address6)
    missing = _missing_now(device, listed, address=address, address6=has6, ruleset=rules)
    stale = [file for file in files if texts.get(file.path) != file.text]
    unlinked = manager in BOOT and BOOT[manager].link(f"mxc-ops-{bridge}") not in existing
    if stale or unlinked:
        missing.append("not kept over restarts")
    notice = _notice(chains, bridge=bridge, table=table, manager=manager, ipv6=bool(has6))
    if not missing:
        return nothing_to_do(after, notice=notice)
    service = (BOOT[manager].enable(f"mxc-ops-{bridge}"),) if stale or unlinked else ()
    return Decision(
        _state(device, bridge) if device is None else f"{bridge}: {', '.join(missing)}",
        after,
        (
            f"sh -ec {quote(bring_up(bridge, address, address6, table))}",
            *(write_file(file.path, file.text, mode=file.mode) for file in stale),
            *service,
        ),
        prior=_prior(files, texts, existing),
        made=_made(address, address6, rules, files),
        files=tuple(FileChange(file.path, texts.get(file.path), file.text) for file in stale),
        notice=notice,
        unread=set(missing) <= {_NO_IP, _NO_NFT},
    )


def _prior(files: Sequence[BootFile], texts: _Texts, existing: Sequence[str]) -> dict[str, Any]:
    return {
        "files": {file.path: _earlier(texts, file) for file in files},
        "directories": _absent_parents(files, existing),
    }


def _made(address: str, address6: str, rules: str, files: Sequence[BootFile]) -> dict[str, Any]:
    return {
        "address": address,
        "address6": address6,
        "ruleset": rules,
        "files": {file.path: file.text for file in files},
    }


def _state(device: _Device, bridge: str) -> str:
    return f"no bridge {bridge}" if device is None else f"{bridge} is there"


def _in_the_way(
    device: _Device,
    subnets: Sequence[Mapping[str, str]],
    listed: str | None,
    *,
    bridge: str,
    address: str,
    table: str,
    rules: str,
) -> tuple[str, str]:
    """What of somebody else's has the name or the addresses, and what can be done about it."""
    kind = "" if device is None else device["kind"]
    ours = device is not None and device["alias"] == ALIAS
    if device is not None and kind != "unreadable" and not (ours and kind == "bridge"):
        what = f"{bridge} is there, and not of our making"
        return what, f"if nothing needs it: ip link delete dev {bridge}"
    wanted = IPv4Interface(address).network
    for entry in subnets:
        if entry["device"] != bridge and IPv4Network(entry["subnet"]).overlaps(wanted):
            where = f" by {entry['device']}" if entry["device"] else ""
            return (
                f"{wanted} overlaps {entry['subnet']}, which this host reaches{where}",
                f"see what it is: ip address; ip route show table all to match {wanted};"
                f' or choose another: mxc_bridges = {{"{bridge}": "ADDRESS/PREFIX"}} in the inventory',
            )
    if listed and not ours and not _lines(listed) <= _lines(rules):
        what = f"nftables has a table inet {table} that is not of our making"
        return what, f"if nothing needs it: nft delete table inet {table}"
    return "", ""


def _lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if line.strip()}


_NO_IP, _NO_NFT = "cannot be told without iproute2", "its NAT cannot be told"


def _missing_now(
    device: _Device, listed: str | None, *, address: str, address6: str, ruleset: str
) -> list[str]:
    if device is None:
        return ["not there"]
    if device["kind"] == "unreadable":
        return [_NO_IP]
    others = [entry for entry in device["addresses"] if entry not in (address, address6)]
    wrong = {
        f"has no address {address}": address not in device["addresses"],
        f"has no address {address6}": bool(address6) and address6 not in device["addresses"],
        f"has an address that is not wanted: {', '.join(others)}": bool(others),
        "is down": not device["up"],
        "speaks IPv6": device["ipv6"] and not address6,
        "believes router advertisements": device["advertised"] and device["ipv6"] and bool(address6),
        "no NAT": listed == "",
        "another NAT": listed and listed != ruleset,
        _NO_NFT: listed is None,
    }
    return [what for what, is_so in wrong.items() if is_so]


def _notice(chains: Sequence[Mapping[str, str]], *, bridge: str, table: str, manager: str, ipv6: bool) -> str:
    """What we cannot do: come back without a service manager, overrule what others drop (nft(8), accept)."""
    told = [] if manager in BOOT else ["it will not come back after a restart: no service manager here"]
    for chain in chains:
        # What firewalld does not know ends in a reject at its chain's end.
        drops = chain["policy"] == "drop" or chain["table"] == "firewalld"
        judges = chain["family"] in _LET_THROUGH and (ipv6 or chain["family"] != "ip6")
        if drops and chain["table"] != table and judges:
            command = _FIREWALLD if chain["table"] == "firewalld" else _LET_THROUGH[chain["family"]]
            told.append(
                f"table {chain['table']} drops what is forwarded unless it is told otherwise; to let {bridge}"
                f" through: {command.format(bridge=bridge, **chain)}"
            )
    return "; ".join(told)


_FIREWALLD = "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
_NFT = (
    "nft insert rule {family} {table} {chain} iifname {bridge} accept &&"
    " nft insert rule {family} {table} {chain} oifname {bridge} ct state established,related accept"
)
_LEGACY = (
    "iptables-legacy -I FORWARD -i {bridge} -j ACCEPT &&"
    " iptables-legacy -I FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
)
_LET_THROUGH = {"inet": _NFT, "ip": _NFT, "ip6": _NFT, "legacy": _LEGACY}


def _earlier(texts: _Texts, file: BootFile) -> str | None:
    """What was there before us: never what is ours by its content."""
    found = texts.get(file.path)
    return None if found == file.text else found


def _absent_parents(files: Sequence[BootFile], existing: Sequence[str]) -> list[str]:
    above = dict.fromkeys(place for file in files for place in parents_of(file.path))
    return sorted((place for place in above if place not in existing), key=len, reverse=True)


def reverse(
    device: _Device,
    subnets: Sequence[Mapping[str, str]],
    listed: str | None,
    chains: Sequence[Mapping[str, str]],
    texts: _Texts,
    existing: list[str],
    forwards6: bool,
    *,
    bridge: str,
    address: str,
    table: str,
    manager: str,
    address6: str = "",
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """Bridge, table and files of ours gone; refused while something is attached, or cannot be told."""
    del subnets, chains, address, forwards6, address6
    unnamed = [f"ip link delete dev {quote(f'{bridge}-new')}"] if _unnamed(bridge) in existing else []
    ours = device is not None and device["alias"] == ALIAS
    touched = [path for path in made["files"] if texts.get(path) != prior["files"][path]]
    untold = _untold(device, listed, bridge=bridge, table=table)
    if not ours and not listed and not touched and not unnamed and not untold:
        return nothing_to_do("not there, as before")
    service = (BOOT[manager].disable(f"mxc-ops-{bridge}"),) if touched else ()
    attached = [f"{port} is attached to {bridge}" for port in device["ports"]] if device and ours else []
    changed = _changed(device, listed, texts, bridge=bridge, table=table, prior=prior, made=made)
    return Decision(
        f"{bridge} is there" if ours else f"what belongs to {bridge} is there",
        "not there, as before",
        (
            *service,
            *(
                command
                for path in touched
                for command in put_back(path, {"text": prior["files"][path], "directories": []})
            ),
            *remove_empty(prior["directories"]),
            *_without_table(listed, table),
            *([f"ip link delete dev {quote(bridge)}"] if ours else []),
            *unnamed,
        ),
        refusal="; ".join([*changed, *attached, *untold]),
        fix=f"stop what is attached: ip link show master {bridge}" if attached else _TOOLS if untold else "",
        in_use=bool(attached) and not changed,
        unread=bool(untold) and not changed,
        files=tuple(FileChange(path, texts.get(path), prior["files"][path]) for path in touched),
    )


_TOOLS = (
    "have ip and nft at work here: mxc-ops prep host --backend bubblewrap --feature network"
    " --item bubblewrap.network.package --yes"
)


def _untold(device: _Device, listed: str | None, *, bridge: str, table: str) -> list[str]:
    """What may be there without our seeing it: without a record, nobody would take it back."""
    no_ip = device is not None and device["kind"] == "unreadable"
    found = [f"whether {bridge} is ours cannot be told without iproute2"] if no_ip else []
    return found + ([f"whether table inet {table} is there cannot be told"] if listed is None else [])


def _without_table(listed: str | None, table: str) -> list[str]:
    """The command that deletes the table; of one that cannot be seen, as well as it goes."""
    in_vain = " 2>/dev/null || true" if listed is None else ""
    return [] if listed == "" else [f"nft delete table inet {quote(table)}{in_vain}"]


def _changed(
    device: _Device,
    listed: str | None,
    texts: _Texts,
    *,
    bridge: str,
    table: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> list[str]:
    """What others have made of it."""
    found: list[str] = []
    if device is not None and device["kind"] != "unreadable" and device["alias"] != ALIAS:
        found.append(f"{bridge} is no longer of our making")
    elif device is not None and device["kind"] != "unreadable":
        ours = (made["address"], made.get("address6"))
        others = [entry for entry in device["addresses"] if entry not in ours]
        found += [f"{bridge} has an address {entry} that is not ours" for entry in others]
    if listed and not _lines(listed) <= _lines(made["ruleset"]):
        found.append(f"table inet {table} has rules that are not ours")
    found += [
        f"{path} is no longer what we made it"
        for path, text in made["files"].items()
        if texts.get(path) not in (text, prior["files"][path])
    ]
    return found


RULES = {
    "bridge": Rule(_queries, decide, reverse),
    "ipv6_forwarding": Rule(
        forwarding.queries, forwarding.decide, reverse_setting, reverse_queries=setting_reverse_queries
    ),
}
