#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/spare.h"
#include "base/few.h"
#include "base/table.h"
#include "base/tree.h"
#include "base/wire.h"
#include "random.h"

/* ---- histogram ---- */

static void every_value_is_in_the_bucket_whose_floor_is_below_it(void **state)
{
	(void)state;
	for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
		uint64_t floor = histogram_bucket_floor(b);

		assert_int_equal(histogram_bucket(floor), b);
		if (b > 0)
			assert_int_equal(histogram_bucket(floor - 1), b - 1);
		/* Not wider than a 32nd of its values. */
		if (b + 1 < HISTOGRAM_BUCKETS)
			assert_true(histogram_bucket_floor(b + 1) - floor <= floor / 32 + 1);
	}
	assert_int_equal(histogram_bucket((UINT64_C(1) << HISTOGRAM_POWERS) - 1),
			 HISTOGRAM_BUCKETS - 1);
	assert_int_equal(histogram_bucket(UINT64_C(1) << HISTOGRAM_POWERS), HISTOGRAM_BUCKETS - 1);
	assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void quantiles_are_those_of_the_sorted_values_to_3_per_cent(void **state)
{
	enum { VALUES = 5000 };
	static const double parts[] = { 0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1 };
	static uint64_t values[VALUES];

	(void)state;
	for (int round = 0; round < 20; round++) {
		struct histogram *h = calloc(1, sizeof(*h));
		size_t n = 1 + next_random() % VALUES;
		unsigned shift = 22 + (unsigned)(next_random() % 42);
		uint64_t sum = 0;

		assert_non_null(h);
		for (size_t i = 0; i < n; i++) {
			values[i] = next_random() >> shift >> next_random() % 8;
			sum += values[i];
			histogram_add(h, values[i]);
		}
		qsort(values, n, sizeof(values[0]), compare);
		assert_int_equal(h->count, n);
		assert_int_equal(h->sum, sum);
		assert_int_equal(h->max, values[n - 1]);
		for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
			size_t rank = (size_t)(parts[i] * (double)n);
			uint64_t exact = values[rank < n ? rank : n - 1],
				 got = histogram_quantile(h, parts[i]);

			assert_true(got >= exact);
			assert_true(got - exact <= exact / 32);
		}
		free(h);
	}
}

static void empty_histogram_has_zero_everywhere(void **state)
{
	static struct histogram h;

	(void)state;
	assert_int_equal(histogram_quantile(&h, 0), 0);
	assert_int_equal(histogram_quantile(&h, 1), 0);
	histogram_add(&h, UINT64_MAX);
	assert_true(histogram_quantile(&h, 0.5) == UINT64_MAX);
}

static void merged_is_as_if_added_to_one_and_since_takes_it_apart(void **state)
{
	static struct histogram a, b, both, then, out;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		uint64_t v = next_random() >> 40;

		histogram_add(&a, v);
		histogram_add(&both, v);
	}
	then = a;
	for (int i = 0; i < 1000; i++) {
		uint64_t v = next_random() >> 35;

		histogram_add_many(&b, v, 3);
		for (int k = 0; k < 3; k++)
			histogram_add(&both, v);
	}
	histogram_merge(&a, &b);
	assert_memory_equal(&a, &both, sizeof(a));
	histogram_since(&out, &a, &then);
	assert_int_equal(out.count, b.count);
	assert_int_equal(out.sum, b.sum);
	assert_memory_equal(out.buckets, b.buckets, sizeof(out.buckets));
	histogram_since(&out, &a, &a);
	assert_int_equal(histogram_quantile(&out, 0.99), 0);
}

/* ---- hash ---- */

