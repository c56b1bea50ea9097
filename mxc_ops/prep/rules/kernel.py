"""Kernel settings and modules, now and after a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules.files import parents_of, prior_text, put_back

_Texts = Mapping[str, str]


def setting_drop_in(key: str) -> str:
    """Where sysctl.d(5) finds our value for a key, after every file that is named as usual."""
    return f"/etc/sysctl.d/zz-mxc-ops-{key}.conf"


def setting_queries(key: str, wanted: str, kernel_default: str = "") -> tuple[Query, ...]:
    del wanted, kernel_default
    return (
        Query("kernel.Setting", {"key": key}),
        Query("kernel.Configured", {"key": key}),
        *_drop_in_queries(setting_drop_in(key)),
    )


def _drop_in_queries(path: str) -> tuple[Query, ...]:
    return Query("files.Texts", {"paths": [path]}), Query("files.Existing", {"paths": parents_of(path)})


def decide_setting(
    seen: str | None,
    configured: Sequence[Mapping[str, str]],
    texts: _Texts,
    existing: list[str],
    *,
    key: str,
    wanted: str,
    kernel_default: str = "",
) -> Decision:
    """A sysctl, set now where it is wrong, and by a drop-in where it would be wrong after a restart.

    Parameters
    ----------
    seen: the value now, None where the kernel has no such key.
    configured: what it is set to when the host starts, see `facts.kernel.Configured`.
    wanted: a value, or ``>=N``.
    kernel_default: what it is when nothing sets it; "" when that will do, or is not known.
    """
    if seen is None:
        return nothing_to_do("this kernel has no such setting")
    drop_in = setting_drop_in(key)
    notice = _overruled(configured, drop_in, wanted)
    right = _satisfies(seen, wanted)
    at_start = configured[-1]["value"] if configured else kernel_default
    kept = not at_start or _satisfies(at_start, wanted)
    if right and (kept or (notice and drop_in in texts)):
        return nothing_to_do(seen, notice=notice)
    value = seen if right else wanted.removeprefix(">=")
    text = f"# mxc-ops prep host\n{key} = {value}\n"
    return Decision(
        f"{seen}, until the next start" if right else seen,
        f"{value}, kept by {drop_in}",
        (write_file(drop_in, text), *(() if right else (_set(key, value),))),
        prior={"value": seen, **prior_text(texts.get(drop_in), drop_in, existing)},
        made={"value": value, "text": text, "path": drop_in},
        files=(FileChange(drop_in, texts.get(drop_in), text),),
        notice=notice,
    )


def _overruled(configured: Sequence[Mapping[str, str]], drop_in: str, wanted: str) -> str:
    """What somebody's file, which is read after ours, makes of the setting when the host starts."""
    if not configured or _satisfies(configured[-1]["value"], wanted):
        return ""
    path, value = configured[-1]["path"], configured[-1]["value"]
    if path.rpartition("/")[2] <= drop_in.rpartition("/")[2]:
        return ""
    return f"{path} makes it {value} when the host starts, after {drop_in}: take that line out of it"


def _satisfies(seen: str, wanted: str) -> bool:
    if wanted.startswith(">="):
        return seen.isdigit() and int(seen) >= int(wanted[2:])
    return seen == wanted


def _set(key: str, value: str) -> str:
    return f"printf '%s\\n' {quote(value)} > {quote('/proc/sys/' + key.replace('.', '/'))}"


def setting_reverse_queries(
    key: str, wanted: str, prior: Mapping[str, Any], made: Mapping[str, Any], kernel_default: str = ""
) -> tuple[Query, ...]:
    del prior, wanted, kernel_default
    return Query("kernel.Setting", {"key": key}), Query("files.Texts", {"paths": [made["path"]]})


def reverse_setting(
    seen: str | None,
    texts: _Texts,
    *,
    key: str,
    wanted: str,
    kernel_default: str = "",
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The earlier value and the earlier drop-in, unless somebody has changed either since."""
    del wanted, kernel_default
    drop_in: str = made["path"]
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
        # What is as before is not written: it may be read-only, as in a container, or gone with its module.
        (
            *(() if seen in (None, prior["value"]) else (_set(key, prior["value"]),)),
            *put_back(drop_in, prior),
        ),
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
    # This one alone: modprobe -r would take out what it needed as well, such as bridge with every bridge.
    unload = () if prior["loaded"] else (f"rmmod {quote(module)} 2>/dev/null || true",)
    return Decision(
        f"{seen}, kept by {drop_in}",
        "not kept, as before",
        (*unload, *put_back(drop_in, prior)),
        refusal=drifted,
        files=(FileChange(drop_in, found, prior["text"]),),
    )


RULES = {
    "setting": Rule(
        setting_queries, decide_setting, reverse_setting, reverse_queries=setting_reverse_queries
    ),
    "module": Rule(_module_queries, decide_module, reverse_module),
}
