#include "load/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/clock.h"
#include "load/message.h"
#include "load/wire.h"

static const char usage[] =
	"Usage: broker-load [OPTION...] [ENDPOINT]\n"
	"\n"
	"Publishes to a broker, subscribes to what it publishes, checks every byte that comes "
	"back,\n"
	"and says how fast that went. ENDPOINT is HOST:PORT, [IPV6]:PORT or unix:PATH\n"
	"(127.0.0.1:8080).\n"
	"\n"
	"Load:\n"
	"  --topics N           topics (1)\n"
	"  --subscribers N      of each topic (5)\n"
	"  --publishers N       of each topic (1)\n"
	"  --topics-per-connection N  a subscriber's connection has so many of them (1)\n"
	"  --pattern            each subscriber has all topics, by one pattern\n"
	"  --bytes N            of a message; K and M are powers of 1024 (8K, at least 48)\n"
	"  --rate N             messages per second of each publisher, sent when they are due "
	"whether\n"
	"                       or not the broker keeps up (20)\n"
	"  --together           all publishers at the same moments (spread evenly over the "
	"period)\n"
	"  --window N           instead of a rate: as fast as it goes, at most N messages of a\n"
	"                       publisher out before all its subscribers have them\n"
	"  --batch N            most messages of a publisher in one send (all that may go)\n"
	"  --duration SECONDS   measured (10)\n"
	"  --warmup SECONDS     before that, not measured (1)\n"
	"  --drain SECONDS      for the last messages to arrive (10)\n"
	"  --idle N             subscribers more, to a topic that nothing is published to\n"
	"  --churn N            connections per second that subscribe, and leave at once\n"
	"  --stall PERCENT      of each topic's subscribers stop reading\n"
	"\n"
	"Connections:\n"
	"  --host HOST, --port PORT   instead of ENDPOINT\n"
	"  --publish-to ENDPOINT  publishers go there, to another host that shares the topics\n"
	"  --deliver-prefix TEXT  subscribers ask for the topics with this before them, as a\n"
	"                       NATS stream republishes them\n"
	"  --protocol NAME      line, sse (HTTP and server-sent events), ws (WebSocket), resp\n"
	"                       (Redis), nats or mqtt (line)\n"
	"  --threads N          reactors of the generator's own (1)\n"
	"  --tls                over TLS; the report counts what that costs the generator, too\n"
	"  --ca FILE            who may sign the broker's certificate (whom the system trusts)\n"
	"  --server-name NAME   that it must be for (ENDPOINT's host)\n"
	"  --insecure           any certificate will do\n"
	"  --resume             connections go on with the session of one before, as clients do\n"
	"                       that come back; without it every handshake is a full one\n"
	"  --spin               never sleep: more exact times, a core's worth of CPU\n"
	"\n"
	"Report:\n"
	"  --pid PID[,PID...]   the broker's, if it runs here, and those of what stands before "
	"it:\n"
	"                       CPU time, memory and context switches\n"
	"  --stats ENDPOINT     where the broker speaks HTTP: its own counters of system calls "
	"and\n"
	"                       sends\n"
	"  --json               one JSON object on standard output instead of the table\n"
	"  --jsonl FILE         a line of JSON for every second (- is standard output)\n"
	"  --quiet              no progress on the terminal\n"
	"  --version, --help\n"
	"\n"
	"Exit codes: 0 all that was published arrived, in order, once and unharmed; 1 it did not, "
	"or\n"
	"the run failed; 2 bad arguments; 3 the kernel or its limits refuse io_uring.\n"
	"\n"
	"Try it: broker-load --subscribers 100 --bytes 128 --window 64 --pid $(pidof broker)\n";

static _Noreturn void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

static _Noreturn void complain(const char *format, ...)
{
	va_list args;

	fputs("broker-load: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs("\nTry: broker-load --help\n", stderr);
	exit(2);
}

static double number(const char *option, const char *text, double least, double most)
{
	char *end;
	double n;

	errno = 0;
	n = strtod(text, &end);
	if (end == text || *end != 0 || !isfinite(n) || n < least || n > most)
		complain("--%s %s: want a number from %.10g to %.10g", option, text, least, most);
	return n;
}

static unsigned whole(const char *option, const char *text, unsigned least, unsigned most)
{
	double n = number(option, text, least, most);

	if (n != floor(n))
		complain("--%s %s: want a whole number", option, text);
	return (unsigned)n;
}

static size_t bytes(const char *option, const char *text, size_t least, size_t most)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10), unit = 1;

	if (*end == 'K' || *end == 'k')
		unit = 1024;
	else if (*end == 'M' || *end == 'm')
		unit = 1024 * 1024;
	end += unit > 1;
	if (text[0] < '0' || text[0] > '9' || *end != 0 || n > most || n * unit < least ||
	    n * unit > most)
		complain("--%s %s: want %zu to %zu bytes, with K or M if you like", option, text,
			 least, most);
	return (size_t)(n * unit);
}

