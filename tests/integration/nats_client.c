/*
 * A program of libnats, unmodified, against whatever server its first argument names: the broker,
 * and nats-server as the oracle. Whatever is claimed here holds for both.
 *
 *     nats_client URL                  holds the claims, and says each that it has held
 *     nats_client URL watch SUBJECT    says what comes, and that the server was lost and found
 *     nats_client URL login            says whether it was let in
 */

#include <assert.h>
#include <nats/nats.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE_MS = 20000, BYTES_MAX = 1 << 20 };

static const char *url;

static void must(natsStatus s, const char *what)
{
	if (s == NATS_OK)
		return;
	printf("%s: %s\n", what, natsStatus_GetText(s));
	exit(1);
}

#define MUST(call) must(call, #call)

static natsConnection *client(void)
{
	natsConnection *nc;

	MUST(natsConnection_ConnectTo(&nc, url));
	return nc;
}

static void leave(natsConnection *nc)
{
	natsConnection_Close(nc);
	natsConnection_Destroy(nc);
}

static natsSubscription *subscribe(natsConnection *nc, const char *subject, const char *group)
{
	natsSubscription *sub;

	if (group != NULL)
		MUST(natsConnection_QueueSubscribeSync(&sub, nc, subject, group));
	else
		MUST(natsConnection_SubscribeSync(&sub, nc, subject));
	MUST(natsConnection_Flush(nc));
	return sub;
}

/* The next message is this one. */
static void gets(natsSubscription *sub, const char *subject, const char *text)
{
	natsMsg *m;

	MUST(natsSubscription_NextMsg(&m, sub, PATIENCE_MS));
	assert(strcmp(natsMsg_GetSubject(m), subject) == 0);
	assert((size_t)natsMsg_GetDataLength(m) == strlen(text));
	assert(memcmp(natsMsg_GetData(m), text, strlen(text)) == 0);
	natsMsg_Destroy(m);
}

/* How many there are by now. */
static uint64_t queued(natsSubscription *sub)
{
	uint64_t n;

	MUST(natsSubscription_QueuedMsgs(sub, &n));
	return n;
}

static void what_is_published_comes_in_order(void)
{
	natsConnection *a = client(), *b = client();
	natsSubscription *sub = subscribe(a, "c.order", NULL);
	char text[16];

	for (int i = 0; i < 500; i++) {
		snprintf(text, sizeof(text), "%d", i);
		MUST(natsConnection_PublishString(b, "c.order", text));
	}
	for (int i = 0; i < 500; i++) {
		snprintf(text, sizeof(text), "%d", i);
		gets(sub, "c.order", text);
	}
	natsSubscription_Destroy(sub);
	leave(a);
	leave(b);
}

static void patterns_match_levels(void)
{
	natsConnection *nc = client();
	natsSubscription *one = subscribe(nc, "c.p.*", NULL), *all = subscribe(nc, "c.p.>", NULL);

	MUST(natsConnection_PublishString(nc, "c.p", "none"));
	MUST(natsConnection_PublishString(nc, "c.p.a", "a"));
	/* Over several subjects the broker keeps no order but by this. */
	MUST(natsConnection_Flush(nc));
	MUST(natsConnection_PublishString(nc, "c.p.a.b", "ab"));
	MUST(natsConnection_Flush(nc));
	gets(one, "c.p.a", "a");
	gets(all, "c.p.a", "a");
	gets(all, "c.p.a.b", "ab");
	assert(queued(one) == 0 && queued(all) == 0);
	natsSubscription_Destroy(one);
	natsSubscription_Destroy(all);
	leave(nc);
}

static void each_message_goes_to_one_of_a_group(void)
{
	natsConnection *nc = client(), *other = client();
	natsSubscription *a = subscribe(nc, "c.g", "q"), *b = subscribe(other, "c.*", "q"),
			 *plain = subscribe(nc, "c.g", NULL);

	for (int i = 0; i < 200; i++)
		MUST(natsConnection_PublishString(nc, "c.g", "x"));
	MUST(natsConnection_Flush(nc));
	/* What is dealt to the other connection may still be on its way. */
	for (int i = 0; i < PATIENCE_MS / 10 && queued(a) + queued(b) < 200; i++)
		nats_Sleep(10);
	assert(queued(a) + queued(b) == 200 && queued(plain) == 200);
	assert(queued(a) > 0 && queued(b) > 0);
	natsSubscription_Destroy(a);
	natsSubscription_Destroy(b);
	natsSubscription_Destroy(plain);
	leave(nc);
	leave(other);
}

