"""For the pyinfra command: ``pyinfra INVENTORY mxc_ops/prep/deploys/host.py``. Not to be imported."""

from mxc_ops.prep.deploys import prepare_host

prepare_host()
