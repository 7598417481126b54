#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"

#define LISTEN "listen \"main\" { address = \"127.0.0.1:8080\" }\n"

/* A directory for the files of one test, and what the last load said about them. */
static char dir[] = "/tmp/test_config.XXXXXX";
static char said[16384];

static const char *in_dir(const char *name)
{
	static char path[sizeof(dir) + 64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void write_bytes(const char *name, const char *bytes, size_t n)
{
	FILE *file = fopen(in_dir(name), "w");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, n, file), n);
	assert_int_equal(fclose(file), 0);
}

static void write_file(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

/* What is said names a file of the directory without the directory. */
static int load_path(const char *path, struct config **out)
{
	char *text = NULL, *p = said;
	size_t size = 0;
	FILE *errors = open_memstream(&text, &size);
	int error;

	assert_non_null(errors);
	error = config_load(path, out, errors);
	fclose(errors);
	assert_true(size < sizeof(said));
	for (const char *q = text; *q != '\0';) {
		if (strncmp(q, dir, strlen(dir)) == 0)
			q += strlen(dir) + 1;
		else
			*p++ = *q++;
	}
	*p = '\0';
	free(text);
	assert_true((error == 0) == (*out != NULL));
	assert_true((error == 0) == (*said == '\0'));
	return error;
}

static struct config *load(const char *text)
{
	struct config *config;

	write_file("a.conf", text);
	if (load_path(in_dir("a.conf"), &config) != 0)
		fail_msg("%s", said);
	return config;
}

static void assert_accepted(const char *text)
{
	config_free(load(text));
}

/* Refused, and the only line that is said starts as expected. */
static void assert_refused(const char *text, const char *start)
{
	struct config *config;

	write_file("a.conf", text);
	assert_int_equal(load_path(in_dir("a.conf"), &config), -EINVAL);
	if (strncmp(said, start, strlen(start)) != 0)
		fail_msg("said\n%sand not\n%s", said, start);
	assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
	assert_non_null(strstr(said, ", "));
}

/* One key in its section ("" is none) and a listener, all on the first line. */
static const char *text_with(const char *section, const char *key, const char *value)
{
	static char text[1024];
	const char *listen = strcmp(section, "listen") == 0 ? "address = \"[::1]:1\"" : "";
	int n;

	if (*section == '\0')
		n = snprintf(text, sizeof(text), "%s = %s " LISTEN, key, value);
	else if (*listen != '\0')
		n = snprintf(text, sizeof(text), "listen m { %s %s = %s }\n", listen, key, value);
	else
		n = snprintf(text, sizeof(text), "%s { %s = %s } " LISTEN, section, key, value);
	assert_in_range(n, 1, sizeof(text) - 1);
	return text;
}

static void assert_value_accepted(const char *section, const char *key, const char *value)
{
	assert_accepted(text_with(section, key, value));
}

static void assert_value_refused(const char *section, const char *key, const char *value)
{
	char start[128];

	snprintf(start, sizeof(start), "a.conf:1: %s: ", key);
	assert_refused(text_with(section, key, value), start);
}

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "a.conf", "b.conf", "sub/c.conf", "sub/d.conf" };

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unlink(in_dir(names[i]));
	rmdir(in_dir("sub"));
	return rmdir(dir);
}

/* ---- What is read ---- */

static void assert_topic_equal(const struct config_topic *a, const struct config_topic *b)
{
	assert_true((a->pattern == NULL) == (b->pattern == NULL));
	if (a->pattern != NULL)
		assert_string_equal(a->pattern, b->pattern);
	assert_int_equal(a->history_messages, b->history_messages);
	assert_int_equal(a->history_bytes, b->history_bytes);
	assert_int_equal(a->history_seconds, b->history_seconds);
	assert_int_equal(a->backlog_bytes, b->backlog_bytes);
	assert_int_equal(a->backlog_seconds, b->backlog_seconds);
	assert_int_equal(a->slow, b->slow);
	assert_int_equal(a->on_last_publisher, b->on_last_publisher);
	assert_int_equal(a->linger_seconds, b->linger_seconds);
	assert_int_equal(a->passing, b->passing);
	assert_int_equal(a->order, b->order);
	assert_int_equal(a->pace, b->pace);
}

static void assert_texts_equal(char *const *a, size_t a_n, char *const *b, size_t b_n)
{
	assert_int_equal(a_n, b_n);
	for (size_t i = 0; i < a_n; i++)
		assert_string_equal(a[i], b[i]);
}

static void assert_user_equal(const struct config_user *a, const struct config_user *b)
{
	assert_string_equal(a->name, b->name);
	assert_string_equal(a->password_hash, b->password_hash);
	assert_texts_equal(a->token_hash, a->token_hash_n, b->token_hash, b->token_hash_n);
	assert_string_equal(a->certificate, b->certificate);
	assert_string_equal(a->uid, b->uid);
	assert_texts_equal(a->publish, a->publish_n, b->publish, b->publish_n);
	assert_texts_equal(a->subscribe, a->subscribe_n, b->subscribe, b->subscribe_n);
	assert_texts_equal(a->deny_publish, a->deny_publish_n, b->deny_publish, b->deny_publish_n);
	assert_texts_equal(a->deny_subscribe, a->deny_subscribe_n, b->deny_subscribe,
			   b->deny_subscribe_n);
	assert_int_equal(a->monitor, b->monitor);
	assert_int_equal(a->connections, b->connections);
}

static void assert_tls_equal(const struct config_tls *a, const struct config_tls *b)
{
	assert_int_equal(a->present, b->present);
	assert_int_equal(a->certificates_n, b->certificates_n);
	for (size_t i = 0; i < a->certificates_n; i++) {
		assert_string_equal(a->certificates[i].title, b->certificates[i].title);
		assert_string_equal(a->certificates[i].chain, b->certificates[i].chain);
		assert_string_equal(a->certificates[i].key, b->certificates[i].key);
	}
	assert_int_equal(a->client_auth, b->client_auth);
	assert_string_equal(a->client_ca, b->client_ca);
	assert_string_equal(a->client_crl, b->client_crl);
	assert_int_equal(a->client_name, b->client_name);
	assert_int_equal(a->min_version, b->min_version);
	assert_string_equal(a->ciphers, b->ciphers);
	assert_string_equal(a->ciphersuites, b->ciphersuites);
	assert_string_equal(a->groups, b->groups);
	assert_int_equal(a->ticket_seconds, b->ticket_seconds);
	assert_string_equal(a->ticket_keys, b->ticket_keys);
	assert_int_equal(a->ktls, b->ktls);
}