static void answer(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *closure)
{
	(void)sub;
	(void)closure;
	natsConnection_Publish(nc, natsMsg_GetReply(m), natsMsg_GetData(m),
			       natsMsg_GetDataLength(m));
	natsMsg_Destroy(m);
}

static void a_request_gets_its_answer(void)
{
	natsConnection *nc = client(), *server = client();
	natsSubscription *sub;
	natsMsg *m;

	MUST(natsConnection_Subscribe(&sub, server, "c.echo", answer, NULL));
	MUST(natsConnection_Flush(server));
	for (int i = 0; i < 100; i++) {
		MUST(natsConnection_RequestString(&m, nc, "c.echo", "hello", PATIENCE_MS));
		assert(natsMsg_GetDataLength(m) == 5);
		natsMsg_Destroy(m);
	}
	assert(natsConnection_RequestString(&m, nc, "c.nobody", "", PATIENCE_MS) ==
	       NATS_NO_RESPONDERS);
	natsSubscription_Destroy(sub);
	leave(nc);
	leave(server);
}

static void headers_arrive(void)
{
	natsConnection *nc = client();
	natsSubscription *sub = subscribe(nc, "c.h", NULL);
	const char *value, **values;
	natsMsg *m;
	int n;

	MUST(natsMsg_Create(&m, "c.h", NULL, "x", 1));
	MUST(natsMsgHeader_Set(m, "One", "1"));
	MUST(natsMsgHeader_Add(m, "Two", "a"));
	MUST(natsMsgHeader_Add(m, "Two", "b"));
	MUST(natsConnection_PublishMsg(nc, m));
	natsMsg_Destroy(m);
	MUST(natsSubscription_NextMsg(&m, sub, PATIENCE_MS));
	MUST(natsMsgHeader_Get(m, "One", &value));
	assert(strcmp(value, "1") == 0);
	MUST(natsMsgHeader_Values(m, "Two", &values, &n));
	assert(n == 2 && strcmp(values[0], "a") == 0 && strcmp(values[1], "b") == 0);
	free(values);
	natsMsg_Destroy(m);
	natsSubscription_Destroy(sub);
	leave(nc);
}

static void a_megabyte_is_a_message_and_one_byte_more_is_not(void)
{
	natsConnection *nc = client();
	natsSubscription *sub = subscribe(nc, "c.big", NULL);
	char *big = malloc(BYTES_MAX + 1);
	natsMsg *m;

	assert(big != NULL && natsConnection_GetMaxPayload(nc) == BYTES_MAX);
	for (int i = 0; i <= BYTES_MAX; i++)
		big[i] = (char)(i * 7);
	assert(natsConnection_Publish(nc, "c.big", big, BYTES_MAX + 1) == NATS_MAX_PAYLOAD);
	MUST(natsConnection_Publish(nc, "c.big", big, BYTES_MAX));
	MUST(natsSubscription_NextMsg(&m, sub, PATIENCE_MS));
	assert(natsMsg_GetDataLength(m) == BYTES_MAX);
	assert(memcmp(natsMsg_GetData(m), big, BYTES_MAX) == 0);
	natsMsg_Destroy(m);
	free(big);
	natsSubscription_Destroy(sub);
	leave(nc);
}

static void a_thousand_subscriptions_each_get_what_is_theirs(void)
{
	enum { N = 1000 };
	natsConnection *nc = client();
	natsSubscription *subs[N];
	char subject[32];

	for (int i = 0; i < N; i++) {
		snprintf(subject, sizeof(subject), "c.many.%d", i);
		MUST(natsConnection_SubscribeSync(&subs[i], nc, subject));
	}
	for (int i = 0; i < N; i++) {
		snprintf(subject, sizeof(subject), "c.many.%d", i);
		MUST(natsConnection_PublishString(nc, subject, subject));
	}
	for (int i = 0; i < N; i++) {
		snprintf(subject, sizeof(subject), "c.many.%d", i);
		gets(subs[i], subject, subject);
		natsSubscription_Destroy(subs[i]);
	}
	leave(nc);
}

