"""The native driver: Hyperlight's own packages, in a confined process of their own.

One run goes this way: `observe` finds the packages and whether a sandbox of theirs really runs here, `plan`
lays the run out or refuses it, `launch` starts `worker` in bubblewrap, and that makes the machine, in which
`in_guest` runs the program. `refusals` says what the packages cannot hold: all of that is for QEMU.
"""
