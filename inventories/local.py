# This host. For the pyinfra command, with the operations of mxc_ops.prep:
#   pyinfra inventories/local.py mxc_ops.prep.operations.kernel.setting key=user.max_user_namespaces wanted='>=1024'
hosts = ["@local"]
