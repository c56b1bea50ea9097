/* Becoming somebody without any privilege, for good. */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

/* Ambient capabilities are always among the permitted ones. */
static int has_no_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    if (syscall(SYS_capset, &header, data) < 0 || syscall(SYS_capget, &header, data) < 0)
        return 0;
    errno = EPERM;
    return !(data[0].effective | data[0].permitted | data[0].inheritable | data[1].effective | data[1].permitted |
             data[1].inheritable);
}

static int ids_are(uid_t uid, gid_t gid)
{
    uid_t real_uid, effective_uid, saved_uid;
    gid_t real_gid, effective_gid, saved_gid;
    if (getresuid(&real_uid, &effective_uid, &saved_uid) < 0 || getresgid(&real_gid, &effective_gid, &saved_gid) < 0)
        return 0;
    errno = EPERM;
    return real_uid == uid && effective_uid == uid && saved_uid == uid && real_gid == gid && effective_gid == gid &&
           saved_gid == gid && getgroups(0, NULL) == 0;
}

struct failure drop_identity(uid_t uid, gid_t gid)
{
    errno = EINVAL;
    if (uid == 0 || gid == 0 || uid == (uid_t)-1 || gid == (gid_t)-1)
        return FAILED(STEP_IDENTITY, 0);
    for (unsigned long capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL) /* EINVAL: beyond the last one */
            return FAILED(STEP_IDENTITY, 1);
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
        setresuid(uid, uid, uid) < 0)
        return FAILED(STEP_IDENTITY, 2);
    if (!has_no_capabilities() || !ids_are(uid, gid))
        return FAILED(STEP_IDENTITY, 3);
    return NO_FAILURE;
}