static uint64_t rotate(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

/* As the paper has it, a byte at a time, with c and d rounds. */
static uint64_t reference_siphash(unsigned c, unsigned d, const unsigned char key[16],
				  const unsigned char *in, size_t len)
{
	uint64_t k[2] = { 0, 0 }, v0, v1, v2, v3;
	size_t words = len / 8 + 1;

	for (unsigned i = 0; i < 16; i++)
		k[i / 8] |= (uint64_t)key[i] << 8 * (i % 8);
	v0 = k[0] ^ 0x736f6d6570736575u;
	v1 = k[1] ^ 0x646f72616e646f6du;
	v2 = k[0] ^ 0x6c7967656e657261u;
	v3 = k[1] ^ 0x7465646279746573u;
	for (size_t w = 0; w <= words; w++) {
		uint64_t m = 0;
		unsigned rounds = w < words ? c : d;

		if (w < words) {
			for (size_t i = 8 * w; i < 8 * w + 8; i++) {
				uint64_t byte = i < len      ? in[i]
						: i % 8 == 7 ? (unsigned char)len
							     : 0;

				m |= byte << 8 * (i % 8);
			}
			v3 ^= m;
		} else {
			v2 ^= 0xff;
		}
		while (rounds-- > 0) {
			v0 += v1;
			v1 = rotate(v1, 13);
			v1 ^= v0;
			v0 = rotate(v0, 32);
			v2 += v3;
			v3 = rotate(v3, 16);
			v3 ^= v2;
			v0 += v3;
			v3 = rotate(v3, 21);
			v3 ^= v0;
			v2 += v1;
			v1 = rotate(v1, 17);
			v1 ^= v2;
			v2 = rotate(v2, 32);
		}
		v0 ^= m;
	}
	return v0 ^ v1 ^ v2 ^ v3;
}

static void hash_is_siphash_1_3(void **state)
{
	unsigned char key[16], in[64];
	uint64_t k[2];

	(void)state;
	/* The reference itself: SipHash-2-4 of 00 01 ... 0e, from the paper's appendix. */
	for (unsigned i = 0; i < 16; i++)
		key[i] = (unsigned char)i;
	for (unsigned i = 0; i < 64; i++)
		in[i] = (unsigned char)i;
	assert_true(reference_siphash(2, 4, key, in, 15) == 0xa129ca6149be45e5u);

	memcpy(k, key, sizeof(k));
	hash_seed_with(k[0], k[1]);
	for (size_t len = 0; len <= 64; len++)
		assert_true(hash_bytes(in, len) == reference_siphash(1, 3, key, in, len));
	for (int round = 0; round < 1000; round++) {
		size_t len = next_random() % 65;

		for (unsigned i = 0; i < 16; i++)
			key[i] = (unsigned char)next_random();
		for (unsigned i = 0; i < 64; i++)
			in[i] = (unsigned char)next_random();
		memcpy(k, key, sizeof(k));
		hash_seed_with(k[0], k[1]);
		assert_true(hash_bytes(in, len) == reference_siphash(1, 3, key, in, len));
	}
}

static void seeds_and_unique_numbers_differ(void **state)
{
	uint64_t first;

	(void)state;
	hash_seed();
	first = hash_bytes("topic", 5);
	hash_seed();
	assert_true(hash_bytes("topic", 5) != first);
	assert_true(hash_unique() != hash_unique());
	for (int i = 0; i < 1000; i++)
		assert_true(hash_unique() != 0);
}

/* ---- table ---- */

enum { NAMES = 400 };

struct entry {
	struct named named;
	bool in;
	char name[16];
};

static void make_entries(struct entry *entries, unsigned hash_bits)
{
	for (unsigned i = 0; i < NAMES; i++) {
		struct entry *e = &entries[i];

		memset(e, 0, sizeof(*e));
		snprintf(e->name, sizeof(e->name), "name-%u", i);
		e->named.name = span_of(e->name);
		e->named.hash = hash_bytes(e->name, strlen(e->name));
		/* All of them near the end of the table, so that runs go around it. */
		if (hash_bits > 0)
			e->named.hash |= ~((UINT64_C(1) << hash_bits) - 1);
	}
}

static void check_table(struct table *t, struct entry *entries)
{
	size_t in = 0, seen = 0;
	struct named *n;

	for (unsigned i = 0; i < NAMES; i++) {
		struct entry *e = &entries[i];

		in += e->in;
		assert_ptr_equal(table_find(t, e->named.hash, e->named.name),
				 e->in ? &e->named : NULL);
	}
	assert_int_equal(t->entries_n, in);
	for (size_t at = 0; (n = table_next(t, &at)) != NULL; seen++)
		assert_true(((struct entry *)(void *)n)->in);
	assert_int_equal(seen, in);
	assert_true(4 * t->entries_n <= 3 * t->slots_n);
}

static void play_table(unsigned hash_bits, unsigned rounds)
{
	struct entry *entries = calloc(NAMES, sizeof(*entries));
	struct table t = { 0 };
	unsigned crowd = NAMES;

	assert_non_null(entries);
	make_entries(entries, hash_bits);
	for (unsigned round = 0; round < rounds; round++) {
		struct entry *e = &entries[next_random() % crowd];

		if (e->in)
			table_remove(&t, &e->named);
		else
			assert_int_equal(table_add(&t, &e->named), 0);
		e->in = !e->in;
		assert_ptr_equal(table_find(&t, e->named.hash, e->named.name),
				 e->in ? &e->named : NULL);
		if (round % 101 == 0)
			check_table(&t, entries);
		if (round % 5000 == 0)
			crowd = 10 + (unsigned)(next_random() % (NAMES - 10));
	}
	check_table(&t, entries);
	table_release(&t);
	free(entries);
}

/* As a table, with few and with many in it. */
static void few_hold_what_was_added_and_not_removed(void **state)
{
	struct entry *entries = calloc(NAMES, sizeof(*entries));
	struct few f = { 0 };
	unsigned crowd = 2;
	size_t in = 0;

	(void)state;
	assert_non_null(entries);
	make_entries(entries, 0);
	for (unsigned round = 0; round < 20000; round++) {
		struct entry *e = &entries[next_random() % crowd];
		size_t seen = 0, at = 0;
		struct named *n;

		if (e->in)
			few_remove(&f, &e->named);
		else
			assert_int_equal(few_add(&f, &e->named), 0);
		e->in = !e->in;
		in = e->in ? in + 1 : in - 1;
		assert_int_equal(few_n(&f), in);
		assert_ptr_equal(few_find(&f, e->named.hash, e->named.name),
				 e->in ? &e->named : NULL);
		while (round % 101 == 0 && (n = few_next(&f, &at)) != NULL) {
			assert_true(((struct entry *)(void *)n)->in);
			seen++;
		}
		assert_true(round % 101 != 0 || seen == in);
		if (round % 1000 == 0)
			crowd = 1 + (unsigned)(next_random() % (round % 2000 == 0 ? 3 : 40));
	}
	few_release(&f);
	assert_int_equal(few_n(&f), 0);
	free(entries);
}

static void one_name_takes_no_memory_but_its_own(void **state)
{
	struct entry *entries = calloc(NAMES, sizeof(*entries));
	struct few f = { 0 };
	uint64_t before = memory_used();
	size_t at = 0;

	(void)state;
	assert_non_null(entries);
	make_entries(entries, 0);
	assert_int_equal(few_add(&f, &entries[0].named), 0);
	assert_int_equal(memory_used(), before);
	assert_ptr_equal(few_step(&f, &at), &entries[0].named);
	assert_int_equal(few_add(&f, &entries[1].named), 0);
	assert_true(memory_used() > before);
	few_remove(&f, &entries[0].named);
	few_remove(&f, &entries[1].named);
	assert_int_equal(memory_used(), before);
	free(entries);
}

static void table_holds_what_was_added_and_not_removed(void **state)
{
	(void)state;
	play_table(0, 100000);
}

static void table_does_so_when_runs_of_entries_wrap_around(void **state)
{
	(void)state;
	play_table(1, 20000);
	play_table(3, 20000);
	play_table(6, 20000);
}

/* Counted in the slots that it has grown to. */
static size_t in_place(const struct table *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->slots_n; i++)
		n += t->slots[i] != NULL;
	return n;
}