static void assert_config_equal(const struct config *a, const struct config *b)
{
	assert_int_equal(a->reactors, b->reactors);
	assert_int_equal(a->placement, b->placement);
	assert_int_equal(a->log_level, b->log_level);
	assert_int_equal(a->log_format, b->log_format);
	assert_int_equal(a->stats_seconds, b->stats_seconds);
	assert_int_equal(a->drain_seconds, b->drain_seconds);
	assert_int_equal(a->lame_duck_seconds, b->lame_duck_seconds);
	assert_int_equal(a->sandbox, b->sandbox);

	assert_int_equal(a->listens_n, b->listens_n);
	for (size_t i = 0; i < a->listens_n; i++) {
		assert_string_equal(a->listens[i].title, b->listens[i].title);
		assert_string_equal(a->listens[i].address, b->listens[i].address);
		assert_int_equal(a->listens[i].protocols, b->listens[i].protocols);
		assert_int_equal(a->listens[i].proxy_protocol, b->listens[i].proxy_protocol);
		assert_int_equal(a->listens[i].proxy_from_n, b->listens[i].proxy_from_n);
		for (size_t n = 0; n < a->listens[i].proxy_from_n; n++)
			assert_string_equal(a->listens[i].proxy_from[n],
					    b->listens[i].proxy_from[n]);
		assert_int_equal(a->listens[i].v6only, b->listens[i].v6only);
		assert_int_equal(a->listens[i].mode, b->listens[i].mode);
		assert_string_equal(a->listens[i].owner, b->listens[i].owner);
		assert_string_equal(a->listens[i].group, b->listens[i].group);
		assert_int_equal(a->listens[i].allow_plain, b->listens[i].allow_plain);
		assert_tls_equal(&a->listens[i].tls, &b->listens[i].tls);
	}

	assert_int_equal(a->engine.sq_entries, b->engine.sq_entries);
	assert_int_equal(a->engine.batch, b->engine.batch);
	assert_int_equal(a->engine.lane_entries, b->engine.lane_entries);
	assert_int_equal(a->engine.lane_batch, b->engine.lane_batch);
	assert_int_equal(a->engine.turn_sends, b->engine.turn_sends);
	assert_int_equal(a->engine.spin_us, b->engine.spin_us);
	assert_int_equal(a->engine.linger_us, b->engine.linger_us);
	assert_int_equal(a->engine.recv_buffers, b->engine.recv_buffers);
	assert_int_equal(a->engine.recv_buffer_bytes, b->engine.recv_buffer_bytes);
	assert_int_equal(a->engine.sqpoll_idle_ms, b->engine.sqpoll_idle_ms);
	assert_int_equal(a->engine.steer, b->engine.steer);

	assert_topic_equal(&a->topics, &b->topics);
	assert_int_equal(a->topic_n, b->topic_n);
	for (size_t i = 0; i < a->topic_n; i++)
		assert_topic_equal(&a->topic[i], &b->topic[i]);

	assert_int_equal(a->limits.connections, b->limits.connections);
	assert_int_equal(a->limits.connections_per_ip, b->limits.connections_per_ip);
	assert_int_equal(a->limits.handshake_seconds, b->limits.handshake_seconds);
	assert_int_equal(a->limits.idle_seconds, b->limits.idle_seconds);
	assert_int_equal(a->limits.message_bytes, b->limits.message_bytes);
	assert_int_equal(a->limits.command_bytes, b->limits.command_bytes);
	assert_int_equal(a->limits.header_bytes, b->limits.header_bytes);
	assert_int_equal(a->limits.send_buffer_bytes, b->limits.send_buffer_bytes);
	assert_int_equal(a->limits.history_total_bytes, b->limits.history_total_bytes);
	assert_int_equal(a->limits.topics, b->limits.topics);
	assert_int_equal(a->limits.subscriptions, b->limits.subscriptions);
	assert_int_equal(a->limits.subscriptions_per_connection,
			 b->limits.subscriptions_per_connection);
	assert_int_equal(a->limits.globs, b->limits.globs);
	assert_int_equal(a->limits.memory_bytes, b->limits.memory_bytes);
	assert_int_equal(a->limits.tls_handshakes, b->limits.tls_handshakes);
	assert_int_equal(a->limits.accepts_per_ip, b->limits.accepts_per_ip);

	assert_int_equal(a->http.allowed_origins_n, b->http.allowed_origins_n);
	for (size_t i = 0; i < a->http.allowed_origins_n; i++)
		assert_string_equal(a->http.allowed_origins[i], b->http.allowed_origins[i]);
	assert_int_equal(a->http.allowed_hosts_n, b->http.allowed_hosts_n);
	for (size_t i = 0; i < a->http.allowed_hosts_n; i++)
		assert_string_equal(a->http.allowed_hosts[i], b->http.allowed_hosts[i]);
	assert_int_equal(a->http.heartbeat_seconds, b->http.heartbeat_seconds);
	assert_int_equal(a->http.ahead, b->http.ahead);
	assert_int_equal(a->http.wait_seconds, b->http.wait_seconds);
	assert_string_equal(a->http.objects_dir, b->http.objects_dir);
	assert_int_equal(a->http.page, b->http.page);
	assert_int_equal(a->http.page_local_only, b->http.page_local_only);
	assert_int_equal(a->http.page_publish, b->http.page_publish);

	assert_int_equal(a->ws.ping_seconds, b->ws.ping_seconds);

	assert_int_equal(a->nats.hello_ms, b->nats.hello_ms);
	assert_int_equal(a->nats.ping_seconds, b->nats.ping_seconds);
	assert_int_equal(a->nats.pings_out, b->nats.pings_out);

	assert_int_equal(a->auth.anonymous, b->auth.anonymous);
	assert_int_equal(a->auth.hash_threads, b->auth.hash_threads);
	assert_int_equal(a->auth.hash_pending, b->auth.hash_pending);
	assert_int_equal(a->auth.cache_seconds, b->auth.cache_seconds);
	assert_int_equal(a->auth.failures, b->auth.failures);
	assert_string_equal(a->auth.cookie, b->auth.cookie);
	assert_int_equal(a->auth.ticket_seconds, b->auth.ticket_seconds);
	assert_int_equal(a->auth.jwt.algorithms, b->auth.jwt.algorithms);
	assert_texts_equal(a->auth.jwt.keys, a->auth.jwt.keys_n, b->auth.jwt.keys,
			   b->auth.jwt.keys_n);
	assert_string_equal(a->auth.jwt.issuer, b->auth.jwt.issuer);
	assert_string_equal(a->auth.jwt.audience, b->auth.jwt.audience);
	assert_int_equal(a->auth.jwt.leeway_seconds, b->auth.jwt.leeway_seconds);
	assert_string_equal(a->auth.jwt.claim, b->auth.jwt.claim);

	assert_int_equal(a->users_n, b->users_n);
	for (size_t i = 0; i < a->users_n; i++)
		assert_user_equal(&a->users[i], &b->users[i]);
}

static void assert_defaults(struct config *config)
{
	struct config *defaults = config_defaults();

	assert_non_null(defaults);
	assert_config_equal(config, defaults);
	config_free(defaults);
	config_free(config);
}

static void the_shipped_file_equals_the_built_in_defaults(void **state)
{
	struct config *config;

	(void)state;
	assert_int_equal(load_path("config/broker.conf", &config), 0);
	assert_defaults(config);
}

static void the_defaults_are_the_documented_ones(void **state)
{
	struct config *c = config_defaults();

	(void)state;
	assert_int_equal(c->reactors, CONFIG_REACTORS_AUTO);
	assert_int_equal(c->placement, PLACEMENT_CORES);
	assert_int_equal(c->log_level, LOG_INFO);
	assert_int_equal(c->log_format, LOG_TEXT);
	assert_true(c->sandbox);
	assert_int_equal(c->listens_n, 1);
	assert_string_equal(c->listens[0].title, "main");
	assert_string_equal(c->listens[0].address, "127.0.0.1:8080");
	assert_int_equal(c->listens[0].protocols, CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP);
	assert_int_equal(c->engine.lane_entries, 4096);
	assert_int_equal(c->engine.recv_buffer_bytes, 16 << 10);
	assert_int_equal(c->engine.steer, STEER_NONE);
	assert_null(c->topics.pattern);
	assert_int_equal(c->topics.history_bytes, 4 << 20);
	assert_int_equal(c->topics.slow, SLOW_DISCONNECT);
	assert_int_equal(c->topics.on_last_publisher, LAST_PUBLISHER_KEEP);
	assert_int_equal(c->limits.message_bytes, 1 << 20);
	assert_int_equal(c->limits.history_total_bytes, 1 << 30);
	assert_int_equal(c->limits.memory_bytes, 0);
	assert_int_equal(c->http.allowed_hosts_n, 0);
	assert_string_equal(c->http.objects_dir, "");
	assert_true(c->http.page_local_only);
	assert_int_equal(c->auth.anonymous, ANONYMOUS_LOOPBACK);
	assert_int_equal(c->auth.jwt.algorithms, CONFIG_JWT_EDDSA);
	assert_int_equal(c->auth.jwt.keys_n, 0);
	assert_int_equal(c->users_n, 0);
	config_free(c);
}

#define HASH                                                                                       \
	"$6$abcdefgh$D7W7qyozKBT.t6FD3DVYHvADbIO0eSyI4.p20L"                                       \
	"aEUjro8PqTGYYo/EQcuNjhFbzo9Yg5ir1KIEqFY/yJpgFph0"
#define TOKEN "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* Every key with a value that is not its default. */
static const char other_values[] =
	"reactors = 3\n"
	"placement = \"threads\"\n"
	"log_level = \"debug\"\n"
	"log_format = \"json\"\n"
	"stats_seconds = 6\n"
	"drain_seconds = 11\n"
	"lame_duck_seconds = 12\n"
	"listen \"inner\" {\n"
	"	address = \"unix:/run/broker.sock\"\n"
	"	protocols = { \"line\" }\n"
	"	proxy_protocol = true proxy_from = { \"10.0.0.0/8\" }\n"
	"	v6only = true mode = \"0660\" owner = \"www-data\" group = 33\n"
	"	allow_plain = true\n"
	"}\n"
	"listen \"outer\" {\n"
	"	address = \"0.0.0.0:80\"\n"
	"	protocols = { \"http\" }\n"
	"	tls {\n"
	"		certificate \"one\" { chain = \"/a\" key = \"/b\" }\n"
	"		certificate \"two\" { chain = \"/c\" key = \"/d\" }\n"
	"		client_auth = \"required\" client_ca = \"/e\" client_crl = \"/f\"\n"
	"		client_name = \"cn\" min_version = \"1.3\" ciphers = \"g\"\n"
	"		ciphersuites = \"h\" groups = \"i\" ticket_seconds = 7\n"
	"		ticket_keys = \"/j\" ktls = \"auto\"\n"
	"	}\n"
	"}\n"
	"engine {\n"
	"	sq_entries = 128\n"
	"	batch = 65\n"
	"	lane_entries = 2\n"
	"	lane_batch = 257\n"
	"	turn_sends = 513\n"
	"	spin_us = 1\n"
	"	linger_us = 2\n"
	"	recv_buffers = 2048\n"
	"	recv_buffer_bytes = \"32K\"\n"
	"	sqpoll_idle_ms = 3\n"
	"	steer = \"cpu\"\n"
	"}\n"
	"topics {\n"
	"	history_messages = 129\n"
	"	history_bytes = \"5M\"\n"
	"	history_seconds = 3601\n"
	"	backlog_bytes = \"9M\"\n"
	"	backlog_seconds = 11\n"
	"	slow = \"skip\"\n"
	"	on_last_publisher = \"bye\"\n"
	"	linger_seconds = 61\n"
	"	passing = true\n"
	"	order = \"section\"\n"
	"	pace = 2.5\n"
	"}\n"
	"topic \"live.>\" {\n"
	"	history_bytes = \"64M\"\n"
	"}\n"
	"limits {\n"
	"	connections = 1\n"
	"	connections_per_ip = 2\n"
	"	handshake_seconds = 3\n"
	"	idle_seconds = 4\n"
	"	message_bytes = \"64M\"\n"
	"	command_bytes = \"5K\"\n"
	"	header_bytes = \"17K\"\n"
	"	send_buffer_bytes = \"257K\"\n"
	"	history_total_bytes = \"16G\"\n"
	"	topics = 5\n"
	"	subscriptions = 6\n"
	"	subscriptions_per_connection = 8\n"
	"	globs = 7\n"
	"	memory_bytes = \"2G\"\n"
	"	tls_handshakes = 8\n"
	"	accepts_per_ip = 9\n"
	"}\n"
	"http {\n"
	"	allowed_origins = { \"https://a.example\", \"https://b.example\" }\n"
	"	allowed_hosts = { \"a.example\" }\n"
	"	heartbeat_seconds = 16\n"
	"	ahead = 4\n"
	"	wait_seconds = 12\n"
	"	objects_dir = \"/srv/objects\"\n"
	"	page = false\n"
	"	page_local_only = false\n"
	"	page_publish = false\n"
	"}\n"
	"ws { ping_seconds = 31 }\n"
	"nats {\n"
	"	hello_ms = 251\n"
	"	ping_seconds = 121\n"
	"	pings_out = 3\n"
	"}\n"
	"auth {\n"
	"	anonymous = \"all\"\n"
	"	hash_threads = 2\n"
	"	hash_pending = 65\n"
	"	cache_seconds = 301\n"
	"	failures = 11\n"
	"	cookie = \"session\"\n"
	"	ticket_seconds = 61\n"
	"	jwt {\n"
	"		algorithms = { \"RS256\", \"HS256\" }\n"
	"		keys = { \"/etc/broker/jwt.pem\" }\n"
	"		issuer = \"https://a.example\"\n"
	"		audience = \"us\"\n"
	"		leeway_seconds = 6\n"
	"		claim = \"may\"\n"
	"	}\n"
	"}\n"
	"user \"scores\" {\n"
	"	password_hash = \"" HASH "\"\n"
	"	token_hash = { \"" TOKEN "\" }\n"
	"	certificate = \"a.example\"\n"
	"	uid = 1001\n"
	"	publish = { \"scores.>\" }\n"
	"	subscribe = { \"scores.>\", \"user.%u.>\" }\n"
	"	deny_publish = { \"scores.admin.>\" }\n"
	"	deny_subscribe = { \"scores.*.secret\" }\n"
	"	monitor = true\n"
	"	connections = 7\n"
	"}\n"
	"user \"anonymous\" {}\n"
	"sandbox = false\n";

