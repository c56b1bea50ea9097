"""Containments: each backend is given a request and contains one process.

The ground floor of the project: nothing here imports `mxc_ops` or `vm_images`.
"""
