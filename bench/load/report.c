#include "load/report.h"

#include <stdarg.h>

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "load/wire.h"

static double seconds(uint64_t ns)
{
	return (double)ns / (double)NS_PER_S;
}

static double cpu_seconds(const struct process_sample s[2])
{
	return s[0].valid && s[1].valid ? seconds(s[1].cpu_ns - s[0].cpu_ns) : 0;
}

static double per(double n, double of)
{
	return of > 0 ? n / of : 0;
}

static double steal_percent(const struct result *r)
{
	return 100 * per((double)(r->machine[1].steal - r->machine[0].steal),
			 (double)(r->machine[1].total - r->machine[0].total));
}

static double idle_bytes(const struct run *run, const struct result *r)
{
	double more = (double)r->idle[1].rss_bytes - (double)r->idle[0].rss_bytes;

	return r->idle[1].valid ? per(more, run->options->idle) : 0;
}

/* The clock's time of a process, split as its ticks are. */
static double user_seconds(const struct process_sample s[2])
{
	double user = (double)(s[1].user_ms - s[0].user_ms);
	double system = (double)(s[1].system_ms - s[0].system_ms);

	return cpu_seconds(s) * per(user, user + system);
}

/* ---- for people -------------------------------------------------------------------------------
 */

static void row(FILE *out, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void row(FILE *out, const char *name, const char *format, ...)
{
	va_list args;

	fprintf(out, "  %-22s ", name);
	va_start(args, format);
	vfprintf(out, format, args);
	va_end(args);
	putc('\n', out);
}

/* 12.3 M, 4.56 k. */
static const char *human(char *buf, size_t size, double n)
{
	static const char units[] = " kMGT";
	size_t unit = 0;

	while (n >= 999.5 && unit < 4) {
		n /= 1000;
		unit++;
	}
	snprintf(buf, size, unit == 0 ? "%.4g" : "%.3g %c", n, units[unit]);
	return buf;
}

#define HUMAN(n) human((char[16]){ 0 }, 16, n)

static void latency_row(FILE *out, const char *name, const struct histogram *h)
{
	static const double parts[] = { 0.5, 0.9, 0.99, 0.999 };
	char text[128] = "";
	size_t n = 0;

	if (h->count == 0)
		return;
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%9.3f",
				      (double)histogram_quantile(h, parts[i]) / 1e6);
	row(out, name, "%s%9.3f", text, (double)h->max / 1e6);
}

static void broker_rows(FILE *out, const struct result *r)
{
	const struct process_sample *b = r->broker;
	double cpu_s = cpu_seconds(b), delivered = (double)r->delivered;

	row(out, "broker CPU", "%.3f s (%.0f %% of a core), user %.3f s, system %.3f s", cpu_s,
	    100 * per(cpu_s, seconds(r->elapsed_ns)), user_seconds(b), cpu_s - user_seconds(b));
	row(out, "delivered per CPU-s", "%s of the broker (%.0f ns each)",
	    HUMAN(per(delivered, cpu_s)), per(cpu_s * 1e9, delivered));
	row(out, "context switches", "%" PRIu64 " voluntary, %" PRIu64 " involuntary",
	    b[1].voluntary - b[0].voluntary, b[1].involuntary - b[0].involuntary);
	row(out, "broker memory", "%.1f MiB resident, %.1f MiB before, %.1f MiB at most",
	    (double)b[1].rss_bytes / 1048576, (double)b[0].rss_bytes / 1048576,
	    (double)b[1].peak_bytes / 1048576);
}

static double counted(const struct result *r, double from, double to, double of)
{
	return r->counters[0].valid && r->counters[1].valid ? per(to - from, of) : 0;
}

static void counters_row(FILE *out, const struct result *r)
{
	const struct counters *c = r->counters;
	double delivered = c[1].delivered - c[0].delivered;

	row(out, "broker's own counters",
	    "%.3g messages per send, %.3g completions per turn, %.3g system calls per delivery",
	    counted(r, c[0].delivered, c[1].delivered, c[1].sends - c[0].sends),
	    counted(r, c[0].completions, c[1].completions, c[1].turns - c[0].turns),
	    counted(r, c[0].enters, c[1].enters, delivered));
}