static void every_documented_key_is_read(void **state)
{
	struct config *c = load(other_values);
	struct config_topic topics = {
		.history_messages = 129,
		.history_bytes = 5 << 20,
		.history_seconds = 3601,
		.backlog_bytes = 9 << 20,
		.backlog_seconds = 11,
		.slow = SLOW_SKIP,
		.on_last_publisher = LAST_PUBLISHER_BYE,
		.linger_seconds = 61,
		.passing = true,
		.order = ORDER_SECTION,
		.pace = 250,
	};
	struct config_topic live = topics;
	char pattern[] = "live.>", inner[] = "inner", outer[] = "outer", objects[] = "/srv/objects";
	char unix_address[] = "unix:/run/broker.sock", every_address[] = "0.0.0.0:80";
	char owner[] = "www-data", group[] = "33", none[] = "", network[] = "10.0.0.0/8";
	char a[] = "https://a.example", b[] = "https://b.example", host[] = "a.example";
	char cookie[] = "session", key[] = "/etc/broker/jwt.pem", us[] = "us", may[] = "may";
	char scores[] = "scores", hash[] = HASH, token[] = TOKEN, uid[] = "1001";
	char may_publish[] = "scores.>", may_subscribe[] = "user.%u.>", host_of[] = "a.example";
	char may_not_publish[] = "scores.admin.>", may_not_subscribe[] = "scores.*.secret";
	char anonymous[] = "anonymous";
	struct config_user users[] = {
		{ scores, hash, (char *[]){ token }, 1, host_of, uid, (char *[]){ may_publish }, 1,
		  (char *[]){ may_publish, may_subscribe }, 2, (char *[]){ may_not_publish }, 1,
		  (char *[]){ may_not_subscribe }, 1, true, 7 },
		{ .name = anonymous, .password_hash = none, .certificate = none, .uid = none },
	};
	struct config *defaults = config_defaults();
	struct config_tls inner_tls = defaults->listens[0].tls;
	char files[][3] = { "/a", "/b", "/c", "/d", "/e", "/f", "g", "h", "i", "/j" };
	char one[] = "one", two[] = "two";
	struct config_certificate certificates[] = {
		{ .title = one, .chain = files[0], .key = files[1] },
		{ .title = two, .chain = files[2], .key = files[3] },
	};
	struct config_tls outer_tls = {
		.present = true,
		.certificates = certificates,
		.certificates_n = 2,
		.client_auth = CLIENT_AUTH_REQUIRED,
		.client_ca = files[4],
		.client_crl = files[5],
		.client_name = CLIENT_NAME_CN,
		.min_version = MIN_VERSION_1_3,
		.ciphers = files[6],
		.ciphersuites = files[7],
		.groups = files[8],
		.ticket_seconds = 7,
		.ticket_keys = files[9],
		.ktls = KTLS_AUTO,
	};
	struct config_listen listens[] = {
		{ inner, unix_address, CONFIG_PROTOCOL_LINE, true, (char *[]){ network }, 1, true,
		  0660, owner, group, true, inner_tls },
		{ outer, every_address, CONFIG_PROTOCOL_HTTP, false, NULL, 0, false, 0, none, none,
		  false, outer_tls },
	};
	struct config expected = {
		.reactors = 3,
		.placement = PLACEMENT_THREADS,
		.log_level = LOG_DEBUG,
		.log_format = LOG_JSON,
		.stats_seconds = 6,
		.drain_seconds = 11,
		.lame_duck_seconds = 12,
		.listens = listens,
		.listens_n = 2,
		.engine = { 128, 65, 2, 257, 513, 1, 2, 2048, 32 << 10, 3, STEER_CPU },
		.topics = topics,
		.topic = &live,
		.topic_n = 1,
		.limits = { 1, 2, 3, 4, 64 << 20, 5 << 10, 17 << 10, 257 << 10, (size_t)16 << 30, 5,
			    6, 8, 7, (size_t)2 << 30, 8, 9 },
		.http = { (char *[]){ a, b }, 2, (char *[]){ host }, 1, 16, 4, 12, objects, false,
			  false, false },
		.ws = { 31 },
		.nats = { 251, 121, 3 },
		.auth = { ANONYMOUS_ALL,
			  2,
			  65,
			  301,
			  11,
			  cookie,
			  61,
			  { CONFIG_JWT_HS256 | CONFIG_JWT_RS256, (char *[]){ key }, 1, a, us, 6,
			    may } },
		.users = users,
		.users_n = 2,
		.sandbox = false,
	};

	(void)state;
	live.pattern = pattern;
	live.history_bytes = 64 << 20;
	assert_config_equal(c, &expected);
	config_free(c);
	config_free(defaults);
}

static void a_file_that_sets_nothing_is_the_defaults(void **state)
{
	(void)state;
	assert_defaults(load(""));
	assert_defaults(load("\n\n"));
	assert_defaults(load("# nothing\n/* nor\n here */ // and here"));
	assert_defaults(load("engine {}\ntopics {\n}\n"));
	assert_defaults(load(LISTEN));
}

static void a_file_without_a_listener_has_the_default_one(void **state)
{
	static const char *const files[] = { "reactors = 1\n", "topic \"a\" {}\n",
					     "http { page = false }\n" };

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		struct config *c = load(files[i]);

		assert_int_equal(c->listens_n, 1);
		assert_string_equal(c->listens[0].title, "main");
		assert_string_equal(c->listens[0].address, "127.0.0.1:8080");
		assert_int_equal(c->listens[0].protocols,
				 CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP);
		config_free(c);
	}
}

static void a_topic_inherits_from_topics_before_and_behind_it(void **state)
{
	struct config *c = load(LISTEN "topic \"a\" { slow = \"skip\" }\n"
				       "topics { backlog_seconds = 20 slow = \"disconnect\" }\n"
				       "topic \"b\" { backlog_seconds = 30 }\n"
				       "topics { history_messages = 7 }\n");

	(void)state;
	assert_int_equal(c->topics.backlog_seconds, 20);
	assert_int_equal(c->topics.history_messages, 7);
	assert_int_equal(c->topic_n, 2);
	assert_int_equal(c->topic[0].backlog_seconds, 20);
	assert_int_equal(c->topic[0].history_messages, 7);
	assert_int_equal(c->topic[0].slow, SLOW_SKIP);
	assert_int_equal(c->topic[1].backlog_seconds, 30);
	assert_int_equal(c->topic[1].history_messages, 7);
	assert_int_equal(c->topics.section, 0);
	assert_int_equal(c->topic[0].section, 1);
	assert_int_equal(c->topic[1].section, 2);
	assert_int_equal(c->topic[1].slow, SLOW_DISCONNECT);
	config_free(c);
}

static void a_topic_may_set_a_key_to_its_built_in_default(void **state)
{
	struct config *c = load(LISTEN "topics { backlog_seconds = 20 }\n"
				       "topic \"a\" { backlog_seconds = 10 }\n");

	(void)state;
	assert_int_equal(c->topic[0].backlog_seconds, 10);
	config_free(c);
}

static void the_first_topic_that_matches_wins(void **state)
{
	struct config *c = load(LISTEN "topic \"live.*.hd\" {}\ntopic \"live.>\" {}\n");

	(void)state;
	assert_ptr_equal(config_topic(c, SPAN("live.cam.hd")), &c->topic[0]);
	assert_ptr_equal(config_topic(c, SPAN("live.cam")), &c->topic[1]);
	assert_ptr_equal(config_topic(c, SPAN("live")), &c->topics);
	assert_ptr_equal(config_topic(c, SPAN("other")), &c->topics);
	config_free(c);
}

