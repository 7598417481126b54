#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

/* What the user asked for. Read-only once parsed. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

struct wire;

struct address {
	struct sockaddr_storage storage;
	socklen_t len; /* 0: none */
};

enum { OPTIONS_PIDS_MAX = 8, DELIVER_PREFIX_MAX = 24 };

struct options {
	const char *endpoint; /* as it was given */
	struct address address;
	const char *publish_to; /* where publishers connect, if that is somewhere else; or NULL */
	struct address publish_address;
	const char *deliver_prefix; /* of the topics that subscribers ask for */
	const struct wire *wire;

	unsigned topics, subscribers, publishers; /* the latter two for each topic */
	size_t message_bytes;
	unsigned topics_each; /* of a subscriber's connection */
	bool pattern;         /* one brings all topics to each subscriber */
	double rate_per_s;    /* of each publisher; 0: as many as the window lets go */
	unsigned window;      /* messages of a publisher; 0: paced by rate */
	unsigned batch;       /* most messages in one send of a publisher */
	bool together;        /* all publishers send at the same moments */
	uint64_t duration_ns, warmup_ns;
	uint64_t drain_ns; /* for the last messages to arrive */
	unsigned threads;
	bool spin;

	bool tls;                /* from the first byte; NATS: behind the greeting */
	bool insecure;           /* any certificate will do */
	bool resume;             /* sessions of connections before */
	const char *ca;          /* a file; NULL: whom the system trusts */
	const char *server_name; /* that the certificate must be for */

	unsigned idle;          /* subscribers that nothing is published to */
	double churn_per_s;     /* connections */
	unsigned stall_percent; /* of each topic's subscribers */

	/* The broker's, and of what stands before it; none: not known. */
	pid_t pids[OPTIONS_PIDS_MAX];
	unsigned pids_n;
	struct address stats; /* where the broker answers requests for its own counters */
	bool json, quiet;
	const char *jsonl_path; /* NULL: none */
};

/* Prints what is wrong on standard error. Does not return for --help, --version and errors. */
void options_parse(struct options *options, int argc, char **argv);

#endif
