"""Which system calls a workload may make: the three profiles, as tables.

A profile names what it allows; everything else is refused. Calls that are known and refused answer EPERM;
calls that this table does not know, or that programs are meant to do without, answer ENOSYS, so that a libc
falls back to what it used before them. Some calls are allowed by argument only: `CHECKED` names the rule,
which `backends.linux.seccomp` compiles.

``default`` is what ordinary programs use: shells, compilers, interpreters, Java, Node, databases.
``strict`` takes from it what such programs rarely need and attackers like: all sockets but unix ones, System
V IPC, POSIX message queues, kernel AIO, file watching, memory placement, real-time scheduling, personalities.
``debug`` adds to ``default`` what debuggers and profilers need: ptrace, reading and writing other processes'
memory, kcmp, pidfd_getfd, perf events, and starting programs without address randomisation. No profile allows
mounting, kexec, bpf, io_uring, userfaultfd, the kernel's keys, or new namespaces.
"""

from __future__ import annotations

_FILES = """
read write close stat fstat lstat lseek pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 access
faccessat faccessat2 dup dup2 dup3 fcntl flock fsync fdatasync sync syncfs sync_file_range truncate
ftruncate getdents getdents64 getcwd chdir fchdir rename renameat renameat2 rmdir link linkat unlink
unlinkat symlink symlinkat readlink readlinkat chown fchown lchown fchownat umask utime utimes utimensat
futimesat statfs fstatfs newfstatat statx fallocate fadvise64 readahead sendfile splice tee copy_file_range
close_range cachestat setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr
flistxattr removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat
"""

_MEMORY = """
mmap mprotect munmap brk mremap msync mincore madvise mlock mlock2 munlock mlockall munlockall memfd_create
pkey_mprotect pkey_alloc pkey_free map_shadow_stack mseal membarrier
"""

_PROCESSES = """
fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid setpgid getpgrp getsid
setsid set_tid_address set_robust_list get_robust_list rseq arch_prctl prctl seccomp landlock_create_ruleset
landlock_add_rule landlock_restrict_self kill tkill tgkill pidfd_open pidfd_send_signal process_mrelease
getrlimit setrlimit prlimit64 getrusage times getpriority setpriority ioprio_get uname sysinfo getcpu
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_getattr
sched_get_priority_max sched_get_priority_min sched_rr_get_interval
"""

_IDENTITY = """
getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
setresgid setfsuid setfsgid setgroups capget capset
"""

_SIGNALS_AND_TIME = """
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
rt_sigsuspend sigaltstack restart_syscall pause signalfd signalfd4 nanosleep clock_nanosleep clock_gettime
clock_getres gettimeofday time getitimer setitimer alarm timer_create timer_settime timer_gettime
timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime getrandom
"""

_WAITING = """
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd
eventfd2 pipe pipe2 futex futex_waitv futex_wake futex_wait futex_requeue
"""

_SOCKETS = """
connect accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown bind listen getsockname
getpeername setsockopt getsockopt
"""

_NOT_IN_STRICT = """
msgget msgsnd msgrcv msgctl semget semop semctl semtimedop shmget shmat shmctl shmdt mq_open mq_unlink
mq_timedsend mq_timedreceive mq_notify mq_getsetattr io_setup io_destroy io_getevents io_pgetevents
io_submit io_cancel inotify_init inotify_init1 inotify_add_watch inotify_rm_watch mbind set_mempolicy
get_mempolicy set_mempolicy_home_node vmsplice remap_file_pages memfd_secret ioprio_set sched_setparam
sched_setscheduler sched_setattr adjtimex clock_adjtime
"""

_DEBUG_ONLY = "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd perf_event_open"

_ALWAYS_REFUSED = """
io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl bpf userfaultfd mount umount2
pivot_root chroot fsopen fsconfig fsmount fspick move_mount open_tree open_tree_attr mount_setattr statmount
listmount setns kexec_load kexec_file_load reboot swapon swapoff create_module init_module finit_module
delete_module get_kernel_syms query_module iopl ioperm modify_ldt syslog lookup_dcookie nfsservctl acct
quotactl quotactl_fd vhangup settimeofday clock_settime sethostname setdomainname open_by_handle_at
name_to_handle_at fanotify_init fanotify_mark migrate_pages move_pages
"""

# Their arguments lie behind pointers, which a filter cannot follow; libc does without them.
_PRETENDED_ABSENT = "clone3 openat2"

_CHECKED_EVERYWHERE = {
    "clone": "namespaces",
    "unshare": "namespaces",
    "ioctl": "terminal",
    "chmod": "mode 1",
    "fchmod": "mode 1",
    "fchmodat": "mode 2",
    "fchmodat2": "mode 2",
    "mkdir": "mode 1",
    "mkdirat": "mode 2",
    "mknod": "mode 1",
    "mknodat": "mode 2",
    "creat": "mode 1",
    "open": "open 1",
    "openat": "open 2",
    "socketpair": "unix socket",
}

_COMMON = _FILES + _MEMORY + _PROCESSES + _IDENTITY + _SIGNALS_AND_TIME + _WAITING + _SOCKETS

ALLOWED: dict[str, str] = {
    "default": _COMMON + _NOT_IN_STRICT,
    "strict": _COMMON,
    "debug": _COMMON + _NOT_IN_STRICT + _DEBUG_ONLY,
}
"""Profile → the calls allowed whatever their arguments, separated by blanks."""

CHECKED: dict[str, dict[str, str]] = {
    "default": {**_CHECKED_EVERYWHERE, "socket": "socket", "personality": "personality"},
    "strict": {**_CHECKED_EVERYWHERE, "socket": "unix socket"},
    "debug": {**_CHECKED_EVERYWHERE, "socket": "socket", "personality": "debug personality"},
}
"""Profile → call → the rule on its arguments."""

REFUSED: dict[str, str] = {
    "default": _ALWAYS_REFUSED + _DEBUG_ONLY,
    "strict": _ALWAYS_REFUSED + _DEBUG_ONLY + _NOT_IN_STRICT + " personality",
    "debug": _ALWAYS_REFUSED,
}
"""Profile → the calls answered with EPERM."""

ABSENT = _PRETENDED_ABSENT
"""Calls answered with ENOSYS although they are known, in every profile."""