static void sizes_take_k_m_and_g(void **state)
{
	static const struct {
		const char *text;
		size_t bytes;
	} sizes[] = {
		{ "0", 0 },
		{ "5000", 5000 },
		{ "\"5000\"", 5000 },
		{ "3K", 3 << 10 },
		{ "\"3K\"", 3 << 10 },
		{ "'3M'", 3 << 20 },
		{ "\"3G\"", (size_t)3 << 30 },
		{ "\"0G\"", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct config *c = load(text_with("topics", "history_bytes", sizes[i].text));

		assert_int_equal(c->topics.history_bytes, sizes[i].bytes);
		config_free(c);
	}
}

static void auto_stands_for_zero_where_it_may(void **state)
{
	struct config *c = load("reactors = auto\nlimits { memory_bytes = \"auto\" }\n" LISTEN);

	(void)state;
	assert_int_equal(c->reactors, CONFIG_REACTORS_AUTO);
	assert_int_equal(c->limits.memory_bytes, 0);
	config_free(c);
	assert_value_refused("", "stats_seconds", "\"auto\"");
	assert_value_refused("topics", "history_bytes", "\"auto\"");
	assert_value_refused("", "reactors", "0");
	assert_value_refused("limits", "memory_bytes", "0");
}

static void the_last_of_equal_keys_wins(void **state)
{
	struct config *c = load("reactors = 1\nreactors = 2\n"
				"http { allowed_hosts = { a, b } allowed_hosts = { c } }\n"
				"http { allowed_hosts += { d } }\n"
				"http { allowed_origins = { a } allowed_origins = {} }\n" LISTEN);

	(void)state;
	assert_int_equal(c->reactors, 2);
	assert_int_equal(c->http.allowed_hosts_n, 2);
	assert_string_equal(c->http.allowed_hosts[0], "c");
	assert_string_equal(c->http.allowed_hosts[1], "d");
	assert_int_equal(c->http.allowed_origins_n, 0);
	config_free(c);
}

static void comments_may_stand_anywhere(void **state)
{
	struct config *c = load("# one\n"
				"listen // two\n"
				"\"main\" /* three\n"
				"*/ { # four {{{\n"
				"	address = // five \"\n"
				"		\"unix:/a#b//c/*d\" # six\n"
				"	protocols = { # seven\n"
				"		\"line\", # eight }}}\n"
				"		\"http\"\n"
				"	}\n"
				"}\n"
				"# nine");

	(void)state;
	assert_string_equal(c->listens[0].address, "unix:/a#b//c/*d");
	assert_int_equal(c->listens[0].protocols, CONFIG_PROTOCOL_LINE | CONFIG_PROTOCOL_HTTP);
	config_free(c);
}

static void a_file_may_end_without_a_newline_and_have_crlf(void **state)
{
	(void)state;
	assert_accepted("listen \"main\" {\r\naddress = \"[::1]:1\"\r\n}\r\nreactors = 2");
}

static void a_file_can_be_loaded_again_and_again(void **state)
{
	(void)state;
	for (int i = 0; i < 30; i++) {
		config_free(load(other_values));
		assert_refused("reactors = \"x", "a.conf:1: text: ");
		assert_refused("engine { include(\"a.conf\") }", "a.conf:1: include: unknown");
		write_file("b.conf", "reactors = {");
		assert_refused("include(\"b.conf\")", "b.conf:1: {: ");
	}
}

/* ---- Decimals ---- */

static void a_decimal_is_kept_in_hundredths(void **state)
{
	static const struct {
		const char *text;
		unsigned value;
	} right[] = { { "0", 0 },    { "1", 100 },    { "1.0", 100 },      { "2.5", 250 },
		      { "0.05", 5 }, { "1.25", 125 }, { "100.00", 10000 }, { "007.1", 710 } };
	static const char *const wrong[] = { "1.", ".5", "1..5", "1.5.2", "-1", "1,5", "1e1", "x" };
	char text[100], start[100];

	(void)state;
	for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
		struct config *c;

		snprintf(text, sizeof(text), "topics { pace = %s }\n" LISTEN, right[i].text);
		c = load(text);
		assert_int_equal(c->topics.pace, right[i].value);
		config_free(c);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		snprintf(text, sizeof(text), "topics { pace = \"%s\" }\n" LISTEN, wrong[i]);
		snprintf(start, sizeof(start), "a.conf:1: pace: \"%s\" is not a number, ",
			 wrong[i]);
		assert_refused(text, start);
	}
	assert_refused("topics { pace = 1.234 }\n" LISTEN,
		       "a.conf:1: pace: \"1.234\" has more than two decimals, ");
	assert_refused("topics { pace = 99999999999999999999 }\n" LISTEN,
		       "a.conf:1: pace: \"99999999999999999999\" is out of range, ");
}

/* ---- Ranges ---- */

