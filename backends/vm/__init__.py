"""Virtual machines of a host's own libvirt: what the host must have for them, and whether it works."""
