"""Linux mechanisms shared by the Linux backends: host objects, cgroups, seccomp, Landlock, uid range."""
