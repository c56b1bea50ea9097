"""Windows Sandbox: a throw-away Windows in a virtual machine."""
