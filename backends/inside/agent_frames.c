#include <string.h>

#include "agent_decode.h"

enum { ANY = AGENT_MAX_PAYLOAD };

/* What a frame of each kind may hold. `request`: it makes a stream of its own, so it has a number. */
static const struct rule {
    unsigned char known, request;
    uint16_t flags;
    uint32_t at_least, at_most;
} RULES[] = {
    [AGENT_HELLO] = {1, 0, 0, sizeof(struct agent_hello), sizeof(struct agent_hello)},
    [AGENT_PING] = {1, 0, 0, 0, 64},
    [AGENT_IDENTITY] = {1, 0, 0, sizeof(struct agent_identity), sizeof(struct agent_identity) + 64},
    [AGENT_NETWORK] = {1, 0, 0, sizeof(struct agent_network) + 5, sizeof(struct agent_network) + 4096},
    [AGENT_EXEC] = {1, 1, AGENT_FLAG_MORE, 0, ANY},
    [AGENT_INPUT] = {1, 1, 0, 0, ANY},
    [AGENT_INPUT_END] = {1, 1, 0, 0, 0},
    [AGENT_CREDIT] = {1, 1, AGENT_STDOUT | AGENT_STDERR, 4, 4},
    [AGENT_RESIZE] = {1, 1, 0, sizeof(struct agent_size), sizeof(struct agent_size)},
    [AGENT_SIGNAL] = {1, 0, AGENT_FLAG_EVERY | AGENT_FLAG_LAST, 4, 4},
    [AGENT_PUT] = {1, 1, AGENT_FLAG_MORE, 0, ANY},
    [AGENT_GET] = {1, 1, AGENT_FLAG_MORE, 0, ANY},
    [AGENT_MOUNT] = {1, 1, AGENT_FLAG_MORE, 0, ANY},
    [AGENT_HIDE] = {1, 1, AGENT_FLAG_MORE, 0, ANY},
    [AGENT_CONTAINER] = {1, 1, AGENT_FLAG_MORE, 0, ANY},
    [AGENT_REPORT] = {1, 0, 0, 0, 0},
    [AGENT_SYNC] = {1, 1, 0, 0, 0},
    [AGENT_POWER_OFF] = {1, 0, 0, 0, 0},
    [AGENT_OUTPUT_CLOSED] = {1, 1, AGENT_STDOUT | AGENT_STDERR, 0, 0},
};

char *decoder_space(struct decoder *decoder, size_t *room)
{
    if (decoder->start == decoder->end)
        decoder->start = decoder->end = 0;
    if (sizeof(decoder->bytes) - decoder->start < AGENT_MAX_FRAME) {
        memmove(decoder->bytes, decoder->bytes + decoder->start, decoder->end - decoder->start);
        decoder->end -= decoder->start;
        decoder->start = 0;
    }
    *room = sizeof(decoder->bytes) - decoder->end;
    return decoder->bytes + decoder->end;
}

static int may_come(const struct agent_frame *head)
{
    if (head->kind >= sizeof(RULES) / sizeof(*RULES))
        return 0;
    const struct rule *rule = &RULES[head->kind];
    return rule->known && !(head->flags & ~rule->flags) && head->length >= rule->at_least &&
           head->length <= rule->at_most && (head->stream != 0 || !rule->request);
}

int decoder_next(struct decoder *decoder, struct frame *frame)
{
    struct agent_frame head;
    size_t have = decoder->end - decoder->start;
    if (have < sizeof(head))
        return 0;
    char *bytes = decoder->bytes + decoder->start;
    memcpy(&head, bytes, sizeof(head));
    if (!may_come(&head))
        return -1;
    if (have < sizeof(head) + head.length)
        return 0;
    *frame = (struct frame){head.kind, head.flags, head.stream, head.length, bytes + sizeof(head)};
    decoder->start += sizeof(head) + head.length;
    return 1;
}