static void pids(struct options *o, char *text)
{
	char *rest = text, *one;

	o->pids_n = 0;
	while ((one = strsep(&rest, ",")) != NULL) {
		if (o->pids_n == OPTIONS_PIDS_MAX)
			complain("--pid: at most %d of them", OPTIONS_PIDS_MAX);
		o->pids[o->pids_n++] = (pid_t)whole("pid", one, 1, 1 << 22);
	}
}

static uint64_t seconds(const char *option, const char *text, double least)
{
	return (uint64_t)(number(option, text, least, 86400) * (double)NS_PER_S);
}

static void resolve(struct address *a, const char *host, const char *port)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	struct addrinfo *found;
	int err = getaddrinfo(host, port, &hints, &found);

	if (err != 0)
		complain("%s:%s: %s", host, port, gai_strerror(err));
	memcpy(&a->storage, found->ai_addr, found->ai_addrlen);
	a->len = found->ai_addrlen;
	freeaddrinfo(found);
}

static void resolve_endpoint(struct address *a, const char *text)
{
	const char *endpoint = text;
	const char *colon = strrchr(endpoint, ':'), *end = colon;
	char host[256];

	if (strncmp(endpoint, "unix:", 5) == 0) {
		struct sockaddr_un un = { .sun_family = AF_UNIX };

		if (strlen(endpoint + 5) >= sizeof(un.sun_path))
			complain("%s: the path is too long for a socket", endpoint);
		strcpy(un.sun_path, endpoint + 5);
		memcpy(&a->storage, &un, sizeof(un));
		a->len = sizeof(un);
		return;
	}
	if (colon == NULL)
		complain("%s: want HOST:PORT, [IPV6]:PORT or unix:PATH", endpoint);
	if (endpoint[0] == '[' && colon > endpoint && colon[-1] == ']') {
		endpoint++;
		end--;
	}
	if (end <= endpoint || (size_t)(end - endpoint) >= sizeof(host))
		complain("%s: want HOST:PORT, [IPV6]:PORT or unix:PATH", text);
	memcpy(host, endpoint, (size_t)(end - endpoint));
	host[end - endpoint] = 0;
	resolve(a, host, colon + 1);
}

/* The host in an endpoint that has been resolved: whom a certificate is to be for. */
static const char *host_of(const char *endpoint)
{
	static char host[256];
	const char *colon = strrchr(endpoint, ':');

	if (strncmp(endpoint, "unix:", 5) == 0 || colon == NULL)
		return "localhost";
	if (endpoint[0] == '[' && colon[-1] == ']') {
		endpoint++;
		colon--;
	}
	snprintf(host, sizeof(host), "%.*s", (int)(colon - endpoint), endpoint);
	return host;
}

static void check(struct options *o, bool rate_given)
{
	if (o->window > 0 && rate_given)
		complain("--rate and --window exclude each other");
	if (o->window > 0) {
		o->rate_per_s = 0;
		if (o->subscribers == 0)
			complain("--window needs subscribers: nobody else opens it again");
	}
	if (o->stall_percent > 0 && o->subscribers * o->stall_percent / 100 == o->subscribers &&
	    o->window > 0)
		complain("--window needs subscribers that read: lower --stall");
	if (o->pattern && o->wire->any_level == NULL)
		complain("--pattern: %s has none here", o->wire->name);
	if (o->topics_each > 1 && !o->wire->multiplexes)
		complain("--topics-per-connection: want resp, nats or mqtt");
	if (o->topics_each > 1 && (o->pattern || o->topics % o->topics_each != 0))
		complain("--topics-per-connection: want a divisor of --topics, and no --pattern");
	if (!o->tls && (o->ca != NULL || o->server_name != NULL || o->insecure || o->resume))
		complain("--ca, --server-name, --insecure and --resume want --tls");
	if (o->insecure && o->ca != NULL)
		complain("--insecure and --ca exclude each other");
	if ((uint64_t)o->topics * (o->subscribers + o->publishers) + o->idle > 4000000)
		complain("that would be more than 4,000,000 connections");
	if (o->window > 0 && (double)o->window * (double)o->message_bytes > (double)(1 << 30))
		complain("--window times --bytes must stay below 1 GiB");
}