static void numbers_are_held_to_their_range(void **state)
{
	static const struct {
		const char *section, *key, *below, *lowest, *highest, *above;
	} ranges[] = {
		{ "", "reactors", "0", "1", "1024", "1025" },
		{ "", "stats_seconds", "-1", "0", "86400", "86401" },
		{ "", "drain_seconds", "-1", "0", "3600", "3601" },
		{ "", "lame_duck_seconds", "-1", "0", "3600", "3601" },
		{ "engine", "sq_entries", "0", "1", "32768", "32769" },
		{ "engine", "batch", "0", "1", "32768", "32769" },
		{ "engine", "lane_entries", "1", "2", "1048576", "2097152" },
		{ "engine", "lane_batch", "0", "1", "1048576", "1048577" },
		{ "engine", "turn_sends", "0", "1", "1048576", "1048577" },
		{ "engine", "spin_us", "-1", "0", "1000000", "1000001" },
		{ "engine", "linger_us", "-1", "0", "1000000", "1000001" },
		{ "engine", "recv_buffers", "0", "1", "32768", "65536" },
		{ "engine", "recv_buffer_bytes", "1023", "1K", "1M", "1048577" },
		{ "engine", "sqpoll_idle_ms", "-1", "0", "3600000", "3600001" },
		{ "topics", "history_messages", "-1", "0", "1000000000", "1000000001" },
		{ "topics", "history_bytes", "-1", "0", "1048576G", "1125899906842625" },
		{ "topics", "history_seconds", "0", "1", "31536000", "31536001" },
		{ "topics", "backlog_bytes", "1023", "1K", "1048576G", "1125899906842625" },
		{ "topics", "backlog_seconds", "0", "1", "31536000", "31536001" },
		{ "topics", "linger_seconds", "-1", "0", "31536000", "31536001" },
		{ "topics", "pace", "-1", "0", "100", "100.01" },
		{ "topic a", "history_seconds", "0", "1", "31536000", "31536001" },
		{ "limits", "connections", "0", "1", "16000000", "16000001" },
		{ "limits", "connections_per_ip", "-1", "0", "16000000", "16000001" },
		{ "limits", "handshake_seconds", "0", "1", "3600", "3601" },
		{ "limits", "idle_seconds", "-1", "0", "31536000", "31536001" },
		{ "limits", "message_bytes", "0", "1", "64M", "67108865" },
		{ "limits", "command_bytes", "511", "512", "1M", "1048577" },
		{ "limits", "header_bytes", "1023", "1K", "1M", "1048577" },
		{ "limits", "send_buffer_bytes", "4095", "4K", "1G", "1073741825" },
		{ "limits", "history_total_bytes", "-1", "0", "1048576G", "1125899906842625" },
		{ "limits", "topics", "0", "1", "1000000000", "1000000001" },
		{ "limits", "subscriptions", "0", "1", "1000000000", "1000000001" },
		{ "limits", "subscriptions_per_connection", "0", "1", "1000000000", "1000000001" },
		{ "limits", "globs", "-1", "0", "1000000", "1000001" },
		{ "limits", "memory_bytes", "16777215", "16M", "1048576G", "1125899906842625" },
		{ "http", "heartbeat_seconds", "0", "1", "3600", "3601" },
		{ "http", "ahead", "-1", "0", "1000", "1001" },
		{ "http", "wait_seconds", "-1", "0", "3600", "3601" },
		{ "nats", "hello_ms", "0", "1", "60000", "60001" },
		{ "nats", "ping_seconds", "0", "1", "86400", "86401" },
		{ "nats", "pings_out", "0", "1", "100", "101" },
		{ "ws", "ping_seconds", "0", "1", "3600", "3601" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		assert_value_refused(ranges[i].section, ranges[i].key, ranges[i].below);
		assert_value_accepted(ranges[i].section, ranges[i].key, ranges[i].lowest);
		assert_value_accepted(ranges[i].section, ranges[i].key, ranges[i].highest);
		assert_value_refused(ranges[i].section, ranges[i].key, ranges[i].above);
	}
}

static void what_is_not_a_number_is_refused(void **state)
{
	static const char *const values[] = {
		"\"\"",         "x",
		"1x",           "0x10",
		"1.5",          "-5",
		"\"+5\"",       "\" 5\"",
		"\"5 \"",       "\"1K\"",
		"true",         "\"1 2\"",
		"1e3",          "99999999999999999999",
		"\"\xd9\xa1\"",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		assert_value_refused("", "reactors", values[i]);
}

static void what_is_not_a_size_is_refused(void **state)
{
	static const char *const values[] = {
		"\"\"",
		"K",
		"\"-1K\"",
		"\"1 K\"",
		"1KB",
		"1k",
		"1KK",
		"1T",
		"1.5M",
		"-1",
		"18446744073709551616",
		"\"18446744073709551615G\"",
		"\"17179869184G\"",
		"\"G1\"",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		assert_value_refused("topics", "history_bytes", values[i]);
}

static void lanes_and_receive_buffers_are_powers_of_two(void **state)
{
	(void)state;
	assert_value_refused("engine", "lane_entries", "3");
	assert_value_accepted("engine", "lane_entries", "4");
	assert_value_refused("engine", "lane_entries", "5");
	assert_value_refused("engine", "lane_entries", "4095");
	assert_value_refused("engine", "recv_buffers", "1000");
	assert_value_accepted("engine", "recv_buffers", "512");
}

static void words_are_those_documented(void **state)
{
	static const char *const words[][3] = {
		{ "", "placement", "cores|threads|none" },
		{ "", "log_level", "error|warn|info|debug" },
		{ "", "log_format", "text|json" },
		{ "", "sandbox", "true|false" },
		{ "listen", "protocols", "line|http|resp|nats|mqtt" },
		{ "engine", "steer", "none|cpu" },
		{ "topics", "slow", "disconnect|skip" },
		{ "topics", "on_last_publisher", "keep|bye" },
		{ "topics", "passing", "true|false" },
		{ "topics", "order", "topic|section" },
		{ "http", "page", "true|false" },
		{ "http", "page_local_only", "true|false" },
		{ "http", "page_publish", "true|false" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		char all[64], *rest = all;

		strcpy(all, words[i][2]);
		for (const char *word; (word = strsep(&rest, "|")) != NULL;)
			assert_value_accepted(words[i][0], words[i][1], word);
		snprintf(all, sizeof(all), "\"%s\"", words[i][2]);
		assert_value_refused(words[i][0], words[i][1], all);
		assert_value_refused(words[i][0], words[i][1], "\"\"");
		assert_value_refused(words[i][0], words[i][1], "nonsense");
		assert_value_refused(words[i][0], words[i][1], "1");
	}
}

static void only_a_unix_socket_has_a_file_with_a_mode_and_owners(void **state)
{
	static const char *const keys[] = { "mode = \"0660\"", "owner = root", "group = root" };
	static const char *const wrong[] = { "0", "1777", "0680", "rw" };
	char text[256];

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		snprintf(text, sizeof(text), "listen m { address = \"unix:/a\" %s }\n", keys[i]);
		assert_accepted(text);
		snprintf(text, sizeof(text), "listen m { address = \"[::1]:1\" %s }\n", keys[i]);
		assert_refused(text, "a.conf:1: ");
	}
	assert_accepted("listen m { address = \"unix:/a\" mode = \"777\" }\n");
	assert_accepted("listen m { address = \"unix:/a\" mode = \"\" }\n");
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		snprintf(text, sizeof(text), "listen m { address = \"unix:/a\" mode = \"%s\" }\n",
			 wrong[i]);
		assert_refused(text, "a.conf:1: mode: ");
	}
}

static void proxies_are_addresses_or_networks_and_some_are_named(void **state)
{
	(void)state;
	assert_value_accepted("listen", "proxy_from", "{ \"10.1.2.3\", \"::1\", \"::/0\" }");
	assert_value_refused("listen", "proxy_from", "\"10.0.0.0/33\"");
	assert_value_refused("listen", "proxy_from", "\"10.0.0.0/\"");
	assert_value_refused("listen", "proxy_from", "\"proxy.example\"");
	assert_refused("listen m { address = \"[::1]:1\" proxy_protocol = true }\n",
		       "a.conf:1: proxy_from: none at all");
	assert_accepted("listen m { address = \"unix:/a\" proxy_protocol = true }\n");
}

static void what_is_only_ipv6_leaves_ipv4_to_others(void **state)
{
	static const char every[] =
		"listen a { address = \"[::]:1\" v6only = %s allow_plain = true }\n"
		"listen b { address = \"0.0.0.0:1\" allow_plain = true }\n";
	char text[256];

	(void)state;
	snprintf(text, sizeof(text), every, "true");
	assert_accepted(text);
	snprintf(text, sizeof(text), every, "false");
	assert_refused(text, "a.conf:2: address: ");
}

static void an_empty_list_of_protocols_is_refused(void **state)
{
	(void)state;
	assert_value_refused("listen", "protocols", "{}");
	assert_value_accepted("listen", "protocols", "{ line, line }");
	assert_value_refused("listen", "protocols", "{ line, smtp, http }");
}

/* ---- Addresses and patterns ---- */

static void assert_address(const char *address, bool valid)
{
	char text[512];

	snprintf(text, sizeof(text), "listen m {\naddress = \"%s\"\nallow_plain = true }\n",
		 address);
	if (valid)
		assert_accepted(text);
	else
		assert_refused(text, "a.conf:2: address: \"");
}

static void addresses_are_numeric_with_a_port(void **state)
{
	static const char *const good[] = { "127.0.0.1:8080", "0.0.0.0:1",  "[::]:8080",
					    "[::1]:65535",    "10.0.0.1:0", "[fe80::1]:08080" };
	static const char *const bad[] = {
		"",
		":",
		"8080",
		":8080",
		"127.0.0.1",
		"127.0.0.1:",
		"127.0.0.1:x",
		"127.0.0.1:80x",
		"1.2.3:80",
		"1.2.3.256:80",
		"127.0.0.1:-1",
		"127.0.0.1:65536",
		"::1:80",
		"[::1]",
		"[::1]80",
		"[]:80",
		"[:80",
		"[127.0.0.1]:80",
		"localhost:80",
		"127.0.0.1:999999",
		"ab:80",
		"[::1:80",
		"127.0.0.1: 80",
		"[1:2:3:4:5:6:7:8:9]:80",
		"*:80",
		"127.0.0.1:80:80",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_address(good[i], true);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_address(bad[i], false);
}

static void a_unix_path_is_absolute_and_shorter_than_108_bytes(void **state)
{
	char address[128] = "unix:/";

	(void)state;
	assert_address("unix:", false);
	assert_address("unix:run/broker", false);
	assert_address("unix:/a:b", true);
	for (size_t n = 106; n <= 108; n++) {
		memset(address + 5, '/', n);
		address[5 + n] = '\0';
		assert_address(address, n < 108);
	}
}

static void assert_pair(const char *a, const char *b, bool conflict)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "listen a { address = \"%s\" allow_plain = true }\n"
		 "listen b { address = \"%s\" allow_plain = true }",
		 a, b);
	if (conflict)
		assert_refused(text, "a.conf:2: address: \"");
	else
		assert_accepted(text);
}

static void two_listeners_on_one_address_are_refused(void **state)
{
	static const struct {
		const char *a, *b;
		bool conflict;
	} pairs[] = {
		{ "127.0.0.1:80", "127.0.0.1:80", true },
		{ "127.0.0.1:80", "127.0.0.1:080", true },
		{ "127.0.0.1:80", "127.0.0.1:81", false },
		{ "127.0.0.1:80", "127.0.0.2:80", false },
		{ "0.0.0.0:80", "127.0.0.1:80", true },
		{ "0.0.0.0:80", "127.0.0.1:81", false },
		{ "0.0.0.0:80", "[::1]:80", false },
		{ "[::]:80", "[::1]:80", true },
		{ "[::]:80", "127.0.0.1:80", true },
		{ "[::]:80", "0.0.0.0:80", true },
		{ "[::]:80", "[0:0:0:0:0:0:0:0]:80", true },
		{ "[::1]:80", "[0:0:0:0:0:0:0:1]:80", true },
		{ "[::1]:80", "127.0.0.1:80", false },
		{ "[::FFFF:127.0.0.1]:80", "127.0.0.1:80", true },
		{ "127.0.0.1:0", "127.0.0.1:0", false },
		{ "0.0.0.0:0", "127.0.0.1:0", false },
		{ "unix:/run/a", "unix:/run/a", true },
		{ "unix:/run/a", "unix:/run/b", false },
		{ "unix:/run/a", "127.0.0.1:0", false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		assert_pair(pairs[i].a, pairs[i].b, pairs[i].conflict);
		assert_pair(pairs[i].b, pairs[i].a, pairs[i].conflict);
	}
}

static void an_address_that_a_listener_gives_up_is_free(void **state)
{
	(void)state;
	assert_accepted("listen a { address = \"[::1]:1\" address = \"[::1]:1\" }\n");
	assert_accepted("listen a { address = \"[::1]:1\" address = \"[::1]:2\" }\n"
			"listen b { address = \"[::1]:1\" }\n");
}

static void a_listener_needs_an_address_and_a_title(void **state)
{
	(void)state;
	assert_refused(LISTEN "listen \"b\"\n{\n}\n", "a.conf:3: address: ");
	assert_refused("listen \"\" { address = \"[::1]:1\" }", "a.conf:1: listen: ");
	assert_refused("listen { address = \"[::1]:1\" }", "a.conf:1: listen: has no title");
}

static void titles_may_not_be_taken_twice(void **state)
{
	(void)state;
	assert_refused(LISTEN "listen \"main\" { address = \"[::1]:1\" }", "a.conf:2: main: ");
	assert_refused(LISTEN "topic \"a.>\" {}\n\ntopic \"a.>\" {}\n", "a.conf:4: a.>: ");
	assert_accepted(LISTEN "topic \"main\" {}");
}

static void a_bad_pattern_is_named_where_its_section_begins(void **state)
{
	static const char *const patterns[] = { "", "a..b", "a*", ">.a", "a\x7f", "a.", "\xff" };

	(void)state;
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		char text[256];

		snprintf(text, sizeof(text), LISTEN "\n# here\ntopic \"%s\" {\n\n\n}\n",
			 patterns[i]);
		assert_refused(text, "a.conf:4: topic: \"");
	}
}

/* ---- Errors ---- */

static void unknown_key_is_named_with_its_line(void **state)
{
	(void)state;
	assert_refused("reactor = 1\n", "a.conf:1: reactor: unknown here, use one of reactors ");
	assert_refused("# a\n# b\n\n/* c\n * d\n */ engine { # e\n\tbatches = 3\n}\n",
		       "a.conf:7: batches: unknown here, use one of sq_entries batch ");
	assert_refused(LISTEN "topic \"a\" {\n\tpattern = 3\n}\n", "a.conf:3: pattern: unknown");
	assert_refused(LISTEN "listen \"b\" {\n\tport = 3\n}\n",
		       "a.conf:3: port: unknown here, use one of address protocols "
		       "proxy_protocol proxy_from v6only mode "
		       "owner group allow_plain tls\n");
	assert_refused("batch = 3\n", "a.conf:1: batch: unknown");
}

static void unknown_section_is_named_with_its_line(void **state)
{
	(void)state;
	assert_refused("\nmotor {\n}\n", "a.conf:2: motor: unknown");
	assert_refused("\n\nroot {\n}\n", "a.conf:3: root: unknown");
	assert_refused("engine {\nengine {\n}\n}\n", "a.conf:2: engine: unknown");
}

static void a_path_is_not_a_key(void **state)
{
	(void)state;
	assert_refused("\nengine|batch = 3\n", "a.conf:2: batch: unknown");
	assert_refused(LISTEN "\"listen=main|address\" = \"[::1]:1\"\n", "a.conf:2: address: ");
	assert_refused("listen \"m\" { \"title=\" = x }\n", "a.conf:1: ");
}

static void a_value_is_named_with_its_line_and_what_would_be_right(void **state)
{
	(void)state;
	assert_refused(LISTEN "engine {\n\n\tbatch = 0 # none\n}\n",
		       "a.conf:4: batch: \"0\" is out of range, use a number from 1 to 32768\n");
	assert_refused(LISTEN "limits {\n\tmemory_bytes =\n\t\"1K\"\n}\n",
		       "a.conf:4: memory_bytes: \"1K\" is out of range, "
		       "use a size from 16M to 1048576G, or \"auto\"\n");
	assert_refused(LISTEN "log_level = \"loud\"", "a.conf:2: log_level: \"loud\" is unknown, "
						      "use one of error|warn|info|debug\n");
	assert_refused("listen \"m\" {\n\taddress = \"here\"\n\tprotocols = { line }\n}\n",
		       "a.conf:2: address: \"here\" has no port, use one like 127.0.0.1:8080, "
		       "[::1]:8080 or unix:/path (a path of up to 107 bytes)\n");
}

static void every_bad_value_is_reported(void **state)
{
	struct config *config;

	(void)state;
	write_file("a.conf", "reactors = 0\n"
			     "engine { batch = 0\n lane_entries = 3 }\n"
			     "listen \"m\" { protocols = { x,\n y } }\n"
			     "wrong = 1\n"
			     "stats_seconds = x\n");
	assert_int_equal(load_path(in_dir("a.conf"), &config), -EINVAL);
	assert_non_null(strstr(said, "a.conf:1: reactors: \"0\""));
	assert_non_null(strstr(said, "a.conf:2: batch: \"0\""));
	assert_non_null(strstr(said, "a.conf:3: lane_entries: \"3\" is not a power of two, "));
	assert_non_null(strstr(said, "a.conf:4: protocols: \"x\""));
	assert_non_null(strstr(said, "a.conf:5: protocols: \"y\""));
	assert_non_null(strstr(said, "a.conf:4: address: none"));
	assert_non_null(strstr(said, "a.conf:6: wrong: unknown"));
	assert_null(strstr(said, "stats_seconds: "));
}

static void bad_syntax_is_named_with_its_line(void **state)
{
	(void)state;
	assert_refused("\nreactors 3\n", "a.conf:2: reactors: has no value");
	assert_refused("\nreactors = = 3\n", "a.conf:2: =: is out of place");
	assert_refused("\nreactors = { 3 }\n", "a.conf:2: {: is out of place");
	assert_refused("\n\"\" = 3\n", "a.conf:2: syntax: ");
	assert_refused("\nreactors = (3)\n", "a.conf:2: (: ");
	assert_refused("\nreactors += 3\n", "a.conf:2: reactors: is not a list");
	assert_refused("\nengine = 3\n", "a.conf:2: engine: has no {");
	assert_refused("\n}\n", "a.conf:2: syntax: unexpected closing brace, ");
	assert_refused(LISTEN "listen b b {}\n", "a.conf:2: listen: has no {");
	assert_refused("\nhttp { allowed_hosts = { a b } }\n", "a.conf:2: b: is out of place");
	assert_refused(LISTEN "http { objects_dir = \"\\999\" }", "a.conf:2: \\999: ");
}

static void a_truncated_file_is_refused(void **state)
{
	size_t end = sizeof(other_values) - 1;
	struct config *config;

	(void)state;
	assert_refused("reactors =", "a.conf:1: syntax: premature end of file, ");
	assert_refused("reactors", "a.conf:1: syntax: premature end of file, ");
	assert_refused(LISTEN "engine {\n\tbatch = 3\n", "a.conf:2: {: opens here");
	assert_refused(LISTEN "http {\n\tallowed_hosts = { a,\n", "a.conf:2: {: opens here");
	assert_refused("\nlog_level = \"info\n\n\n", "a.conf:2: text: begins here");
	assert_refused("\nlog_level = 'info\\'\n", "a.conf:2: text: begins here");
	assert_refused("\nlog_level = \"info\\", "a.conf:2: text: begins here");
	assert_refused(LISTEN "\n/* comment * /\n\n", "a.conf:3: comment: begins here");

	/* Whatever is left of a file, it is read or refused in words. */
	for (size_t n = 0; n < end; n++) {
		write_bytes("a.conf", other_values, n);
		load_path(in_dir("a.conf"), &config);
		config_free(config);
	}
}

static void what_cannot_be_read_is_an_error(void **state)
{
	struct config *config;

	(void)state;
	assert_int_equal(load_path(in_dir("none.conf"), &config), -ENOENT);
	assert_non_null(strstr(said, "none.conf: file: cannot read none.conf (No such file"));
	assert_int_equal(load_path(dir, &config), -EISDIR);
	assert_int_equal(load_path("", &config), -ENOENT);
	write_file("a.conf", LISTEN);
	assert_int_equal(chmod(in_dir("a.conf"), 0), 0);
	if (access(in_dir("a.conf"), R_OK) != 0) /* root may read anything */
		assert_int_equal(load_path(in_dir("a.conf"), &config), -EACCES);
	chmod(in_dir("a.conf"), 0600);
}

static void a_file_that_is_not_text_is_refused(void **state)
{
	static const char nul[] = LISTEN "reactors = 1\0 2\n";
	struct config *config;

	(void)state;
	write_bytes("a.conf", nul, sizeof(nul) - 1);
	assert_int_equal(load_path(in_dir("a.conf"), &config), -EILSEQ);
	assert_int_equal(load_path("/dev/zero", &config), -EILSEQ);
}

/* ---- Included files ---- */

static void include_is_relative_to_the_file_that_includes(void **state)
{
	struct config *c;

	(void)state;
	assert_int_equal(mkdir(in_dir("sub"), 0700), 0);
	write_file("sub/c.conf", "include(\"d.conf\")\ninclude('../b.conf')\nstats_seconds = 1\n");
	write_file("sub/d.conf", "drain_seconds = 2");
	write_file("b.conf", LISTEN "reactors = 9");
	c = load("reactors = 1\ninclude(\"sub/c.conf\")\nstats_seconds = 3\n");
	assert_int_equal(c->reactors, 9);
	assert_int_equal(c->stats_seconds, 3);
	assert_int_equal(c->drain_seconds, 2);
	assert_int_equal(c->listens_n, 1);
	config_free(c);
}

static void include_takes_an_absolute_path(void **state)
{
	char text[128];

	(void)state;
	write_file("b.conf", LISTEN);
	snprintf(text, sizeof(text), "include(\"%s/b.conf\")", dir);
	assert_accepted(text);
}

static void an_error_is_named_in_the_file_it_is_in(void **state)
{
	(void)state;
	write_file("b.conf", LISTEN "\nreactors = 0\n");
	assert_refused("\n\ninclude(\"b.conf\")\n", "b.conf:3: reactors: ");
	write_file("b.conf", LISTEN "\n\n\n");
	assert_refused("include(\"b.conf\")\n\nreactors = 0\n", "a.conf:3: reactors: ");
	assert_refused(
		"include(\"b.conf\")\nlisten b { address = \"0.0.0.0:8080\" allow_plain = true "
		"}\n",
		"a.conf:2: address: ");
	write_file("b.conf", "\n}\n");
	assert_refused("engine {\n}\ninclude(\"b.conf\")\n", "b.conf:2: syntax: ");
	write_file("b.conf", "engine {\n");
	assert_refused("include(\"b.conf\")\n}\n", "b.conf:1: {: ");
}

static void a_bad_include_is_named_with_its_line(void **state)
{
	(void)state;
	assert_refused("\ninclude(\"none.conf\")\n",
		       "a.conf:2: include: cannot read none.conf (No such file");
	assert_refused("\ninclude(\".\")\n", "a.conf:2: include: cannot read .");
	assert_refused("\ninclude()\n", "a.conf:2: include: takes one file");
	assert_refused("\ninclude(\"b.conf\", \"c.conf\")\n", "a.conf:2: (: is not followed");
	assert_refused("\ninclude(\"b.conf\" \"c.conf\")\n", "a.conf:2: (: is not followed");
	assert_refused("\ninclude(b.conf)\n", "a.conf:2: (: is not followed");
	assert_refused("\ninclude(\"b.conf\"\n", "a.conf:2: (: is not followed");
	assert_refused("\ninclude(\"b.conf\"", "a.conf:2: (: is not followed");
	assert_refused("\ninclude \"b.conf\"\n", "a.conf:2: include: has no (");
	assert_refused("\ninclude(\"a.conf\")\n", "a.conf:2: include: more than 10 files deep");
}

/* ---- Reload ---- */

static void assert_restart(const char *old_text, const char *new_text, const char *expected)
{
	struct config *old_config = load(old_text), *new_config = load(new_text);
	char buf[256];

	assert_string_equal(config_restart_keys(old_config, new_config, buf, sizeof(buf)),
			    expected);
	config_free(old_config);
	config_free(new_config);
}

static void keys_that_need_a_restart_are_named(void **state)
{
	(void)state;
	assert_restart(LISTEN, LISTEN, "");
	assert_restart(LISTEN, "", "");
	assert_restart(LISTEN,
		       "log_level = \"debug\" topics { history_messages = 1 } topic \"a\" {}\n"
		       "http { allowed_hosts = { a } } limits { idle_seconds = 3 }\n" LISTEN,
		       "");
	assert_restart(LISTEN, "engine { batch = 1 } sandbox = false reactors = 2\n" LISTEN,
		       "reactors, sandbox, engine.batch");
	assert_restart(LISTEN, "listen \"main\" { address = \"127.0.0.1:8081\" }", "listen");
	assert_restart("listen m { address = \"[::1]:1\" proxy_from = \"10.0.0.1\" }",
		       "listen m { address = \"[::1]:1\" proxy_from = \"10.0.0.2\" }", "listen");
	assert_restart(LISTEN, "listen \"other\" { address = \"127.0.0.1:8080\" }", "listen");
	assert_restart(LISTEN, LISTEN "listen \"b\" { address = \"[::1]:1\" }", "listen");
	assert_restart(LISTEN,
		       "listen \"main\" { address = \"127.0.0.1:8080\" protocols = { line } }",
		       "listen");
	assert_restart("topic a {} " LISTEN, "topic b {} " LISTEN, "");
	assert_restart(LISTEN, "topic \"a.>\" { order = \"section\" } " LISTEN, "topic.order");
	assert_restart("topic a { order = \"section\" } " LISTEN,
		       "topic b { order = \"section\" } " LISTEN, "topic.order");
}

static void a_certificate_needs_no_restart_but_tls_where_there_was_none_does(void **state)
{
#define BEGIN "listen m { address = \"[::1]:1\" "

	(void)state;
	assert_restart(BEGIN "tls { certificate a { chain = b key = c } } }",
		       BEGIN "tls { certificate d { chain = e key = f } groups = g } }", "");
	assert_restart(BEGIN "}", BEGIN "tls { } }", "listen");
	assert_restart(BEGIN "tls { } }", BEGIN "}", "listen");
}

static void nobody_listens_in_clear_beyond_this_host_unless_that_is_said(void **state)
{
	static const char *const open[] = { "0.0.0.0:1", "[::]:1", "192.0.2.1:1" };
	static const char *const local[] = { "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1",
					     "unix:/a" };
	char text[200];

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		char right[200];

		snprintf(text, sizeof(text), "listen m {\n address = \"%s\"\n}\n", open[i]);
		snprintf(right, sizeof(right),
			 "a.conf:2: address: \"%s\" takes clients from other hosts in clear, use a "
			 "tls section, or allow_plain = true",
			 open[i]);
		assert_refused(text, right);
		snprintf(text, sizeof(text), "listen m { address = \"%s\" allow_plain = true }",
			 open[i]);
		config_free(load(text));
		snprintf(text, sizeof(text), "listen m { address = \"%s\" tls { } }", open[i]);
		config_free(load(text));
	}
	for (size_t i = 0; i < 4; i++) {
		snprintf(text, sizeof(text), "listen m { address = \"%s\" }", local[i]);
		config_free(load(text));
	}
	assert_refused("listen m {\naddress = \"[::]:1\" tls { } tls { } }",
		       "a.conf:1: tls: more than one, ");
}

