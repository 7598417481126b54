#ifndef ENGINE_STEERING_H
#define ENGINE_STEERING_H

/*
 * Which of the sockets that share a port gets a connection: the one whose reactor runs on the cpu
 * that the first packet was received on (socket(7), SO_ATTACH_REUSEPORT_CBPF), so that its packets
 * and its reactor share a core. Packets on other cpus are spread by hash as without it.
 */

struct placement;

/*
 * To be called on any socket of the group, whose members listen in the order of the placement's
 * slots. -errno; -EINVAL: the reactors do not have a cpu each, and nothing is attached.
 */
int steering_attach(int fd, const struct placement *placement);

#endif
