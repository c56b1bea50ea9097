# Windows hosts, over SSH. Copy this file, put your own hosts in it, then:
#
#   mxc-ops prep host   --inventory windows.py          what would change, on every host
#   mxc-ops prep host   --inventory windows.py --yes    do it; the report says which hosts must be restarted
#   mxc-ops prep verify --inventory windows.py --json   drift, for monitoring
#   pyinfra windows.py mxc_ops.prep.operations.windows.feature feature=VirtualMachinePlatform
#
# Once on each host, in a PowerShell of an administrator's:
#
#   Add-WindowsCapability -Online -Name OpenSSH.Server~~~~0.0.1.0
#   Set-Service sshd -StartupType Automatic; Start-Service sshd
#   # Keys of administrators have a file of their own, which only they may read:
#   $keys = "$env:ProgramData\ssh\administrators_authorized_keys"
#   Add-Content $keys (Get-Content id_ed25519.pub)
#   icacls $keys /inheritance:r /grant *S-1-5-32-544:F /grant *S-1-5-18:F
#
# Names begin with @mxcwin/, which says that PowerShell is spoken there. Each variable is a group, usable with
# --limit and --exclude: a list of hosts, or (hosts, data). A host may be a name or (name, data).

# How all of them are reached. The data are those of pyinfra's SSH connector.
_ssh = {
    # An administrator: nobody can become one in a session over SSH. Without one, it only plans.
    "ssh_user": "ops",
    "ssh_key": "~/.ssh/id_ed25519",
    # A host whose key is not in this file is not trusted, and reported as unreachable. This is the default;
    # fill the file once, from a network that you trust: ssh-keyscan HOST >> known_hosts
    "ssh_strict_host_key_checking": "yes",
    "ssh_known_hosts_file": "~/.ssh/known_hosts",
    # Jump hosts, other ports, aliases: everything that ssh_config(5) can say.
    # "ssh_config_file": "~/.ssh/config",
}

# Windows 11 on x64, for Linux containers. Their images come with: wxc-exec --setup-wslc --image NAME
containers = (["@mxcwin/build-1.example", "@mxcwin/build-2.example"], {**_ssh, "mxc_backends": ["wslc"]})

# Desktops: app containers, and a throw-away Windows. Home editions do not have the latter.
desktops = (
    [
        "@mxcwin/desk-1.example",
        ("@mxcwin/desk-2.example", {"ssh_port": 2222, "mxc_backends": ["processcontainer"]}),
    ],
    {**_ssh, "mxc_backends": ["processcontainer", "windows_sandbox"]},
)
