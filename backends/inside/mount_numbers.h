/* From the kernel's interface; libc headers that know them are younger than the kernels that do. Not each program
 * uses each of them. */
#ifndef MXC_MOUNT_NUMBERS_H
#define MXC_MOUNT_NUMBERS_H

#define TREE_CLONE 1u
#define TREE_RECURSIVE 0x8000u
#define MOVE_FROM_EMPTY_PATH 0x4u
#define MOVE_TO_EMPTY_PATH 0x40u
#define ATTR_READ_ONLY 0x1u
#define ATTR_NOSUID 0x2u
#define ATTR_NODEV 0x4u
#define ATTR_IDMAP 0x100000u
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

#endif
