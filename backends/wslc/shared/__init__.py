"""One utility VM for several containers of one owner: ``mxcOps.wslc.sharedVm`` (config-schema.md §3.11).

A process of its own, the utility host, holds the machine; every run and every session that wants it there has
a container in it, with namespaces, a control group and disks of its own. See docs/wslc.md.
"""