static void where_a_certificate_stands_is_remembered(void **state)
{
	struct config *c = load("listen m {\n address = \"[::1]:1\"\n tls {\n  groups = a\n"
				"  certificate b {\n   chain = c\n\n   key = d\n  }\n"
				"  ciphers = e\n }\n}\n");
	const struct config_tls *tls = &c->listens[0].tls;

	(void)state;
	assert_string_equal(strrchr(tls->where.file, 0x2f), "/a.conf");
	assert_int_equal(config_line(&tls->where, "tls", "client_ca"), 3);
	assert_int_equal(config_line(&tls->where, "tls", "groups"), 4);
	assert_int_equal(config_line(&tls->where, "tls", "ciphers"), 10);
	assert_int_equal(tls->certificates_n, 1);
	assert_int_equal(config_line(&tls->certificates[0].where, "certificate", "chain"), 6);
	assert_int_equal(config_line(&tls->certificates[0].where, "certificate", "key"), 8);
	config_free(c);
}

static void names_that_do_not_fit_are_left_out(void **state)
{
	struct config *a = config_defaults();
	struct config *b = load("engine { batch = 1 } reactors = 2\n" LISTEN);
	char buf[64];

	(void)state;
	assert_string_equal(config_restart_keys(a, b, buf, sizeof("reactors, engine.batch")),
			    "reactors, engine.batch");
	assert_string_equal(config_restart_keys(a, b, buf, sizeof("reactors, engine.batch") - 1),
			    "reactors");
	assert_string_equal(config_restart_keys(a, b, buf, sizeof("reactors") - 1), "");
	assert_string_equal(config_restart_keys(a, b, buf, 1), "");
	config_free(a);
	config_free(b);
}

