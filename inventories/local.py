# This host.
#
#   mxc-ops prep host --inventory inventories/local.py
#   pyinfra inventories/local.py mxc_ops/prep/deploys/host.py
#
# Both do the same and keep the same receipts; "mxc-ops prep host" alone means this host, too.

hosts = (
    ["@local"],
    {
        # What this host is prepared for when --backend does not say it.
        "mxc_backends": ["bubblewrap"],
        # And for which features: "network", "rootless", "sessions" …
        "mxc_features": [],
    },
)