static void grow_with_each_entry(bool dense)
{
	enum { MANY = 45000, MOVED = 9, AT_ONCE = 256 };
	struct entry *entries = calloc(MANY, sizeof(*entries));
	struct table t = { .dense = dense };
	size_t slots_n = 0, grown = 0;

	assert_non_null(entries);
	for (unsigned i = 0; i < MANY; i++) {
		struct entry *e = &entries[i];

		snprintf(e->name, sizeof(e->name), "%u", i);
		e->named = (struct named){ hash_bytes(e->name, strlen(e->name)), span_of(e->name) };
		assert_int_equal(table_add(&t, &e->named), 0);
		if (t.slots_n == slots_n || t.slots_n <= 2 * AT_ONCE) {
			slots_n = t.slots_n;
			continue;
		}
		slots_n = t.slots_n;
		grown++;
		assert_true(in_place(&t) <= MOVED);
		for (unsigned k = 0; k <= i; k += i / 100 + 1)
			assert_ptr_equal(
				table_find(&t, entries[k].named.hash, entries[k].named.name),
				&entries[k].named);
		/* It does not matter where one is that goes. */
		table_remove(&t, &entries[i / 2].named);
		assert_null(table_find(&t, entries[i / 2].named.hash, entries[i / 2].named.name));
		assert_int_equal(table_add(&t, &entries[i / 2].named), 0);
	}
	assert_true(grown > 3);
	assert_null(t.before);
	assert_int_equal(in_place(&t), MANY);
	table_release(&t);
	free(entries);
}

