"""Images for virtual machines: kernel, root filesystem and agent, packed for the backends that boot them."""