static void freeing_nothing_is_allowed(void **state)
{
	(void)state;
	config_free(NULL);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, make_dir, remove_dir)

/* ---- Users ---- */

static void a_user_is_refused_whose_name_or_credentials_are_none(void **state)
{
	(void)state;
	assert_refused(LISTEN "user \"\" {}", "a.conf:2: user: ");
	assert_refused(LISTEN "user \"a\\001b\" {}", "a.conf:2: user: ");
	assert_refused(LISTEN "user \"a:b\" {}", "a.conf:2: user: ");
	assert_refused(LISTEN "user \"a\" {}\nuser \"a\" {}", "a.conf:3: ");
	assert_refused(LISTEN "user a { token_hash = { \"sha256:12\" } }",
		       "a.conf:2: token_hash: ");
	assert_refused(LISTEN "user a { password_hash = \"$1$abc$def\" }",
		       "a.conf:2: password_hash: ");
	/* A salt alone, as a hash that was cut. */
	assert_refused(LISTEN "user a { password_hash = \"$6$abcdefgh\" }",
		       "a.conf:2: password_hash: ");
	assert_refused(LISTEN "user a { uid = root }", "a.conf:2: uid: ");
	assert_refused(LISTEN "user a { uid = 4294967295 }", "a.conf:2: uid: ");
	assert_refused(LISTEN "user a { publish = { \"a..b\" } }", "a.conf:2: publish: ");
	assert_accepted(LISTEN "user a { uid = 0 publish = {} subscribe = { \"a.*\", \">\" } }");
	assert_accepted(LISTEN "user \"J\303\274rgen L.\" { password_hash = \"" HASH "\" }");
}

/* ---- Upstream ---- */

#define UPSTREAM(keys)                                                                             \
	LISTEN "upstream \"nats\" { servers = { \"nats://10.0.0.1\" } topics = { \"live.>\" "      \
	       "} " keys " }"

static void every_key_of_an_upstream_is_read(void **state)
{
	struct config *c = load(LISTEN "upstream \"nats\" {\n"
				       "	servers = { \"nats://10.0.0.1:4223\", \"[::1]\" }\n"
				       "	topics = { \"live.>\", \"chat.*\" }\n"
				       "	log = \"none\"\n"
				       "	stream = \"LIVE\"\n"
				       "	create = true\n"
				       "	deliver_prefix = \"out.\"\n"
				       "	tail_seconds = 6\n"
				       "	repair_seconds = 17\n"
				       "	repair_bytes = \"17M\"\n"
				       "	publish_prefix = \"site.\"\n"
				       "	user = \"broker\"\n"
				       "	password_file = \"/dev/null\"\n"
				       "	token_file = \"/dev/zero\"\n"
				       "	tls { ca = \"ca.pem\" certificate = \"a.pem\"\n"
				       "	      key = \"a.key\" }\n"
				       "	ping_seconds = 3\n"
				       "	reconnect_ms_min = 51\n"
				       "	reconnect_ms_max = 2001\n"
				       "	publish_seconds = 16\n"
				       "	in_flight = 1025\n"
				       "	in_flight_bytes = \"9M\"\n"
				       "	linger_seconds = 61\n"
				       "	not_ready_seconds = 4\n"
				       "}\n");
	const struct config_upstream *u = c->upstreams;

	(void)state;
	assert_int_equal(c->upstreams_n, 1);
	assert_string_equal(u->title, "nats");
	assert_int_equal(u->servers_n, 2);
	assert_string_equal(u->servers[1], "[::1]");
	assert_int_equal(u->topics_n, 2);
	assert_string_equal(u->topics[1], "chat.*");
	assert_int_equal(u->log, CONFIG_LOG_NONE);
	assert_string_equal(u->stream, "LIVE");
	assert_true(u->create);
	assert_string_equal(u->deliver_prefix, "out.");
	assert_int_equal(u->tail_seconds, 6);
	assert_int_equal(u->repair_seconds, 17);
	assert_int_equal(u->repair_bytes, 17 << 20);
	assert_string_equal(u->publish_prefix, "site.");
	assert_string_equal(u->user, "broker");
	assert_string_equal(u->password_file, "/dev/null");
	assert_string_equal(u->token_file, "/dev/zero");
	assert_string_equal(u->tls.ca, "ca.pem");
	assert_string_equal(u->tls.certificate, "a.pem");
	assert_string_equal(u->tls.key, "a.key");
	assert_int_equal(config_line(&u->tls.where, "upstream.tls", "key"), 17);
	assert_int_equal(u->ping_seconds, 3);
	assert_int_equal(u->reconnect_ms_min, 51);
	assert_int_equal(u->reconnect_ms_max, 2001);
	assert_int_equal(u->publish_seconds, 16);
	assert_int_equal(u->in_flight, 1025);
	assert_int_equal(u->in_flight_bytes, 9 << 20);
	assert_int_equal(u->linger_seconds, 61);
	assert_int_equal(u->not_ready_seconds, 4);
	config_free(c);
}

