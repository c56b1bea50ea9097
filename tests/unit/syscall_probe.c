/* Make system calls and say what came of each: one line per argument, "0", "errno N", "signal N" or "blocked".
 * Arguments are ENTRY:NUMBER:a,b,c,… with ENTRY 64 (syscall), x32 (syscall with that bit) or 32 (int 0x80);
 * arguments not given are -1. Every call is made in a child of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { X32_BIT = 0x40000000, PATIENCE_MS = 2000 };

static long by_interrupt(long number)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(-1), "c"(-1), "d"(-1) : "memory", "r8", "r9",
                     "r10", "r11");
    return result;
}

static int make_call(const char *entry, long number, const long *a)
{
    long result;
    if (strcmp(entry, "32") == 0) {
        result = by_interrupt(number);
        return result < 0 && result > -4096 ? (int)-result : 0;
    }
    if (strcmp(entry, "x32") == 0)
        number |= X32_BIT;
    result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return result == -1 ? errno : 0;
}

static void call_and_tell(char *text, int answer)
{
    long arguments[6] = {-1, -1, -1, -1, -1, -1};
    char *rest = NULL;
    const char *entry = strtok_r(text, ":", &rest);
    long number = strtol(strtok_r(NULL, ":", &rest), NULL, 0);
    int count = 0;
    for (char *word; count < 6 && (word = strtok_r(NULL, ",", &rest)); count++)
        arguments[count] = (long)strtoull(word, NULL, 0);
    int error = make_call(entry, number, arguments);
    if (write(answer, &error, sizeof(error)) < 0)
        _exit(1);
    _exit(0);
}

static void probe(char *text)
{
    int answer[2], error = 0, status = 0;
    if (pipe(answer) < 0)
        exit(2);
    pid_t pid = fork();
    if (pid < 0)
        exit(2);
    if (pid == 0)
        call_and_tell(text, answer[1]);
    close(answer[1]);
    struct pollfd event = {answer[0], POLLIN, 0};
    int ready = poll(&event, 1, PATIENCE_MS);
    ssize_t got = ready > 0 ? read(answer[0], &error, sizeof(error)) : 0;
    if (ready == 0)
        kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    close(answer[0]);
    if (got == (ssize_t)sizeof(error))
        printf(error ? "errno %d\n" : "0\n", error);
    else if (ready == 0)
        printf("blocked\n");
    else
        printf("signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        probe(argv[i]);
    return 0;
}
