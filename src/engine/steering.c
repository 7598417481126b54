#include "engine/steering.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "engine/placement.h"

#define NOBODY 0xffffffffU /* no socket has this index: the kernel then takes its hash */

static bool cpus_differ(const struct placement *p)
{
	for (unsigned i = 0; i < p->slots_n; i++) {
		if (p->slots[i].cpu < 0)
			return false;
		for (unsigned j = 0; j < i; j++)
			if (p->slots[i].cpu == p->slots[j].cpu)
				return false;
	}
	return true;
}

int steering_attach(int fd, const struct placement *p)
{
	size_t n = 2 * (size_t)p->slots_n + 2;
	struct sock_filter *code;
	struct sock_fprog program;
	int err;

	if (!cpus_differ(p) || n > BPF_MAXINSNS)
		return -EINVAL;
	code = calloc(n, sizeof(*code));
	if (code == NULL)
		return -ENOMEM;
	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					       (unsigned)(SKF_AD_OFF + SKF_AD_CPU));
	for (unsigned i = 0; i < p->slots_n; i++) {
		code[1 + 2 * i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							       (unsigned)p->slots[i].cpu, 0, 1);
		code[2 + 2 * i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, i);
	}
	code[n - 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, NOBODY);
	program = (struct sock_fprog){ (unsigned short)n, code };
	err = setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)) == 0
		      ? 0
		      : -errno;
	free(code);
	return err;
}
