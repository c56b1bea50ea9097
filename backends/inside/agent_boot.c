/* Everything before the connection, as process 1 of a virtual machine. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define PORTS "/sys/class/virtio-ports"
#define PORT_NAME "mxc.agent"

enum { WAIT_MS = 5000 };

static char configuration[1024];

void power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    _exit(0);
}

static _Noreturn void give_up(const char *what, const char *about)
{
    dprintf(STDERR_FILENO, "agent: %s %s: %s\n", what, about, strerror(errno));
    power_off();
}

static size_t slurp(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

/* The rest of the line `key value` of the configuration, "" without one. */
static char *configured(const char *key)
{
    static char value[256];
    size_t length = strlen(key);
    value[0] = '\0';
    for (const char *line = configuration; *line;) {
        size_t end = strcspn(line, "\n");
        if (end > length && end - length <= sizeof(value) && strncmp(line, key, length) == 0 && line[length] == ' ') {
            memcpy(value, line + length + 1, end - length - 1);
            value[end - length - 1] = '\0';
        }
        line += end + (line[end] == '\n');
    }
    return value;
}

static void mount_or_give_up(const char *source, const char *target, const char *type, unsigned long flags,
                             const char *options)
{
    if (mount(source, target, type, flags, options) < 0)
        give_up("mount", target);
}

static void load_modules(void)
{
    static char list[8192];
    slurp("/modules", list, sizeof(list));
    for (char *path = strtok(list, "\n"); path; path = strtok(NULL, "\n")) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
            give_up("module", path);
        close(fd);
    }
}

static int wait_for(int (*there)(void))
{
    const struct timespec moment = {0, 1000000};
    for (int waited = 0; waited < WAIT_MS; waited++) {
        if (there())
            return 0;
        nanosleep(&moment, NULL);
    }
    errno = ETIMEDOUT;
    return -1;
}

static int disk_is_there(void)
{
    return access("/dev/vda", F_OK) == 0;
}

/* The image below, memory above it: everything that is written is gone with the machine. */
static void switch_root(const char *type)
{
    if (wait_for(disk_is_there) < 0)
        give_up("no disk", "/dev/vda");
    mkdir("/lower", 0755);
    mkdir("/upper", 0755);
    mkdir("/root.new", 0755);
    mount_or_give_up("/dev/vda", "/lower", type, MS_RDONLY, NULL);
    mount_or_give_up("tmpfs", "/upper", "tmpfs", 0, "mode=0755,size=100%");
    mkdir("/upper/files", 0755);
    mkdir("/upper/work", 0755);
    mount_or_give_up("overlay", "/root.new", "overlay", 0, "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work");
    static const char *const moved[] = {"/proc", "/sys", "/dev"};
    for (size_t i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
        char target[64];
        snprintf(target, sizeof(target), "/root.new%s", moved[i]);
        mkdir(target, 0755);
        mount_or_give_up(moved[i], target, NULL, MS_MOVE, NULL);
    }
    if (chdir("/root.new") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        give_up("change", "root");
}

/* The standard streams, which must never be anything else that happens to be opened. */
static void take_streams(const char *path)
{
    int device = open(path, O_RDWR | O_NOCTTY);
    for (int fd = 0; device >= 0 && fd < 3; fd++)
        dup2(device, fd);
    if (device > 2)
        close(device);
}

static void mount_first(void)
{
    static const char *const folders[] = {"/proc", "/sys", "/dev"};
    for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
        mkdir(folders[i], 0755);
    unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755") < 0 && errno != EBUSY)
        _exit(1);
    take_streams("/dev/null");
    mount_or_give_up("proc", "/proc", "proc", safe, NULL);
    mount_or_give_up("sysfs", "/sys", "sysfs", safe, NULL);
}

/* In the root that the programs see. */
static void mount_rest(void)
{
    static const struct {
        const char *target, *type, *options;
        unsigned long flags;
    } rest[] = {
        {"/dev/pts", "devpts", "mode=0620,gid=5,ptmxmode=0666", MS_NOSUID | MS_NOEXEC},
        {"/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
        {"/run", "tmpfs", "mode=0755", MS_NOSUID | MS_NODEV},
        {"/tmp", "tmpfs", "mode=1777,size=50%", MS_NOSUID | MS_NODEV},
        {"/sys/fs/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    };
    for (size_t i = 0; i < sizeof(rest) / sizeof(*rest); i++) {
        mkdir(rest[i].target, 0755);
        mount_or_give_up(rest[i].type, rest[i].target, rest[i].type, rest[i].flags, rest[i].options);
    }
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            give_up("link", links[i][1]);
}

void set_kernel(const char *setting, const char *value)
{
    int fd = open(setting, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, value, strlen(value));
    close(fd);
}

static char port[300];

static int port_is_there(void)
{
    DIR *folder = opendir(PORTS);
    if (!folder)
        return 0;
    int found = 0;
    for (struct dirent *entry; !found && (entry = readdir(folder));) {
        char path[300], name[64];
        snprintf(path, sizeof(path), PORTS "/%s/name", entry->d_name);
        slurp(path, name, sizeof(name));
        name[strcspn(name, "\n")] = '\0';
        snprintf(port, sizeof(port), "/dev/%s", entry->d_name);
        found = strcmp(name, PORT_NAME) == 0 && access(port, F_OK) == 0;
    }
    closedir(folder);
    return found;
}

/* Lines `zygote WORD…` of an interpreter that forks, or `spare WORD…` of one that does not. */
static void configure_interpreter(void)
{
    static char *words[INTERPRETER_WORDS + 2];
    const char *line = configured("spare");
    int forks = !*line;
    size_t count = 0;
    if (forks)
        line = configured("zygote");
    for (char *word = strtok(strdup(line), " "); word && count <= INTERPRETER_WORDS; word = strtok(NULL, " "))
        words[count++] = word;
    if (count > 0)
        zygote_configure(forks, words);
}

int boot(void)
{
    umask(0);
    mount_first();
    slurp("/agent.conf", configuration, sizeof(configuration));
    load_modules();
    take_streams("/dev/console"); /* its driver is one of the modules */
    if (identity_make_files() < 0)
        give_up("identity", "files");
    const char *root = configured("root");
    if (*root && strcmp(root, "none") != 0)
        switch_root(root);
    mount_rest();
    if (identity_show_files() < 0)
        give_up("identity", "files");
    /* To compile a filter takes longer than most programs would run it: where it always allows a call it is not run. */
    set_kernel("/proc/sys/net/core/bpf_jit_enable", "0");
    /* Every module is here already; the kernel would start a program in vain each time somebody names another. */
    set_kernel("/proc/sys/kernel/modprobe", "\n");
    if (raise_loopback() < 0)
        give_up("network card", "lo");
    static const char name[] = "sandbox";
    if (sethostname(name, sizeof(name) - 1) < 0)
        give_up("name", name);
    configure_interpreter();
    if (wait_for(port_is_there) < 0)
        give_up("no port", PORT_NAME);
    int fd = open(port, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        give_up("port", port);
    return fd;
}
