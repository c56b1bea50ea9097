/* The last steps of a child that becomes somebody else's program: of the launcher and of the agent. */
#ifndef MXC_EXECUTE_H
#define MXC_EXECUTE_H

#include <stddef.h>
#include <stdint.h>

/* Every signal back to its default, none blocked. */
void reset_signals(void);

/* All but execute() return 0, or -1 with errno. */
int set_limit(uint32_t resource, uint64_t soft, uint64_t hard);

/* `bytes` at `program` are BPF instructions, at any alignment. */
int install_filter(const unsigned char *program, size_t bytes);

/* execve(2), a name without a slash looked up in the PATH of `env`. Returns only on failure, with errno. */
void execute(char **argv, char **env);

#endif