static void an_upstream_is_refused_that_cannot_be(void **state)
{
	(void)state;
	assert_accepted(UPSTREAM(""));
	assert_refused(LISTEN "upstream a { topics = { \">\" } }", "a.conf:2: servers: ");
	assert_refused(LISTEN "upstream a { servers = { \"10.0.0.1\" } }", "a.conf:2: topics: ");
	assert_refused(LISTEN "upstream a { servers = { \"http://a\" } topics = { \">\" } }",
		       "a.conf:2: servers: ");
	assert_accepted(LISTEN "upstream a { servers = { \"tls://a\" } topics = { \">\" } }");
	assert_refused(UPSTREAM("tls { certificate = \"a.pem\" }"), "a.conf:2: key: ");
	assert_refused(UPSTREAM("tls { key = \"a.key\" }"), "a.conf:2: certificate: ");
	assert_refused(UPSTREAM("tls { client_ca = \"a\" }"), "a.conf:2: client_ca: unknown here");
	assert_refused(UPSTREAM("topics = { \"a..b\" }"), "a.conf:2: topics: ");
	assert_refused(UPSTREAM("publish_prefix = \"site\""), "a.conf:2: publish_prefix: ");
	assert_refused(UPSTREAM("publish_prefix = \"a b.\""), "a.conf:2: publish_prefix: ");
	assert_refused(UPSTREAM("log = \"jetstream\""), "a.conf:2: stream: ");
	assert_refused(UPSTREAM("log = \"jetstream\" stream = \"\""), "a.conf:2: stream: ");
	assert_refused(UPSTREAM("stream = \"a.b\""), "a.conf:2: stream: ");
	assert_refused(UPSTREAM("log = \"jetstream\" stream = \"A\" deliver_prefix = \"\""),
		       "a.conf:2: deliver_prefix: ");
	assert_refused(UPSTREAM("deliver_prefix = \"fan\""), "a.conf:2: deliver_prefix: ");
	assert_accepted(UPSTREAM("log = \"jetstream\" stream = \"A\""));
	assert_refused(UPSTREAM("password_file = \"/nowhere\""), "a.conf:2: password_file: ");
	assert_refused(UPSTREAM("token_file = \"/nowhere\""), "a.conf:2: token_file: ");
	assert_refused(UPSTREAM("in_flight = 0"), "a.conf:2: in_flight: ");
	assert_refused(UPSTREAM("reconnect_ms_min = 3000"), "a.conf:2: reconnect_ms_max: ");
	assert_refused(UPSTREAM("") "\nupstream b { servers = { \"b\" } topics = { \">\" } }",
		       "a.conf:3: upstream: ");
}

static void topics_of_an_upstream_are_found_by_pattern(void **state)
{
	struct config *c = load(UPSTREAM("topics = { \"live.>\", \">\" }"));

	(void)state;
	assert_ptr_equal(config_upstream(c, SPAN("live.a")), c->upstreams);
	assert_ptr_equal(config_upstream(c, SPAN("a")), c->upstreams);
	assert_null(config_upstream(c, SPAN("$sys.stats")));
	config_free(c);
	c = load(UPSTREAM(""));
	assert_null(config_upstream(c, SPAN("live")));
	config_free(c);
}

static void topics_that_leave_nothing_behind_come_last(void **state)
{
	struct config *c = load(UPSTREAM(
		"topics = { \"svc.>\", \"a.>\", \"_INBOX.>\", \"b\" }") "\ntopic \"svc.>\" { "
									"passing = true }");
	static const char *const topics[] = { "a.>", "b", "svc.>", "_INBOX.>" };

	(void)state;
	assert_int_equal(c->upstreams->topics_n, 4);
	assert_int_equal(c->upstreams->topics_kept_n, 2);
	for (size_t i = 0; i < 4; i++)
		assert_string_equal(c->upstreams->topics[i], topics[i]);
	config_free(c);
}

static void another_upstream_takes_a_restart(void **state)
{
	struct config *a = load(UPSTREAM("")), *b = load(UPSTREAM("in_flight = 7")),
		      *c = load(UPSTREAM("tls { ca = \"ca.pem\" }")), *none = load(LISTEN);
	char keys[64];

	(void)state;
	assert_string_equal(config_restart_keys(a, a, keys, sizeof(keys)), "");
	assert_string_equal(config_restart_keys(a, b, keys, sizeof(keys)), "upstream");
	assert_string_equal(config_restart_keys(a, c, keys, sizeof(keys)), "upstream");
	assert_string_equal(config_restart_keys(a, none, keys, sizeof(keys)), "upstream");
	config_free(c);
	config_free(a);
	config_free(b);
	config_free(none);
}

static void what_is_wrong_with_a_secret_is_said_without_it(void **state)
{
	struct config *config;

	(void)state;
	write_file("a.conf", LISTEN "user a { password_hash = \"hunter2\" }");
	assert_int_equal(load_path(in_dir("a.conf"), &config), -EINVAL);
	assert_null(strstr(said, "hunter2"));
	assert_non_null(strstr(said, "--hash-password"));
}

static void a_name_that_is_no_level_stands_for_none_in_a_pattern(void **state)
{
	(void)state;
	assert_accepted(LISTEN "user a-b { subscribe = { \"user.%u.>\" } }");
	assert_refused(LISTEN "user \"a.b\" { subscribe = { \"user.%u.>\" } }",
		       "a.conf:2: subscribe: ");
	assert_refused(LISTEN "user \"*\" { publish = { \"user.%u\" } }", "a.conf:2: publish: ");
	assert_refused(LISTEN "user \">\" { deny_publish = { \"user.%u\" } }",
		       "a.conf:2: deny_publish: ");
	assert_accepted(LISTEN "user \"a.b\" { subscribe = { \"user.>\" } }");
}

static void an_included_file_with_users_is_private(void **state)
{
	static const struct {
		mode_t mode;
		bool accepted;
	} modes[] = { { 0600, true },  { 0640, true },  { 0400, true },  { 0440, true },
		      { 0644, false }, { 0660, false }, { 0604, false }, { 0750, false } };
	struct config *config;

	(void)state;
	write_file("b.conf", "user a { publish = { \"a\" } }\n");
	write_file("a.conf", LISTEN "include(\"b.conf\")\n");
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		assert_int_equal(chmod(in_dir("b.conf"), modes[i].mode), 0);
		assert_int_equal(load_path(in_dir("a.conf"), &config),
				 modes[i].accepted ? 0 : -EINVAL);
		if (!modes[i].accepted)
			assert_int_equal(strncmp(said, "b.conf:1: user: ", 16), 0);
		config_free(config);
	}
	/* Another file's mode is its own affair. */
	write_file("b.conf", "reactors = 1\n");
	assert_int_equal(chmod(in_dir("b.conf"), 0644), 0);
	assert_int_equal(load_path(in_dir("a.conf"), &config), 0);
	config_free(config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_shipped_file_equals_the_built_in_defaults),
		TEST(the_defaults_are_the_documented_ones),
		TEST(every_documented_key_is_read),
		TEST(a_file_that_sets_nothing_is_the_defaults),
		TEST(a_file_without_a_listener_has_the_default_one),
		TEST(a_topic_inherits_from_topics_before_and_behind_it),
		TEST(a_topic_may_set_a_key_to_its_built_in_default),
		TEST(the_first_topic_that_matches_wins),
		TEST(sizes_take_k_m_and_g),
		TEST(auto_stands_for_zero_where_it_may),
		TEST(the_last_of_equal_keys_wins),
		TEST(comments_may_stand_anywhere),
		TEST(a_file_may_end_without_a_newline_and_have_crlf),
		TEST(a_file_can_be_loaded_again_and_again),
		TEST(a_decimal_is_kept_in_hundredths),
		TEST(numbers_are_held_to_their_range),
		TEST(what_is_not_a_number_is_refused),
		TEST(what_is_not_a_size_is_refused),
		TEST(lanes_and_receive_buffers_are_powers_of_two),
		TEST(words_are_those_documented),
		TEST(an_empty_list_of_protocols_is_refused),
		TEST(only_a_unix_socket_has_a_file_with_a_mode_and_owners),
		TEST(proxies_are_addresses_or_networks_and_some_are_named),
		TEST(what_is_only_ipv6_leaves_ipv4_to_others),
		TEST(addresses_are_numeric_with_a_port),
		TEST(a_unix_path_is_absolute_and_shorter_than_108_bytes),
		TEST(two_listeners_on_one_address_are_refused),
		TEST(an_address_that_a_listener_gives_up_is_free),
		TEST(a_listener_needs_an_address_and_a_title),
		TEST(titles_may_not_be_taken_twice),
		TEST(a_bad_pattern_is_named_where_its_section_begins),
		TEST(unknown_key_is_named_with_its_line),
		TEST(unknown_section_is_named_with_its_line),
		TEST(a_path_is_not_a_key),
		TEST(a_value_is_named_with_its_line_and_what_would_be_right),
		TEST(every_bad_value_is_reported),
		TEST(bad_syntax_is_named_with_its_line),
		TEST(a_truncated_file_is_refused),
		TEST(what_cannot_be_read_is_an_error),
		TEST(a_file_that_is_not_text_is_refused),
		TEST(a_user_is_refused_whose_name_or_credentials_are_none),
		TEST(every_key_of_an_upstream_is_read),
		TEST(an_upstream_is_refused_that_cannot_be),
		TEST(topics_of_an_upstream_are_found_by_pattern),
		TEST(topics_that_leave_nothing_behind_come_last),
		TEST(another_upstream_takes_a_restart),
		TEST(what_is_wrong_with_a_secret_is_said_without_it),
		TEST(a_name_that_is_no_level_stands_for_none_in_a_pattern),
		TEST(an_included_file_with_users_is_private),
		TEST(include_is_relative_to_the_file_that_includes),
		TEST(include_takes_an_absolute_path),
		TEST(an_error_is_named_in_the_file_it_is_in),
		TEST(a_bad_include_is_named_with_its_line),
		TEST(keys_that_need_a_restart_are_named),
		TEST(a_certificate_needs_no_restart_but_tls_where_there_was_none_does),
		TEST(nobody_listens_in_clear_beyond_this_host_unless_that_is_said),
		TEST(where_a_certificate_stands_is_remembered),
		TEST(names_that_do_not_fit_are_left_out),
		TEST(freeing_nothing_is_allowed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
