"""Rules of kernel settings and modules."""

from __future__ import annotations

import pytest

from mxc_ops.prep.rules import rule
from tests.unit.deciding import applied, at_rest

KEY = "net.ipv4.ip_forward"
DROP_IN = f"/etc/sysctl.d/zz-mxc-ops-{KEY}.conf"
FORWARD = {"key": KEY, "wanted": "1", "kernel_default": "0"}


@pytest.mark.parametrize(
    ("seen", "wanted"), [(None, "1"), ("1", "1"), ("96365", ">=1024"), ("1024", ">=1024")]
)
def test_a_kernel_setting_that_is_absent_or_right_is_left_alone(seen: str | None, wanted: str) -> None:
    assert at_rest(rule("kernel.setting").decide(seen, [], {}, [], key="a.b", wanted=wanted))


@pytest.mark.parametrize("earlier", [None, "# by hand\n"])
def test_a_kernel_setting_lasts_and_its_way_back_restores_value_and_file(earlier: str | None) -> None:
    kind, named = rule("kernel.setting"), {"key": "a.b", "wanted": ">=1024"}
    drop_in = "/etc/sysctl.d/zz-mxc-ops-a.b.conf"
    texts = {} if earlier is None else {drop_in: earlier}
    first = kind.decide("0", [], texts, ["/etc/sysctl.d", "/etc"], **named)
    after = applied(texts, first)
    assert after[drop_in].endswith("a.b = 1024\n")
    assert at_rest(kind.decide("1024", [], after, [], **named))
    record = {"prior": first.prior, "made": first.made}
    back = kind.reverse("1024", after, **record, **named)
    assert applied(after, back) == texts
    assert back.commands[0] == "printf '%s\\n' 0 > /proc/sys/a/b"
    assert at_rest(kind.reverse("0", texts, **record, **named))
    drifted = kind.reverse("77", after, **record, **named)
    assert "a.b is now '77', we made it '1024'" in drifted.refusal


@pytest.mark.parametrize(("seen", "unloads"), [("available", True), ("loaded", False)])
def test_a_module_that_others_loaded_stays(seen: str, unloads: bool) -> None:
    kind, named = rule("kernel.module"), {"module": "br_netfilter"}
    first = kind.decide(seen, {}, ["/etc"], **named)
    after = applied({}, first)
    assert at_rest(kind.decide("loaded", after, [], **named))
    back = kind.reverse("loaded", after, [], prior=first.prior, made=first.made, **named)
    assert any("rmmod br_netfilter" in command for command in back.commands) == unloads
    assert not any("modprobe" in command for command in back.commands)
    assert at_rest(kind.reverse("loaded", {}, [], prior=first.prior, made=first.made, **named))
    edited = dict.fromkeys(after, "others\n")
    assert kind.reverse("loaded", edited, [], prior=first.prior, made=first.made, **named).refusal


def test_a_module_that_the_kernel_lacks_is_refused() -> None:
    decision = rule("kernel.module").decide("absent", {}, [], module="br_netfilter")
    assert "no module br_netfilter" in decision.refusal and not decision.commands


def test_a_setting_that_a_restart_would_lose_is_kept_and_one_that_somebody_keeps_is_not_ours() -> None:
    decide = rule("kernel.setting").decide
    by_chance = decide("1", [], {}, ["/etc/sysctl.d", "/etc"], **FORWARD)
    assert applied({}, by_chance) == {DROP_IN: f"# mxc-ops prep host\n{KEY} = 1\n"}
    assert not any("/proc/sys" in command for command in by_chance.commands)
    kept = [{"path": "/usr/lib/sysctl.d/50-theirs.conf", "value": "1"}]
    assert at_rest(decide("1", kept, {}, [], **FORWARD))


def test_only_what_differs_goes_back_as_it_may_be_read_only_or_gone() -> None:
    rules = rule("kernel.setting")
    first = rules.decide("1", [], {}, ["/etc/sysctl.d", "/etc"], **FORWARD)
    record = {"prior": first.prior, "made": first.made}
    for seen in ("1", None):
        back = rules.reverse(seen, applied({}, first), **record, **FORWARD)
        assert back.commands == (f"rm -f {DROP_IN}",)
    other = rules.reverse("0", applied({}, first), **record, **FORWARD)
    assert other.commands[0] == "printf '%s\\n' 1 > /proc/sys/net/ipv4/ip_forward" and other.refusal


def test_who_overrules_our_drop_in_is_named_and_a_second_run_changes_nothing() -> None:
    decide = rule("kernel.setting").decide
    theirs = {"path": "/etc/sysctl.d/zzz-hard.conf", "value": "0"}
    first = decide("0", [theirs], {}, ["/etc/sysctl.d", "/etc"], **FORWARD)
    assert "/etc/sysctl.d/zzz-hard.conf makes it 0" in first.notice
    ours = {"path": DROP_IN, "value": "1"}
    second = decide("1", [ours, theirs], applied({}, first), ["/etc/sysctl.d", "/etc"], **FORWARD)
    assert at_rest(second) and second.notice == first.notice