void report_table(FILE *out, const struct run *run, const struct result *r)
{
	const struct options *o = run->options;
	double elapsed_s = seconds(r->elapsed_ns), delivered = (double)r->delivered;

	fprintf(out, "\n%s at %s: %u topics x %u subscribers x %u publishers, %zu bytes, ",
		o->wire->name, o->endpoint, o->topics, o->subscribers, o->publishers,
		o->message_bytes);
	if (o->window > 0)
		fprintf(out, "window %u, %.3g s\n", o->window, elapsed_s);
	else
		fprintf(out, "%g/s each, %.3g s\n", o->rate_per_s, elapsed_s);
	row(out, "delivered", "%" PRIu64 ", %s/s, %s B/s", r->delivered,
	    HUMAN(per(delivered, elapsed_s)),
	    HUMAN(per(delivered, elapsed_s) * (double)o->message_bytes));
	row(out, "published", "%" PRIu64 ", %s/s", r->published,
	    HUMAN(per((double)r->published, elapsed_s)));
	row(out, "checked", "%" PRIu64 " deliveries, %s", r->delivered_in_all,
	    run->error[0] != 0 ? "and then it failed" : "all in order, once and unharmed");
	if (r->latency.count > 0)
		row(out, "latency, ms", "%9s%9s%9s%9s%9s", "p50", "p90", "p99", "p99.9", "max");
	latency_row(out, "  every delivery", &r->latency);
	latency_row(out, "  slowest of a message", &r->slowest);
	if (r->broker[0].valid && r->broker[1].valid)
		broker_rows(out, r);
	if (r->counters[1].valid)
		counters_row(out, r);
	row(out, "generator CPU", "%.3f s, %.0f ns per delivery", cpu_seconds(r->load),
	    per(cpu_seconds(r->load) * 1e9, delivered));
	if (r->tls_version != NULL)
		row(out, "TLS",
		    "%s, %s; %" PRIu64 " full and %" PRIu64
		    " resumed handshakes, %.1f ms, %.1f at p99",
		    r->tls_version, r->tls_suite, r->full, r->resumed,
		    (double)histogram_quantile(&r->handshakes, 0.5) / 1e6,
		    (double)histogram_quantile(&r->handshakes, 0.99) / 1e6);
	if (o->idle > 0 && r->idle[1].valid)
		row(out, "idle subscribers", "%u, %.0f bytes of broker memory each", o->idle,
		    idle_bytes(run, r));
	else if (o->idle > 0)
		row(out, "idle subscribers", "%u", o->idle);
	if (o->churn_per_s > 0)
		row(out, "came and left", "%" PRIu64 " connections, %.0f/s", r->churned,
		    per((double)r->churned, elapsed_s));
	if (r->stalled > 0)
		row(out, "did not read", "%u subscribers; the broker closed %u of them", r->stalled,
		    r->stalled_closed);
	if (steal_percent(r) >= 1)
		row(out, "stolen CPU", "%.1f %% of the machine: repeat the run", steal_percent(r));
	if (run->error[0] != 0)
		row(out, "FAILED", "%s", run->error);
}

/* ---- for machines -----------------------------------------------------------------------------
 */

static void json_string(FILE *out, const char *name, const char *text)
{
	fprintf(out, "\"%s\":\"", name);
	for (; *text != 0; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			putc(c, out);
	}
	putc('"', out);
}

static void json_latency(FILE *out, const char *name, const struct histogram *h)
{
	fprintf(out,
		",\"%s\":{\"count\":%" PRIu64 ",\"mean\":%.0f,\"p50\":%" PRIu64 ",\"p90\":%" PRIu64
		",\"p99\":%" PRIu64 ",\"p999\":%" PRIu64 ",\"max\":%" PRIu64 "}",
		name, h->count, per((double)h->sum, (double)h->count), histogram_quantile(h, 0.5),
		histogram_quantile(h, 0.9), histogram_quantile(h, 0.99),
		histogram_quantile(h, 0.999), h->max);
}

static void json_broker(FILE *out, const struct result *r)
{
	const struct process_sample *b = r->broker;
	double cpu_s = cpu_seconds(b), delivered = (double)r->delivered;

	fprintf(out,
		",\"broker_cpu_s\":%.6f,\"broker_user_s\":%.6f,\"broker_system_s\":%.6f"
		",\"delivered_per_cpu_s\":%.1f,\"cpu_ns_per_delivered\":%.2f",
		cpu_s, user_seconds(b), cpu_s - user_seconds(b), per(delivered, cpu_s),
		per(cpu_s * 1e9, delivered));
	fprintf(out,
		",\"broker_voluntary_switches\":%" PRIu64
		",\"broker_involuntary_switches\":%" PRIu64
		",\"broker_threads\":%u,\"broker_rss_before_bytes\":%" PRIu64
		",\"broker_rss_bytes\":%" PRIu64 ",\"broker_peak_bytes\":%" PRIu64,
		b[1].voluntary - b[0].voluntary, b[1].involuntary - b[0].involuntary, b[1].threads,
		b[0].rss_bytes, b[1].rss_bytes, b[1].peak_bytes);
}

