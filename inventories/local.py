# This host. For the pyinfra command, with the operations of mxc_ops.prep:
#   pyinfra inventories/local.py mxc_ops.prep.operations.kernel.setting key=kernel.pid_max wanted='>=1024'
hosts = ["@local"]
