"""Hyperlight: micro-VMs without a guest kernel, through the packages that its makers publish."""
