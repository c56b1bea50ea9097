"""Kernel settings and modules, now and after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules.files import parents_of, prior_text, put_back

_Texts = Mapping[str, str]


def setting_drop_in(key: str) -> str:
    """Where sysctl.d(5) finds our value for a key."""
    return f"/etc/sysctl.d/90-mxc-ops-{key}.conf"


def _setting_queries(key: str, wanted: str) -> tuple[Query, ...]:
    del wanted
    return Query("kernel.Setting", {"key": key}), *_drop_in_queries(setting_drop_in(key))


def _drop_in_queries(path: str) -> tuple[Query, ...]:
    return Query("files.Texts", {"paths": [path]}), Query("files.Existing", {"paths": parents_of(path)})


def decide_setting(
    seen: str | None, texts: _Texts, existing: list[str], *, key: str, wanted: str
) -> Decision:
    """A sysctl, set now and by a drop-in for the next boot, but only where the kernel has it and it is wrong.

    Parameters
    ----------
    seen: the value now, None where the kernel has no such key.
    wanted: a value, or ``>=N``.
    """
    if seen is None:
        return nothing_to_do("this kernel has no such setting")
    if _satisfies(seen, wanted):
        return nothing_to_do(seen)
    value = wanted.removeprefix(">=")
    drop_in = setting_drop_in(key)
    text = f"# mxc-ops prep host\n{key} = {value}\n"
    return Decision(
        seen,
        f"{value}, kept by {drop_in}",
        (write_file(drop_in, text), _set(key, value)),
        prior={"value": seen, **prior_text(texts.get(drop_in), drop_in, existing)},
        made={"value": value, "text": text},
        files=(FileChange(drop_in, texts.get(drop_in), text),),
    )


def _satisfies(seen: str, wanted: str) -> bool:
    if wanted.startswith(">="):
        return seen.isdigit() and int(seen) >= int(wanted[2:])
    return seen == wanted


def _set(key: str, value: str) -> str:
    return f"printf '%s\\n' {quote(value)} > {quote('/proc/sys/' + key.replace('.', '/'))}"


def reverse_setting(
    seen: str | None,
    texts: _Texts,
    existing: list[str],
    *,
    key: str,
    wanted: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The earlier value and the earlier drop-in, unless somebody has changed either since."""
    del wanted, existing
    drop_in = setting_drop_in(key)
    text = texts.get(drop_in)
    if (seen, text) == (prior["value"], prior["text"]):
        return nothing_to_do(f"{seen}, as before")
    # The value goes back first: what an interrupted way back has left is no drift, a lost drop-in is.
    drifted = [
        f"{name} is now {found!r}, we made it {ours!r}"
        for name, found, ours, same in (
            (key, seen, made["value"], seen in (made["value"], prior["value"])),
            (drop_in, text, made["text"], text == made["text"]),
        )
        if not same
    ]
    return Decision(
        str(seen),
        f"{prior['value']}, as before",
        (_set(key, prior["value"]), *put_back(drop_in, prior)),
        refusal="; ".join(drifted),
        files=(FileChange(drop_in, text, prior["text"]),),
    )


def module_drop_in(module: str) -> str:
    """Where modules-load.d(5) finds the name of a module."""
    return f"/etc/modules-load.d/mxc-ops-{module}.conf"


def _module_queries(module: str, proof: str = "") -> tuple[Query, ...]:
    return Query("kernel.Module", {"module": module, "proof": proof}), *_drop_in_queries(
        module_drop_in(module)
    )


def decide_module(seen: str, texts: _Texts, existing: list[str], *, module: str, proof: str = "") -> Decision:
    """A module loaded now, and by a drop-in at the next boot.

    Parameters
    ----------
    seen: ``built-in``, ``loaded``, ``available`` (can be loaded) or ``absent``.
    proof: see `facts.kernel.Module`.
    """
    del proof
    drop_in = module_drop_in(module)
    text = f"# mxc-ops prep host\n{module}\n"
    if seen == "built-in":
        return nothing_to_do("built into the kernel")
    if seen == "absent":
        return Decision(
            "this kernel has no such module",
            "loaded",
            refusal=f"this kernel has no module {module}",
            fix=f"boot a kernel with {module}, or in a container load it on the host: modprobe {module}",
        )
    if seen == "loaded" and drop_in in texts:
        return nothing_to_do(f"loaded, kept by {drop_in}")
    load = () if seen == "loaded" else (f"modprobe {quote(module)}",)
    return Decision(
        "loaded, until the next boot" if seen == "loaded" else "not loaded",
        f"loaded, kept by {drop_in}",
        (write_file(drop_in, text), *load),
        prior={"loaded": seen == "loaded", **prior_text(texts.get(drop_in), drop_in, existing)},
        made={"text": text},
        files=(FileChange(drop_in, texts.get(drop_in), text),),
    )


def reverse_module(
    seen: str,
    texts: _Texts,
    existing: list[str],
    *,
    module: str,
    proof: str = "",
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The earlier drop-in. A module that we loaded is taken out again, if nothing uses it by now."""
    del existing, proof
    drop_in = module_drop_in(module)
    found = texts.get(drop_in)
    if found == prior["text"]:
        return nothing_to_do("not kept, as before")
    drifted = "" if found == made["text"] else f"{drop_in} is now {found!r}, we made it {made['text']!r}"
    unload = () if prior["loaded"] else (f"modprobe -r {quote(module)} 2>/dev/null || true",)
    return Decision(
        f"{seen}, kept by {drop_in}",
        "not kept, as before",
        (*put_back(drop_in, prior), *unload),
        refusal=drifted,
        files=(FileChange(drop_in, found, prior["text"]),),
    )


RULES = {
    "setting": Rule(_setting_queries, decide_setting, reverse_setting),
    "module": Rule(_module_queries, decide_module, reverse_module),
}
