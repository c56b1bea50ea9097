/* System calls that a sandbox has no use for. Arguments are harmless where the call is allowed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "probe.h"

#define NOTHING -1
#define ALL_FLAGS (~0ul)
#define X32_BIT 0x40000000L

static long unshare_user(char **w) { (void)w; return answer(unshare(CLONE_NEWUSER)); }
static long unshare_mount(char **w) { (void)w; return answer(unshare(CLONE_NEWNS)); }

static long finish_child(long pid)
{
    if (pid == 0)
        _exit(0);
    return answer(pid);
}

static long clone_user(char **w)
{
    (void)w;
    return finish_child(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL));
}

static long clone3_with(uint64_t flags)
{
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    return finish_child(syscall(SYS_clone3, &arguments, sizeof(arguments)));
}

static long clone3_user(char **w) { (void)w; return clone3_with(CLONE_NEWUSER); }
static long clone3_plain(char **w) { (void)w; return clone3_with(0); }

static long join_namespace(char **w)
{
    int fd = open(w[0] ? w[0] : "/proc/self/ns/net", O_RDONLY);
    return fd < 0 ? answer(fd) : answer(setns(fd, 0));
}

static long io_uring(char **w)
{
    (void)w;
    struct io_uring_params parameters = {0};
    return answer(syscall(SYS_io_uring_setup, 4, &parameters));
}

static long add_key_call(char **w)
{
    (void)w;
    return answer(syscall(SYS_add_key, "user", "mxc-probe", "x", 1, KEY_SPEC_PROCESS_KEYRING));
}

static long keyctl_call(char **w)
{
    (void)w;
    return answer(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1));
}

static long request_key_call(char **w) { (void)w; return answer(syscall(SYS_request_key, "user", "none", NULL, 0)); }

static long bpf_call(char **w)
{
    (void)w;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof(attributes));
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = attributes.value_size = 4;
    attributes.max_entries = 1;
    return answer(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)));
}

static long userfaultfd_call(char **w) { (void)w; return answer(syscall(SYS_userfaultfd, O_CLOEXEC)); }

static long perf_call(char **w)
{
    (void)w;
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(attributes)};
    return answer(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
}

static long mount_call(char **w) { (void)w; return answer(mount("none", "/tmp", "tmpfs", 0, NULL)); }
static long umount_call(char **w) { return answer(umount2(w[0] ? w[0] : "/tmp", MNT_DETACH)); }
static long remount_call(char **w) { return answer(mount("none", w[0], NULL, MS_REMOUNT | MS_BIND, NULL)); }
static long bind_call(char **w) { return answer(mount(w[0], w[1], NULL, MS_BIND, NULL)); }
static long pivot_root_call(char **w) { (void)w; return answer(syscall(SYS_pivot_root, "/", "/")); }
static long open_tree_call(char **w) { return answer(syscall(428, AT_FDCWD, w[0] ? w[0] : "/tmp", 1)); }
static long move_mount_call(char **w) { (void)w; return answer(syscall(429, NOTHING, "", NOTHING, "", 0)); }
static long fsopen_call(char **w) { (void)w; return answer(syscall(430, "tmpfs", 0)); }
static long fsmount_call(char **w) { (void)w; return answer(syscall(432, NOTHING, 0, 0)); }
static long fspick_call(char **w) { (void)w; return answer(syscall(433, AT_FDCWD, "/tmp", 0)); }
static long mount_setattr_call(char **w) { (void)w; return answer(syscall(442, AT_FDCWD, "/tmp", 0, NULL, 32)); }
static long kexec_load_call(char **w) { (void)w; return answer(syscall(SYS_kexec_load, 0, 0, NULL, ALL_FLAGS)); }
static long kexec_file_call(char **w)
{
    (void)w;
    return answer(syscall(SYS_kexec_file_load, NOTHING, NOTHING, 0, NULL, ALL_FLAGS));
}
static long init_module_call(char **w) { (void)w; return answer(syscall(SYS_init_module, NULL, 0, "")); }
static long finit_module_call(char **w) { (void)w; return answer(syscall(SYS_finit_module, NOTHING, "", 0)); }
static long reboot_call(char **w) { (void)w; return answer(syscall(SYS_reboot, 0, 0, 0, NULL)); }
static long swapon_call(char **w) { (void)w; return answer(syscall(SYS_swapon, "/nowhere", 0)); }
static long acct_call(char **w) { (void)w; return answer(syscall(SYS_acct, "/nowhere")); }
static long chroot_call(char **w) { (void)w; return answer(chroot("/")); }
static long sethostname_call(char **w) { (void)w; return answer(sethostname("probe", 5)); }
static long syslog_call(char **w) { (void)w; return answer(syscall(SYS_syslog, 10, NULL, 0)); }
static long handle_call(char **w) { (void)w; return answer(syscall(SYS_open_by_handle_at, NOTHING, NULL, 0)); }
static long trace_me(char **w) { (void)w; return answer(ptrace(PTRACE_TRACEME, 0, NULL, NULL)); }

static long become_root(char **w) { (void)w; return answer(setresuid(0, 0, 0)); }

static long pidfd_getfd_call(char **w)
{
    (void)w;
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    return pidfd < 0 ? answer(pidfd) : answer(syscall(438, pidfd, 1, 0));
}

static long own_memory(long call)
{
    char from[4] = "abc", to[4];
    struct iovec local = {to, 4}, remote = {from, 4};
    return answer(syscall(call, getpid(), &local, 1, &remote, 1, 0));
}

static long vm_readv(char **w) { (void)w; return own_memory(SYS_process_vm_readv); }
static long vm_writev(char **w) { (void)w; return own_memory(SYS_process_vm_writev); }

/* A filter that looks at numbers only takes these for others: getpid is 20 there. */
static long through_int80(char **w)
{
    (void)w;
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
    return result;
}

static long through_x32(char **w) { (void)w; return answer(syscall(X32_BIT + SYS_getpid)); }

const struct attempt call_attempts[] = {
    {"unshare-user", unshare_user}, {"unshare-mount", unshare_mount}, {"clone-user", clone_user},
    {"clone3-user", clone3_user}, {"clone3", clone3_plain}, {"setns", join_namespace},
    {"io_uring_setup", io_uring}, {"add_key", add_key_call}, {"keyctl", keyctl_call},
    {"request_key", request_key_call}, {"bpf", bpf_call}, {"userfaultfd", userfaultfd_call},
    {"perf_event_open", perf_call}, {"mount", mount_call}, {"umount", umount_call}, {"remount", remount_call},
    {"bind", bind_call}, {"pivot_root", pivot_root_call}, {"open_tree", open_tree_call},
    {"move_mount", move_mount_call}, {"fsopen", fsopen_call}, {"fsmount", fsmount_call}, {"fspick", fspick_call},
    {"mount_setattr", mount_setattr_call}, {"kexec_load", kexec_load_call}, {"kexec_file_load", kexec_file_call},
    {"init_module", init_module_call}, {"finit_module", finit_module_call}, {"reboot", reboot_call},
    {"swapon", swapon_call}, {"acct", acct_call}, {"chroot", chroot_call}, {"sethostname", sethostname_call},
    {"syslog", syslog_call}, {"open_by_handle_at", handle_call}, {"ptrace", trace_me}, {"setuid-root", become_root},
    {"pidfd_getfd", pidfd_getfd_call}, {"process_vm_readv", vm_readv}, {"process_vm_writev", vm_writev},
    {"int80", through_int80}, {"x32", through_x32}, {NULL, NULL},
};
