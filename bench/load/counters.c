#include "load/counters.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "load/options.h"

enum { ANSWER_MAX = 4 << 20, TIMEOUT_SECONDS = 2 };

double counters_sum(struct span text, const char *metric)
{
	const char *at = text.data, *end = text.data + text.len, *lf;
	size_t n = strlen(metric);
	double sum = 0;

	for (; at < end && (lf = memchr(at, '\n', (size_t)(end - at))) != NULL; at = lf + 1) {
		const char *space;

		if ((size_t)(lf - at) <= n || memcmp(at, metric, n) != 0 ||
		    (at[n] != '{' && at[n] != ' '))
			continue;
		space = memrchr(at, ' ', (size_t)(lf - at));
		if (space != NULL)
			sum += strtod(space + 1, NULL); /* stops at the line's end */
	}
	return sum;
}

/* The whole answer; NULL: none. The caller frees it. */
static char *get(const struct address *address, size_t *len)
{
	/* In 1.0 an answer has no chunks and ends with its connection. */
	static const char request[] = "GET /metrics HTTP/1.0\r\nHost: broker\r\n\r\n";
	const struct timeval timeout = { .tv_sec = TIMEOUT_SECONDS };
	int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char *answer = malloc(ANSWER_MAX);
	ssize_t n = -1;

	*len = 0;
	if (fd >= 0 && answer != NULL &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0 &&
	    connect(fd, (const struct sockaddr *)&address->storage, address->len) == 0 &&
	    send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) == (ssize_t)sizeof(request) - 1)
		while (*len < ANSWER_MAX && (n = recv(fd, answer + *len, ANSWER_MAX - *len, 0)) > 0)
			*len += (size_t)n;
	if (fd >= 0)
		close(fd);
	if (n == 0 && *len > 12 && memcmp(answer + 9, "200", 3) == 0)
		return answer;
	free(answer);
	return NULL;
}

void counters_read(struct counters *c, const struct address *address)
{
	struct span text;
	char *answer = get(address, &text.len);

	*c = (struct counters){ .valid = answer != NULL };
	if (answer == NULL)
		return;
	text.data = answer;
	c->delivered = counters_sum(text, "broker_messages_delivered_total");
	c->sends = counters_sum(text, "broker_sends_total");
	c->enters = counters_sum(text, "broker_ring_enters_total");
	c->turns = counters_sum(text, "broker_turns_total");
	c->completions = counters_sum(text, "broker_completions_per_turn_sum");
	free(answer);
}
