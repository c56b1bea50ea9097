/* A HIDE: what the names lead to in the guest. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "agent.h"
#include "hide.h"

struct outcome hide_them(const struct request *request)
{
    char place[64];
    uint32_t failing = 0, count = request->count[AGENT_TAG_HIDDEN];
    struct hiding hiding = {open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), -1, 0};
    private_path("denied", place, sizeof(place));
    hiding.cover = open(place, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0); /* what has no name cannot be bound */
    if (hiding.root < 0 || hiding.cover < 0)
        return failed(AGENT_STEP_HIDE, place);
    struct outcome outcome = SUCCESS;
    if (hide_names(&hiding, request->hidden, count, &failing) < 0)
        outcome = failed(AGENT_STEP_HIDE, failing < count ? request->hidden[failing] : "/");
    unlinkat(AT_FDCWD, place, 0);
    return outcome;
}