void options_parse(struct options *o, int argc, char **argv)
{
	enum {
		OPT_TOPICS = 256,
		OPT_SUBSCRIBERS,
		OPT_PUBLISHERS,
		OPT_TOPICS_EACH,
		OPT_PATTERN,
		OPT_BYTES,
		OPT_RATE,
		OPT_WINDOW,
		OPT_BATCH,
		OPT_TOGETHER,
		OPT_DURATION,
		OPT_WARMUP,
		OPT_DRAIN,
		OPT_IDLE,
		OPT_CHURN,
		OPT_STALL,
		OPT_HOST,
		OPT_PORT,
		OPT_PUBLISH_TO,
		OPT_DELIVER_PREFIX,
		OPT_PROTOCOL,
		OPT_THREADS,
		OPT_SPIN,
		OPT_TLS,
		OPT_CA,
		OPT_SERVER_NAME,
		OPT_INSECURE,
		OPT_RESUME,
		OPT_PID,
		OPT_STATS,
		OPT_JSON,
		OPT_JSONL,
		OPT_QUIET,
		OPT_VERSION,
	};
	static const struct option known[] = {
		{ "topics", required_argument, NULL, OPT_TOPICS },
		{ "subscribers", required_argument, NULL, OPT_SUBSCRIBERS },
		{ "publishers", required_argument, NULL, OPT_PUBLISHERS },
		{ "topics-per-connection", required_argument, NULL, OPT_TOPICS_EACH },
		{ "pattern", no_argument, NULL, OPT_PATTERN },
		{ "bytes", required_argument, NULL, OPT_BYTES },
		{ "rate", required_argument, NULL, OPT_RATE },
		{ "together", no_argument, NULL, OPT_TOGETHER },
		{ "window", required_argument, NULL, OPT_WINDOW },
		{ "batch", required_argument, NULL, OPT_BATCH },
		{ "duration", required_argument, NULL, OPT_DURATION },
		{ "warmup", required_argument, NULL, OPT_WARMUP },
		{ "drain", required_argument, NULL, OPT_DRAIN },
		{ "idle", required_argument, NULL, OPT_IDLE },
		{ "churn", required_argument, NULL, OPT_CHURN },
		{ "stall", required_argument, NULL, OPT_STALL },
		{ "host", required_argument, NULL, OPT_HOST },
		{ "port", required_argument, NULL, OPT_PORT },
		{ "publish-to", required_argument, NULL, OPT_PUBLISH_TO },
		{ "deliver-prefix", required_argument, NULL, OPT_DELIVER_PREFIX },
		{ "protocol", required_argument, NULL, OPT_PROTOCOL },
		{ "threads", required_argument, NULL, OPT_THREADS },
		{ "spin", no_argument, NULL, OPT_SPIN },
		{ "tls", no_argument, NULL, OPT_TLS },
		{ "ca", required_argument, NULL, OPT_CA },
		{ "server-name", required_argument, NULL, OPT_SERVER_NAME },
		{ "insecure", no_argument, NULL, OPT_INSECURE },
		{ "resume", no_argument, NULL, OPT_RESUME },
		{ "pid", required_argument, NULL, OPT_PID },
		{ "stats", required_argument, NULL, OPT_STATS },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "jsonl", required_argument, NULL, OPT_JSONL },
		{ "quiet", no_argument, NULL, OPT_QUIET },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	const char *host = NULL, *port = NULL;
	bool rate_given = false;
	static char text[300];
	int c;

	*o = (struct options){ .wire = &wire_line,
			       .topics = 1,
			       .subscribers = 5,
			       .publishers = 1,
			       .topics_each = 1,
			       .deliver_prefix = "",
			       .message_bytes = 8192,
			       .rate_per_s = 20,
			       .batch = UINT32_MAX,
			       .duration_ns = 10 * NS_PER_S,
			       .warmup_ns = NS_PER_S,
			       .drain_ns = 10 * NS_PER_S,
			       .threads = 1 };
	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (c) {
		case OPT_TOPICS:
			o->topics = whole("topics", optarg, 0, MESSAGE_TOPICS_MAX);
			break;
		case OPT_SUBSCRIBERS:
			o->subscribers = whole("subscribers", optarg, 0, 4000000);
			break;
		case OPT_PUBLISHERS:
			o->publishers = whole("publishers", optarg, 0, MESSAGE_PUBLISHERS_MAX);
			break;
		case OPT_TOPICS_EACH:
			o->topics_each = whole("topics-per-connection", optarg, 1, 65536);
			break;
		case OPT_PATTERN:
			o->pattern = true;
			break;
		case OPT_BYTES:
			o->message_bytes = bytes("bytes", optarg, MESSAGE_HEADER_BYTES, 64 << 20);
			break;
		case OPT_RATE:
			o->rate_per_s = number("rate", optarg, 0.001, 1e6);
			rate_given = true;
			break;
		case OPT_TOGETHER:
			o->together = true;
			break;
		case OPT_WINDOW:
			o->window = whole("window", optarg, 1, 1 << 20);
			break;
		case OPT_BATCH:
			o->batch = whole("batch", optarg, 1, 1 << 20);
			break;
		case OPT_DURATION:
			o->duration_ns = seconds("duration", optarg, 0.01);
			break;
		case OPT_WARMUP:
			o->warmup_ns = seconds("warmup", optarg, 0);
			break;
		case OPT_DRAIN:
			o->drain_ns = seconds("drain", optarg, 0.1);
			break;
		case OPT_IDLE:
			o->idle = whole("idle", optarg, 0, 4000000);
			break;
		case OPT_CHURN:
			o->churn_per_s = number("churn", optarg, 0, 100000);
			break;
		case OPT_STALL: {
			size_t n = strlen(optarg);

			if (n > 1 && optarg[n - 1] == '%')
				optarg[n - 1] = 0;
			o->stall_percent = whole("stall", optarg, 0, 100);
			break;
		}
		case OPT_HOST:
			host = optarg;
			break;
		case OPT_PORT:
			port = optarg;
			break;
		case OPT_PUBLISH_TO:
			o->publish_to = optarg;
			resolve_endpoint(&o->publish_address, optarg);
			break;
		case OPT_DELIVER_PREFIX:
			if (strlen(optarg) > DELIVER_PREFIX_MAX ||
			    strpbrk(optarg, " \t\r\n") != NULL)
				complain("--deliver-prefix: want up to %d characters, no spaces",
					 DELIVER_PREFIX_MAX);
			o->deliver_prefix = optarg;
			break;
		case OPT_PROTOCOL:
			o->wire = wire_find(optarg);
			if (o->wire == NULL)
				complain("--protocol %s: want line, sse, ws, resp, nats or mqtt",
					 optarg);
			break;
		case OPT_THREADS:
			o->threads = whole("threads", optarg, 1, 1024);
			break;
		case OPT_SPIN:
			o->spin = true;
			break;
		case OPT_TLS:
			o->tls = true;
			break;
		case OPT_CA:
			o->ca = optarg;
			break;
		case OPT_SERVER_NAME:
			o->server_name = optarg;
			break;
		case OPT_INSECURE:
			o->insecure = true;
			break;
		case OPT_RESUME:
			o->resume = true;
			break;
		case OPT_PID:
			pids(o, optarg);
			break;
		case OPT_STATS:
			resolve_endpoint(&o->stats, optarg);
			break;
		case OPT_JSON:
			o->json = true;
			break;
		case OPT_JSONL:
			o->jsonl_path = optarg;
			break;
		case OPT_QUIET:
			o->quiet = true;
			break;
		case OPT_VERSION:
			puts("broker-load " BROKER_VERSION);
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("Try: broker-load --help\n", stderr);
			exit(2);
		}
	}
	if (optind + 1 < argc)
		complain("what is \"%s\"?", argv[optind + 1]);
	if (optind < argc && (host != NULL || port != NULL))
		complain("ENDPOINT and --host or --port exclude each other");
	check(o, rate_given);
	if (optind < argc) {
		o->endpoint = argv[optind];
		resolve_endpoint(&o->address, o->endpoint);
	} else {
		host = host != NULL ? host : "127.0.0.1";
		port = port != NULL ? port : "8080";
		snprintf(text, sizeof(text), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
		o->endpoint = text;
		resolve(&o->address, host, port);
	}
	if (o->tls && o->server_name == NULL)
		o->server_name = host_of(o->endpoint);
}