static void a_large_table_grows_a_little_with_each_entry(void **state)
{
	(void)state;
	grow_with_each_entry(false);
	grow_with_each_entry(true);
}

/* Ninety names and more of a client, of which there may be ten thousand. */
static void what_is_dense_or_small_takes_less_room(void **state)
{
	struct table tables[] = { { .dense = false }, { .dense = true } };
	struct entry entries[112] = { { .name = "" } };
	struct pool pool;
	char *one;

	(void)state;
	for (unsigned i = 0; i < 112; i++) {
		snprintf(entries[i].name, sizeof(entries[i].name), "%u", i);
		entries[i].named =
			(struct named){ hash_bytes(entries[i].name, strlen(entries[i].name)),
					span_of(entries[i].name) };
		for (unsigned t = 0; t < 2; t++)
			assert_int_equal(table_add(&tables[t], &entries[i].named), 0);
	}
	for (unsigned t = 0; t < 2; t++) {
		assert_int_equal(table_places(&tables[t]), t == 0 ? 256 : 128);
		for (unsigned i = 0; i < 112; i++)
			assert_ptr_equal(table_find(&tables[t], entries[i].named.hash,
						    entries[i].named.name),
					 &entries[i].named);
		assert_null(table_find(&tables[t], 7, SPAN("none")));
		table_release(&tables[t]);
	}
	pool_init_small(&pool, 41);
	one = pool_take(&pool);
	assert_ptr_equal((char *)pool_take(&pool), one + 48);
	pool_release(&pool);
	assert_non_null(pool_take(&pool));
	assert_int_equal(pool.object_bytes, 48);
	pool_release(&pool);
}

static void names_with_the_same_hash_are_told_apart(void **state)
{
	struct entry a = { .name = "a" }, b = { .name = "b" };
	struct table t = { 0 };

	(void)state;
	a.named = (struct named){ 7, span_of(a.name) };
	b.named = (struct named){ 7, span_of(b.name) };
	assert_null(table_find(&t, 7, SPAN("a")));
	assert_int_equal(table_add(&t, &a.named), 0);
	assert_null(table_find(&t, 7, SPAN("b")));
	assert_int_equal(table_add(&t, &b.named), 0);
	assert_ptr_equal(table_find(&t, 7, SPAN("a")), &a.named);
	assert_ptr_equal(table_find(&t, 7, SPAN("b")), &b.named);
	assert_null(table_find(&t, 7 + 16, SPAN("a")));
	table_remove(&t, &a.named);
	assert_null(table_find(&t, 7, SPAN("a")));
	assert_ptr_equal(table_find(&t, 7, SPAN("b")), &b.named);
	table_release(&t);
}

/* ---- pool ---- */

