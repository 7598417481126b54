/*
 * A bare subscriber of libnats, to hold against a host of a cluster: takes what comes and counts
 * it.
 *
 *     subscriber URL SUBJECT      "ready" on standard error; at SIGTERM "MESSAGES CPU_SECONDS" on
 * standard output, of what came since SIGUSR1
 */

#include <nats/nats.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static _Atomic unsigned long messages;

static void count(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *context)
{
	(void)nc;
	(void)sub;
	(void)context;
	messages++;
	natsMsg_Destroy(m);
}

static void must(natsStatus s, const char *what)
{
	if (s == NATS_OK)
		return;
	fprintf(stderr, "%s: %s\n", what, natsStatus_GetText(s));
	exit(1);
}

static double cpu_seconds(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
	       (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	natsConnection *nc;
	natsSubscription *sub;
	unsigned long before = 0;
	double cpu_before = 0;
	sigset_t wanted;
	int signal;

	if (argc != 3) {
		fprintf(stderr, "usage: %s URL SUBJECT\n", argv[0]);
		return 2;
	}
	/* Before the library's threads, so that they inherit it. */
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR1);
	sigaddset(&wanted, SIGTERM);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	must(natsConnection_ConnectTo(&nc, argv[1]), "connect");
	must(natsConnection_Subscribe(&sub, nc, argv[2], count, NULL), "subscribe");
	must(natsSubscription_SetPendingLimits(sub, -1, -1), "limits");
	must(natsConnection_Flush(nc), "flush");
	fputs("ready\n", stderr);
	while (sigwait(&wanted, &signal) == 0 && signal != SIGTERM) {
		before = messages;
		cpu_before = cpu_seconds();
	}
	printf("%lu %.6f\n", messages - before, cpu_seconds() - cpu_before);
	natsSubscription_Destroy(sub);
	natsConnection_Destroy(nc);
	nats_Close();
	return 0;
}
