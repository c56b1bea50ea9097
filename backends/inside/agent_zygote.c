#include <errno.h>

#include "agent.h"

struct outcome zygote_start(struct job *job, const struct request *request, const char *message, size_t size)
{
    (void)job, (void)request, (void)message, (void)size;
    errno = ENOENT;
    return failed(AGENT_STEP_ZYGOTE, "");
}
uint32_t zygote_is_there(void)
{
    return 0;
}
int zygote_owns(pid_t pid)
{
    return pid < 0;
}
void zygote_reaped(pid_t pid)
{
    (void)pid;
}
void start_task(uint32_t kind, uint32_t stream, char *message, size_t size)
{
    (void)kind, (void)message, (void)size;
    errno = ENOSYS;
    struct outcome outcome = failed(AGENT_STEP_MESSAGE, "");
    link_send_outcome(stream, &outcome);
}