static void objects_of_a_pool_do_not_overlap(void **state)
{
	static const size_t sizes[] = { 1, 16, 17, 500, 4096, 65000, 100000 };

	(void)state;
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		enum { OBJECTS = 300 };
		unsigned char *objects[OBJECTS];
		struct pool pool;

		pool_init(&pool, sizes[s]);
		for (unsigned round = 0; round < 3; round++) {
			for (unsigned i = 0; i < OBJECTS; i++) {
				objects[i] = pool_take(&pool);
				assert_non_null(objects[i]);
				assert_int_equal((uintptr_t)objects[i] % 64, 0);
				memset(objects[i], (int)(i % 251), sizes[s]);
			}
			for (unsigned i = 0; i < OBJECTS; i++) {
				assert_int_equal(objects[i][0], i % 251);
				assert_int_equal(objects[i][sizes[s] - 1], i % 251);
			}
			for (unsigned i = 0; i < OBJECTS; i++)
				pool_give(&pool, objects[i]);
			/* The last one given back is the next one taken. */
			assert_ptr_equal(pool_take(&pool), objects[OBJECTS - 1]);
			pool_give(&pool, objects[OBJECTS - 1]);
		}
		pool_release(&pool);
		/* And it may be used again. */
		assert_non_null(pool_take(&pool));
		pool_release(&pool);
	}
}

/* ---- list ---- */

static void check_list(const struct list *l, struct list *const *want, size_t n)
{
	const struct list *at = l;

	for (size_t i = 0; i < n; i++) {
		assert_ptr_equal(at->next, want[i]);
		assert_ptr_equal(want[i]->prev, at);
		at = at->next;
	}
	assert_ptr_equal(at->next, l);
	assert_ptr_equal(l->prev, at);
	assert_int_equal(list_empty(l), n == 0);
}

static void links_go_in_and_out_of_lists(void **state)
{
	struct list l, other, a, b, c;

	(void)state;
	list_init(&l);
	list_init(&other);
	list_init(&a);
	list_remove(&a);
	assert_true(list_empty(&a));
	assert_null(list_take(&l));
	list_append(&l, &a);
	list_append(&l, &b);
	list_append(&l, &c);
	check_list(&l, (struct list *[]){ &a, &b, &c }, 3);
	list_remove(&b);
	list_remove(&b);
	check_list(&l, (struct list *[]){ &a, &c }, 2);
	list_append(&other, &b);
	list_splice(&l, &other);
	check_list(&l, (struct list *[]){ &a, &c, &b }, 3);
	check_list(&other, NULL, 0);
	list_splice(&l, &other);
	list_splice(&other, &l);
	check_list(&l, NULL, 0);
	check_list(&other, (struct list *[]){ &a, &c, &b }, 3);
	assert_ptr_equal(list_take(&other), &a);
	assert_true(list_empty(&a));
	check_list(&other, (struct list *[]){ &c, &b }, 2);
}

/* ---- wire, span, clock ---- */

static void skipping_messages_of_a_run_skips_their_bytes(void **state)
{
	struct run lines = { .body = SPAN("a\r\n\r\nccc\r\n"), .messages = 3, .form = RUN_LINES };
	struct run single = { .body = SPAN("a\nb"), .messages = 1 };

	(void)state;
	assert_int_equal(run_skip(&lines, 0), 0);
	assert_int_equal(run_skip(&lines, 1), 3);
	assert_int_equal(run_skip(&lines, 2), 5);
	assert_int_equal(run_skip(&lines, 3), 10);
	assert_int_equal(run_skip(&single, 0), 0);
	assert_int_equal(run_skip(&single, 1), 3);
}

static void a_run_is_walked_message_by_message_whatever_its_form(void **state)
{
	static const struct span messages[] = { { "a\r", 2 }, { "", 0 }, { "\n\0c", 3 } };
	char records[3 * RECORD_HEAD_BYTES + 5], *at = records;
	struct run runs[] = {
		{ .body = SPAN("a\r\n\r\nccc\r\n"), .messages = 3, .form = RUN_LINES, .seq = 7 },
		{ .messages = 3, .form = RUN_RECORDS, .seq = 7 },
		{ .body = SPAN("\r\n"), .messages = 1, .form = RUN_ONE, .seq = 7 },
		{ .body = SPAN(""), .messages = 1, .form = RUN_ONE, .seq = 7 },
	};
	static const struct span wanted[][3] = {
		{ { "a", 1 }, { "", 0 }, { "ccc", 3 } },
		{ { "a\r", 2 }, { "", 0 }, { "\n\0c", 3 } },
		{ { "\r\n", 2 } },
		{ { "", 0 } },
	};

	(void)state;
	for (size_t i = 0; i < 3; i++)
		at = record_put(at, messages[i]);
	assert_ptr_equal(at, records + sizeof(records));
	runs[1].body = (struct span){ records, sizeof(records) };
	for (size_t i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		struct run rest = runs[i];
		uint32_t n = 0;
		struct span message;

		for (; run_next(&rest, &message); n++) {
			assert_true(span_equal(message, wanted[i][n]));
			assert_int_equal(rest.seq, 7 + n + 1);
			assert_ptr_equal(runs[i].body.data + run_skip(&runs[i], n + 1),
					 rest.body.data);
		}
		assert_int_equal(n, runs[i].messages);
		assert_int_equal(rest.body.len, 0);
	}
	runs[1].messages = 1;
	assert_true(span_equal(run_only(&runs[1]), messages[0]));
}

