# A fleet. Copy this file, put your own hosts in it, then:
#
#   mxc-ops prep host --inventory fleet.py                    what would change, on every host
#   mxc-ops prep host --inventory fleet.py --limit canary     one group first; it asks before it changes
#   mxc-ops doctor    --inventory fleet.py                    what works there, proved by doing it
#   mxc-ops prep verify --inventory fleet.py --json           drift, for monitoring
#   pyinfra fleet.py mxc_ops/prep/deploys/host.py             the same by plain pyinfra
#
# It is a program: lists may be computed. Each variable is a group, usable with --limit and --exclude: a list
# of hosts, or (hosts, data); one that begins with "_" is none. A host may be a name or (name, data); its data
# win over its groups', later groups' over earlier ones'.

# How all of them are reached.
_ssh = {
    "ssh_user": "ops",
    "ssh_key": "~/.ssh/id_ed25519",
    # A host whose key is not in this file is not trusted, and reported as unreachable. This is the default;
    # fill the file once, from a network that you trust: ssh-keyscan HOST >> known_hosts
    "ssh_strict_host_key_checking": "yes",
    "ssh_known_hosts_file": "~/.ssh/known_hosts",
    # An sshd refuses connections when many come at once (MaxStartups), so we try again. 5 is the default.
    "ssh_connect_retries": 5,
    # Jump hosts, other ports, aliases: everything that ssh_config(5) can say: "ProxyJump bastion.example" …
    # "ssh_config_file": "~/.ssh/config",
}
# No passwords here: --ask-sudo-password and --ask-ssh-password ask for them, and nothing keeps them.

# Workers that run one-shot commands in bubblewrap. Nothing is compiled on them: the controller's launcher is
# brought there, with its checksum.
workers = (
    [f"worker-{number}.example" for number in range(1, 4)],
    {**_ssh, "mxc_backends": ["bubblewrap"], "mxc_features": ["network"], "mxc_launcher": "push"},
)

# Hosts for long-lived containers, with an image that was built elsewhere.
containers = (
    ["containers-1.example", ("containers-2.example", {"ssh_port": 2222})],
    {
        **_ssh,
        "mxc_backends": ["bubblewrap", "lxc"],
        "mxc_features": ["image"],
        "mxc_images": {
            "base": {
                "source": "/srv/images/base.image",
                "sha256": "0000000000000000000000000000000000000000000000000000000000000000",
            },
        },
    },
)

# Hosts for microVMs. The feature says that an image is wanted, too: this one is brought.
machines = (
    ["vm-1.example"],
    {
        **_ssh,
        "mxc_backends": ["microvm"],
        "mxc_features": ["image"],
        "mxc_images": {
            "python": {
                "source": "/srv/images/python.image",
                "sha256": "0000000000000000000000000000000000000000000000000000000000000000",
            },
        },
    },
)

# Tried first. A host may be in several groups.
canary = ["worker-1.example", "containers-1.example"]