static void a_subscription_ends_after_as_many_as_it_wants(void)
{
	natsConnection *nc = client();
	natsSubscription *sub = subscribe(nc, "c.max", NULL);
	natsMsg *m;

	MUST(natsSubscription_AutoUnsubscribe(sub, 3));
	for (int i = 0; i < 10; i++)
		MUST(natsConnection_PublishString(nc, "c.max", "x"));
	MUST(natsConnection_Flush(nc));
	for (int i = 0; i < 3; i++)
		gets(sub, "c.max", "x");
	assert(natsSubscription_NextMsg(&m, sub, 100) != NATS_OK);
	natsSubscription_Destroy(sub);
	leave(nc);
}

static atomic_int drained;

static void count(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *closure)
{
	(void)nc;
	(void)sub;
	(void)closure;
	drained++;
	natsMsg_Destroy(m);
}

static void drain_takes_what_has_come_and_ends(void)
{
	natsConnection *nc = client(), *other = client();
	natsSubscription *sub;

	MUST(natsConnection_Subscribe(&sub, nc, "c.drain", count, NULL));
	MUST(natsConnection_Flush(nc));
	for (int i = 0; i < 300; i++)
		MUST(natsConnection_PublishString(other, "c.drain", "x"));
	MUST(natsConnection_Flush(other));
	MUST(natsConnection_Drain(nc));
	for (int i = 0; i < PATIENCE_MS / 10 && !natsConnection_IsClosed(nc); i++)
		nats_Sleep(10);
	assert(natsConnection_IsClosed(nc) && drained == 300);
	natsSubscription_Destroy(sub);
	leave(nc);
	leave(other);
}

static const struct {
	const char *name;
	void (*hold)(void);
} claims[] = {
#define CLAIM(name)                                                                                \
	{                                                                                          \
#name, name                                                                        \
	}
	CLAIM(what_is_published_comes_in_order),
	CLAIM(patterns_match_levels),
	CLAIM(each_message_goes_to_one_of_a_group),
	CLAIM(a_request_gets_its_answer),
	CLAIM(headers_arrive),
	CLAIM(a_megabyte_is_a_message_and_one_byte_more_is_not),
	CLAIM(a_thousand_subscriptions_each_get_what_is_theirs),
	CLAIM(a_subscription_ends_after_as_many_as_it_wants),
	CLAIM(drain_takes_what_has_come_and_ends),
};

static void print(natsConnection *nc, natsSubscription *sub, natsMsg *m, void *closure)
{
	(void)nc;
	(void)sub;
	(void)closure;
	/* Of large ones the beginning. */
	printf("message %.*s\n", natsMsg_GetDataLength(m) < 32 ? natsMsg_GetDataLength(m) : 32,
	       natsMsg_GetData(m));
	natsMsg_Destroy(m);
}

static void lost(natsConnection *nc, void *closure)
{
	(void)nc;
	(void)closure;
	puts("lost");
}

/* And what it wanted it wants again. */
static void found(natsConnection *nc, void *closure)
{
	(void)closure;
	MUST(natsConnection_Flush(nc));
	puts("found");
}

static void watch(const char *subject)
{
	natsOptions *options;
	natsConnection *nc;
	natsSubscription *sub;

	MUST(natsOptions_Create(&options));
	MUST(natsOptions_SetURL(options, url));
	MUST(natsOptions_SetReconnectWait(options, 50));
	MUST(natsOptions_SetMaxReconnect(options, 1000));
	MUST(natsOptions_SetDisconnectedCB(options, lost, NULL));
	MUST(natsOptions_SetReconnectedCB(options, found, NULL));
	MUST(natsConnection_Connect(&nc, options));
	MUST(natsConnection_Subscribe(&sub, nc, subject, print, NULL));
	MUST(natsConnection_Flush(nc));
	puts("ready");
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	natsConnection *nc;

	assert(argc >= 2);
	url = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 4 && strcmp(argv[2], "watch") == 0)
		watch(argv[3]);
	if (argc == 3) {
		puts(natsStatus_GetText(natsConnection_ConnectTo(&nc, url)));
		return 0;
	}
	for (size_t i = 0; i < sizeof(claims) / sizeof(*claims); i++) {
		claims[i].hold();
		printf("held %s\n", claims[i].name);
	}
	nats_Close();
	return 0;
}