void report_json(FILE *out, const struct run *run, const struct result *r)
{
	const struct options *o = run->options;
	double elapsed_s = seconds(r->elapsed_ns), delivered = (double)r->delivered;
	double cpu_s = cpu_seconds(r->load);

	fputs("{\"bench\":\"load\",\"version\":\"" BROKER_VERSION "\",", out);
	json_string(out, "protocol", o->wire->name);
	putc(',', out);
	json_string(out, "endpoint", o->endpoint);
	if (o->publish_to != NULL) {
		putc(',', out);
		json_string(out, "publish_to", o->publish_to);
	}
	fprintf(out,
		",\"topics_per_connection\":%u,\"topics\":%u,\"subscribers\":%u,\"publishers\":%u,"
		"\"bytes\":%zu"
		",\"rate_per_s\":%g,\"window\":%u,\"duration_s\":%g,\"warmup_s\":%g,\"threads\":%u"
		",\"together\":%s,\"idle\":%u,\"churn_per_s\":%g,\"stall_percent\":%u",
		run_topics_each(o), o->topics, o->subscribers, o->publishers, o->message_bytes,
		o->rate_per_s, o->window, seconds(o->duration_ns), seconds(o->warmup_ns),
		o->threads, o->together ? "true" : "false", o->idle, o->churn_per_s,
		o->stall_percent);
	fprintf(out,
		",\"elapsed_s\":%.6f,\"delivered\":%" PRIu64 ",\"published\":%" PRIu64
		",\"checked\":%" PRIu64 ",\"delivered_per_s\":%.1f,\"published_per_s\":%.1f",
		elapsed_s, r->delivered, r->published, r->delivered_in_all,
		per(delivered, elapsed_s), per((double)r->published, elapsed_s));
	json_latency(out, "latency_ns", &r->latency);
	json_latency(out, "slowest_ns", &r->slowest);
	if (r->broker[0].valid && r->broker[1].valid)
		json_broker(out, r);
	if (r->counters[0].valid && r->counters[1].valid) {
		const struct counters *c = r->counters;

		fprintf(out,
			",\"messages_per_send\":%.3f,\"completions_per_turn\":%.3f"
			",\"enters_per_delivered\":%.6f",
			counted(r, c[0].delivered, c[1].delivered, c[1].sends - c[0].sends),
			counted(r, c[0].completions, c[1].completions, c[1].turns - c[0].turns),
			counted(r, c[0].enters, c[1].enters, c[1].delivered - c[0].delivered));
	}
	fprintf(out, ",\"load_cpu_s\":%.6f,\"load_cpu_ns_per_delivered\":%.2f", cpu_s,
		per(cpu_s * 1e9, delivered));
	fprintf(out, ",\"tls\":%s", o->tls ? "true" : "false");
	if (r->tls_version != NULL) {
		fputc(',', out);
		json_string(out, "tls_version", r->tls_version);
		fputc(',', out);
		json_string(out, "tls_suite", r->tls_suite);
		fprintf(out, ",\"tls_full\":%" PRIu64 ",\"tls_resumed\":%" PRIu64, r->full,
			r->resumed);
		json_latency(out, "tls_handshake_ns", &r->handshakes);
	}
	if (r->idle[1].valid)
		fprintf(out, ",\"idle_bytes_per_connection\":%.1f", idle_bytes(run, r));
	fprintf(out, ",\"churned\":%" PRIu64 ",\"stalled\":%u,\"stalled_closed\":%u", r->churned,
		r->stalled, r->stalled_closed);
	fprintf(out, ",\"steal_percent\":%.2f,\"errors\":%d,", steal_percent(r),
		run->error[0] != 0);
	json_string(out, "error", run->error);
	fputs("}\n", out);
}

void report_live(FILE *out, const struct run *run, const struct second *s)
{
	(void)run;
	fprintf(out, "\r%8s delivered/s  %6s in flight  p99 %.3f ms  %.0f s left \033[K",
		HUMAN(s->delivered_per_s), HUMAN((double)s->in_flight), (double)s->p99_ns / 1e6,
		s->left_s);
	fflush(out);
}

void report_jsonl(FILE *out, const struct second *s)
{
	fprintf(out,
		"{\"at_s\":%.3f,\"delivered_per_s\":%.1f,\"published_per_s\":%.1f"
		",\"in_flight\":%" PRIu64 ",\"p50_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 "}\n",
		s->at_s, s->delivered_per_s, s->published_per_s, s->in_flight, s->p50_ns,
		s->p99_ns);
	fflush(out);
}
