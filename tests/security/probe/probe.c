/* probe NAME[=WORD[,WORD]]...: makes each attempt in a child of its own and prints `NAME ok` or `NAME ERRNO`.
 * An attempt that executes us again goes on in its own process: its name for us is AGAIN. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

long answer(long result)
{
    return result < 0 ? -(long)errno : result;
}

static const struct attempt *find(const char *name)
{
    const struct attempt *tables[] = {call_attempts, file_attempts, process_attempts, use_attempts, mode_attempts};
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        for (const struct attempt *attempt = tables[i]; attempt->name; attempt++)
            if (strcmp(attempt->name, name) == 0)
                return attempt;
    fprintf(stderr, "probe: no attempt is called %s\n", name);
    exit(2);
}

static const struct attempt *parse(const char *argument, char **words)
{
    char *rest = strdup(argument), *name = strsep(&rest, "=");
    for (int i = 0; rest && i < MAX_WORDS; i++)
        words[i] = strsep(&rest, ",");
    return find(name);
}

static void make(const char *argument)
{
    char *words[MAX_WORDS + 1] = {NULL};
    const struct attempt *attempt = parse(argument, words);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        long result = attempt->make(words);
        printf("%s %s\n", attempt->name, result < 0 ? strerrorname_np((int)-result) : "ok");
        fflush(stdout);
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        printf("%s no-child\n", attempt->name);
    else if (WIFSIGNALED(status))
        printf("%s SIG%s\n", attempt->name, sigabbrev_np(WTERMSIG(status)));
}

int main(int argc, char **argv)
{
    char *words[MAX_WORDS + 1] = {NULL};
    if (argc == 2 && strcmp(argv[0], AGAIN) == 0)
        return (int)parse(argv[1], words)->make(words);
    for (int i = 1; i < argc; i++)
        make(argv[i]);
    return 0;
}
