"""The variables that tell a workload where its proxy is (pure). Source: policy-semantics.md §3.3."""

from __future__ import annotations

from backends.network.policy import NetworkPolicy

__all__ = ["is_proxy_variable", "proxy_environment", "uses_proxy"]

_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
_EXCEPTIONS = "NO_PROXY"
_TAKEN = frozenset((*_NAMES, _EXCEPTIONS))


def uses_proxy(policy: NetworkPolicy) -> bool:
    """Whether a proxy is, or may later be, a sandbox's way out: the caller's own, or ours for names."""
    return policy.proxy is not None or policy.needs_names


def is_proxy_variable(name: str) -> bool:
    """In whatever case: programs read both, and some read any."""
    return name.upper() in _TAKEN


def proxy_environment(
    entries: tuple[tuple[str, str], ...], url: str, *, empty_no_proxy: bool
) -> tuple[tuple[str, str], ...]:
    """The variables of a workload whose way out is a proxy, in place of the caller's own of these names.

    Parameters
    ----------
    entries: what the caller wants, as (name, value).
    url: where the sandbox finds the proxy: ``http://HOST:PORT``.
    empty_no_proxy: set both spellings of ``NO_PROXY`` to nothing (LXC, WSL containers); else there is none.
    """
    kept = tuple((name, value) for name, value in entries if not is_proxy_variable(name))
    given = tuple((name, url) for upper in _NAMES for name in (upper, upper.lower()))
    none = ((_EXCEPTIONS, ""), (_EXCEPTIONS.lower(), "")) if empty_no_proxy else ()
    return (*kept, *given, *none)
