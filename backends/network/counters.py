"""What each rule has counted, from ``nft -j list counters table inet mxc`` (libnftables-json(5)). Pure."""

from __future__ import annotations

import json
from typing import Any

from backends.frozen import frozen

__all__ = ["RuleCount", "rule_counts"]


@frozen
class RuleCount:
    """What the connections that `name` decided have sent and received; of refused ones, what they tried."""

    name: str
    packets: int
    bytes: int


def rule_counts(listing: str | bytes) -> tuple[RuleCount, ...]:
    """The counters in the order of the listing. Raises `ValueError` for what is not such a listing."""
    try:
        entries: list[dict[str, Any]] = json.loads(listing)["nftables"]
        counters = [entry["counter"] for entry in entries if "counter" in entry]
        return tuple(RuleCount(one["name"], int(one["packets"]), int(one["bytes"])) for one in counters)
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no list of nft's counters: {error!r}") from None