static void spans_are_equal_by_their_bytes(void **state)
{
	(void)state;
	assert_true(span_equal((struct span){ NULL, 0 }, SPAN("")));
	assert_true(span_equal(span_of("abc"), SPAN("abc")));
	assert_false(span_equal(SPAN("abc"), SPAN("abd")));
	assert_false(span_equal(SPAN("abc"), SPAN("ab")));
	assert_true(span_equal(span_skip(SPAN("abc"), 1), SPAN("bc")));
}

static void clock_never_goes_back(void **state)
{
	uint64_t last = clock_now_ns(), cpu = clock_cpu_ns();

	(void)state;
	for (int i = 0; i < 1000; i++) {
		uint64_t now = clock_now_ns();

		assert_true(now >= last);
		last = now;
	}
	assert_true(clock_cpu_ns() >= cpu);
	/* 2020 is over. */
	assert_true(clock_wall_ns() > 1577836800 * NS_PER_S);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* How many KiB come in small pieces when the system gives no more; -1: there were none to spare. */
static long spare_kib(rlim_t bytes)
{
	const struct rlimit none = { 0, RLIM_INFINITY }, some = { bytes, RLIM_INFINITY };
	pid_t child = fork();
	int status;

	if (child == 0) {
		void *volatile piece; /* or the compiler knows better than to ask */
		void *guard;
		int n = 0;

		setrlimit(RLIMIT_AS, &some);
		guard = spare_memory();
		setrlimit(RLIMIT_AS, &none);
		while (n < 1000 && (piece = malloc(8 << 10)) != NULL)
			n++;
		_exit(guard != NULL ? n * 8 / 16 : 255);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status & 0x7f, 0);
	return WEXITSTATUS(status) == 255 ? -1 : WEXITSTATUS(status) * 16;
}

static void spare_memory_is_there_when_the_system_gives_no_more(void **state)
{
	(void)state;
	assert_true(spare_kib(RLIM_INFINITY) >= 900);
	assert_int_equal(spare_kib(256 << 10), -1);
}
#endif

/* ---- tree ---- */

static void a_tree_gives_its_entries_in_the_order_of_their_keys(void **state)
{
	enum { N = 500 };
	static struct tree_entry entries[N];
	struct tree tree = { NULL }, upto;
	uint64_t key[2], last = 0;
	unsigned n = 0;

	(void)state;
	for (uint64_t i = 0; i < N; i++) {
		/* Each number below N once; half of them differ in the second part only. */
		uint64_t v = i * 7919 % N;

		entries[i].key[0] = v / 2;
		entries[i].key[1] = v % 2;
		tree_add(&tree, &entries[i]);
	}
	for (uint64_t v = 0; v < N; v++) {
		key[0] = v / 2;
		key[1] = v % 2;
		assert_non_null(tree_find(&tree, key));
	}
	key[0] = N;
	assert_null(tree_find(&tree, key));
	for (unsigned i = 0; i < N; i += 3)
		tree_remove(&tree, &entries[i]);
	assert_null(tree_find(&tree, entries[0].key));
	key[0] = N / 4;
	key[1] = 0;
	upto = tree_split(&tree, key);
	for (struct tree_entry *e; (e = tree_first(&upto)) != NULL; n++) {
		assert_true(n == 0 || e->key[0] * 2 + e->key[1] > last);
		last = e->key[0] * 2 + e->key[1];
		assert_true(last <= N / 2);
		tree_remove(&upto, e);
	}
	for (struct tree_entry *e; (e = tree_first(&tree)) != NULL; n++) {
		assert_true(e->key[0] * 2 + e->key[1] > last);
		last = e->key[0] * 2 + e->key[1];
		assert_true(last > N / 2);
		tree_remove(&tree, e);
	}
	assert_int_equal(n, N - (N + 2) / 3);
}

static void a_record_keeps_what_was_said_beside_its_payload(void **state)
{
	const struct record records[] = {
		{ .payload = SPAN("plain") },
		{ .payload = SPAN("\0\r\n"), .reply = SPAN("_INBOX.a"), .retain = true },
		{ .retain = true },
		{ .headers = SPAN("NATS/1.0\r\n\r\n"),
		  .type = SPAN("text/plain"),
		  .version = SPAN("1.2"),
		  .properties = SPAN("\1\2"),
		  .payload = SPAN("p") },
		{ .payload = SPAN("") },
	};
	enum { N = sizeof(records) / sizeof(*records) };
	char body[512], *at = body;
	struct run run = { .form = RUN_RECORDS, .messages = N }, plain;
	struct span payload = { NULL, 0 };
	struct record r;

	(void)state;
	for (size_t i = 0; i < N; i++) {
		char *end = record_write(at, &records[i]);

		assert_int_equal(end - at, record_bytes(&records[i]));
		at = end;
	}
	run.body = (struct span){ body, (size_t)(at - body) };
	plain = run;
	assert_int_equal(run_skip(&run, N), run.body.len);
	for (size_t i = 0; i < N; i++) {
		const struct record *want = &records[i];

		assert_true(run_next_record(&run, &r) && run_next(&plain, &payload));
		assert_true(span_equal(r.payload, want->payload));
		assert_true(span_equal(payload, want->payload));
		assert_true(span_equal(r.reply, want->reply));
		assert_true(span_equal(r.headers, want->headers));
		assert_true(span_equal(r.type, want->type));
		assert_true(span_equal(r.version, want->version));
		assert_true(span_equal(r.properties, want->properties));
		assert_int_equal(r.retain, want->retain);
	}
	assert_false(run_next_record(&run, &r));
	run = (struct run){
		.form = RUN_ONE, .messages = 1, .body = SPAN("x"), .type = SPAN("text/css")
	};
	assert_true(run_next_record(&run, &r));
	assert_true(span_equal(r.type, SPAN("text/css")) && span_equal(r.payload, SPAN("x")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_tree_gives_its_entries_in_the_order_of_their_keys),
		cmocka_unit_test(every_value_is_in_the_bucket_whose_floor_is_below_it),
		cmocka_unit_test(quantiles_are_those_of_the_sorted_values_to_3_per_cent),
		cmocka_unit_test(empty_histogram_has_zero_everywhere),
		cmocka_unit_test(merged_is_as_if_added_to_one_and_since_takes_it_apart),
		cmocka_unit_test(hash_is_siphash_1_3),
		cmocka_unit_test(seeds_and_unique_numbers_differ),
		cmocka_unit_test(few_hold_what_was_added_and_not_removed),
		cmocka_unit_test(one_name_takes_no_memory_but_its_own),
		cmocka_unit_test(table_holds_what_was_added_and_not_removed),
		cmocka_unit_test(table_does_so_when_runs_of_entries_wrap_around),
		cmocka_unit_test(a_large_table_grows_a_little_with_each_entry),
		cmocka_unit_test(what_is_dense_or_small_takes_less_room),
		cmocka_unit_test(names_with_the_same_hash_are_told_apart),
		cmocka_unit_test(objects_of_a_pool_do_not_overlap),
		cmocka_unit_test(links_go_in_and_out_of_lists),
		cmocka_unit_test(skipping_messages_of_a_run_skips_their_bytes),
		cmocka_unit_test(a_run_is_walked_message_by_message_whatever_its_form),
		cmocka_unit_test(spans_are_equal_by_their_bytes),
		cmocka_unit_test(clock_never_goes_back),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		cmocka_unit_test(spare_memory_is_there_when_the_system_gives_no_more),
#endif
		cmocka_unit_test(a_record_keeps_what_was_said_beside_its_payload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
