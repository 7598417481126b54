#include "broker/access.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/glob.h"
#include "broker/audit.h"
#include "broker/connection.h"
#include "broker/identity.h"
#include "broker/login.h"
#include "broker/shard.h"
#include "broker/subscription.h"
#include "engine/cipher.h"
#include "engine/tls.h"
#include "topic/interest.h"
#include "topic/topic.h"
#include "broker/wild.h"

enum {
	REVIEW_AGAIN_MS = 500, /* who has been told to go and has not by then is cut off */
	EXPIRY_LOOK_MS = 1000, /* at most, between two looks at who has come to his end */
};

/* ---- who it is ---- */

/* Those who share a limit are counted as long as they are somebody's. */
static bool enter(struct identity *i, bool forced)
{
	struct rights *r = i->owner != NULL ? i->owner->rights : i->rights;

	if (r->connections_max == 0)
		return true;
	if (atomic_fetch_add(&r->connections, 1) < r->connections_max || forced)
		return true;
	atomic_fetch_sub(&r->connections, 1);
	return false;
}

static void leave(struct identity *i)
{
	struct rights *r = i->owner != NULL ? i->owner->rights : i->rights;

	if (r->connections_max > 0)
		atomic_fetch_sub(&r->connections, 1);
}

static void note_expiry(struct logins *logins, int64_t expires_s)
{
	if (expires_s < logins->expires_s)
		logins->expires_s = expires_s;
	if (expires_s < logins->next_expires_s)
		logins->next_expires_s = expires_s;
}

/* False: there are as many of his as there may be. NULL: nobody has asked. */
static bool become(struct connection *c, struct identity *i, bool forced)
{
	if (i == c->identity)
		return true;
	if (i != NULL && !enter(i, forced))
		return false;
	if (c->identity != NULL) {
		leave(c->identity);
		identity_let_go(c->identity);
	}
	c->identity = i != NULL ? identity_hold(i) : NULL;
	if (i != NULL)
		note_expiry(&c->shard->logins, i->expires_s);
	return true;
}

void access_left(struct connection *c)
{
	(void)become(c, NULL, true);
}

/* Without a credential. */
static struct identity *stranger(const struct connection *c)
{
	const struct identities *all = c->shard->logins.identities;
	/* Where nobody could show a credential, a proxy on this machine is whom it speaks for. */
	bool local = access_open(c) ? connection_peer_local(c) : connection_local(c);

	switch (c->shard->config->auth.anonymous) {
	case ANONYMOUS_NONE:
	default:
		return all->nobody;
	case ANONYMOUS_LOOPBACK:
		if (!local)
			return all->nobody;
		break;
	case ANONYMOUS_ALL:
		break;
	}
	if (all->anonymous != NULL)
		return all->anonymous;
	return local ? all->everybody : all->nobody;
}

/* Whose certificate it has shown, or whose process it is; NULL: neither, or nobody's. */
static struct identity *peer(const struct connection *c)
{
	const struct identities *all = c->shard->logins.identities;
	const char *certified = c->socket.tls != NULL ? c->socket.tls->cipher->client : NULL;
	struct identity *i = NULL;
	uint32_t uid;

	if (all->any_certificate && certified != NULL)
		i = identity_of_certificate(all, span_of(certified));
	/* A proxy's user is not its client's. */
	if (i == NULL && all->any_uid && !c->proxied &&
	    ring_peer_uid(c->shard->reactor.ring, c->socket.fd, &uid))
		i = identity_of_uid(all, uid);
	return i;
}

static void say_login(const struct connection *c)
{
	const struct identity *i = c->identity;
	char who[AUDIT_TEXT_MAX], where[CONNECTION_PEER_MAX];

	c->shard->counters.auth[i->how][AUTH_OK]++;
	audit(AUDIT_LOGIN, "auth ok user=%s how=%s address=%s protocol=%s",
	      audit_name(span_of(i->rights->name), who), access_how_names[i->how],
	      connection_peer_text(c, where), c->protocol->name);
}

/* It is asked for the first time. */
static void arrive(struct connection *c)
{
	struct identity *i = peer(c);

	/* Beyond his limit he is a stranger. */
	if (i != NULL && become(c, i, false)) {
		say_login(c);
		return;
	}
	(void)become(c, stranger(c), true);
}

static const struct identity *identity_of(struct connection *c)
{
	if (c->identity == NULL)
		arrive(c);
	return c->identity;
}

bool access_needed(struct connection *c)
{
	return identity_of(c)->how == HOW_NOBODY;
}

bool access_open(const struct connection *c)
{
	return !c->shard->logins.identities->any_credential;
}

bool access_could_log_in(const struct connection *c)
{
	return !access_open(c) && (c->identity == NULL || c->identity->how <= HOW_ANONYMOUS);
}

void access_login(struct connection *c, const struct credentials *shown)
{
	(void)identity_of(c);
	login_begin(c, shown);
}

void access_logout(struct connection *c)
{
	const struct identity *i = c->identity;

	if (i != NULL && i->how > HOW_ANONYMOUS && i->how != HOW_CERTIFICATE && i->how != HOW_UID)
		access_left(c);
}

void access_decided(struct connection *c, enum access_result result, struct identity *i)
{
	bool other = i != c->identity;

	if (c->state != CONNECTION_OPEN)
		return;
	if (result == ACCESS_GRANTED && !become(c, i, false)) {
		connection_error(c, REASON_CONNECTIONS);
		return;
	}
	if (result == ACCESS_GRANTED && other)
		say_login(c);
	c->protocol->logged_in(c, result);
}

/* ---- what he may ---- */

static bool may_monitor(struct connection *c, bool forwarded)
{
	const struct identity *i = identity_of(c);

	if (i->rights->monitor)
		return true;
	if (i->how == HOW_NOBODY)
		return false;
	return !c->shard->config->http.page_local_only || (!forwarded && connection_local(c));
}

static bool may(struct connection *c, enum access_action action, struct span name, bool pattern)
{
	if (action == ACCESS_MONITOR)
		return may_monitor(c, false);
	/* The broker's own topics: nobody else publishes to them. */
	if (topic_internal(name))
		return action == ACCESS_SUBSCRIBE && may_monitor(c, false);
	return identity_may(identity_of(c), action, name, pattern);
}

static void say_denial(struct connection *c, enum access_action action, struct span name)
{
	const struct identity *i = identity_of(c);
	char who[AUDIT_TEXT_MAX], what[AUDIT_TEXT_MAX];

	c->shard->counters.denied[action]++;
	audit(AUDIT_DENIAL, "denied user=%s action=%s topic=%s",
	      audit_name(span_of(i->rights->name), who), access_action_names[action],
	      audit_name(name, what));
}

bool access_may(struct connection *c, enum access_action action, struct span name, bool pattern)
{
	if (may(c, action, name, pattern))
		return true;
	say_denial(c, action, name);
	return false;
}

bool access_may_monitor(struct connection *c, bool forwarded)
{
	if (may_monitor(c, forwarded))
		return true;
	say_denial(c, ACCESS_MONITOR, SPAN(""));
	return false;
}

/* ---- when that changes ---- */

static bool may_glob(struct connection *c, struct span glob)
{
	struct glob_meaning m;

	glob_cover(glob, &m);
	return may(c, ACCESS_SUBSCRIBE, (struct span){ m.text, m.len }, m.kind == GLOB_NATIVE);
}

/* "a.>" of MQTT's is for "a", too. */
static bool may_level_before(struct connection *c, const struct pattern *p)
{
	struct span level = p->text;

	if (p->kind != PATTERN_MQTT || level.len < 3 || level.data[level.len - 1] != '>')
		return true;
	level.len -= 2;
	return may(c, ACCESS_SUBSCRIBE, level, pattern_wild(level));
}

bool access_still_may(struct connection *c, const struct subscription *sub)
{
	const struct interest *i = subscription_interest(sub);
	struct span name = i->named.name;

	if (i->wild == NULL)
		return may(c, ACCESS_SUBSCRIBE, name, false);
	if (i->wild->pattern.kind == PATTERN_GLOB)
		return may_glob(c, name);
	return may(c, ACCESS_SUBSCRIBE, name, pattern_wild(name)) &&
	       may_level_before(c, &i->wild->pattern);
}

void access_expel(struct connection *c, const char *why)
{
	char who[AUDIT_TEXT_MAX];

	audit(AUDIT_REVOCATION, "revoked user=%s reason=%s",
	      audit_name(span_of(c->identity->rights->name), who), why);
	c->expelled = true;
	c->shard->logins.review_again_ns = c->shard->reactor.now_ns + REVIEW_AGAIN_MS * NS_PER_MS;
	connection_error(c,
			 strcmp(why, ACCESS_EXPIRED) == 0 ? REASON_EXPIRED : REASON_NOT_PERMITTED);
}

/* Who it is by the configuration of now. False: it is nobody any more. */
static bool identify_again(struct connection *c)
{
	const struct identities *all = c->shard->logins.identities;
	struct identity *i;
	bool again;

	if (c->identity->how <= HOW_ANONYMOUS) {
		i = peer(c);
		(void)become(c, i != NULL ? i : stranger(c), true);
		return true;
	}
	i = identity_again(all, c->identity);
	again = i != NULL;
	if (again)
		(void)become(c, i, true);
	identity_let_go(i);
	return again;
}

static void review(struct connection *c, void *argument)
{
	struct shard *s = c->shard;
	int64_t now_s = *(const int64_t *)argument;
	const struct identity *before = c->identity;

	if (c->state == CONNECTION_CLOSED || before == NULL)
		return;
	if (c->expelled) {
		connection_close(c, DROP_CLOSED);
		return;
	}
	if (c->state != CONNECTION_OPEN)
		return;
	if (before->expires_s <= now_s) {
		access_expel(c, ACCESS_EXPIRED);
		return;
	}
	note_expiry(&s->logins, before->expires_s);
	if (!s->logins.changed)
		return;
	if (!identify_again(c)) {
		access_expel(c, "credential");
		return;
	}
	if (c->identity == before || c->identity->rights->all)
		return;
	if (c->protocol->still_may != NULL && !c->protocol->still_may(c))
		access_expel(c, "topic");
	else
		connection_review(c);
}

static void begin_review(struct shard *s)
{
	s->logins.review = connections_all();
	s->logins.reviewing = true;
	s->logins.reviewed_ns = s->reactor.now_ns;
	s->logins.review_again_ns = UINT64_MAX;
	s->logins.next_expires_s = JWT_FOREVER;
}

void access_configure(struct shard *s, struct identities *identities)
{
	logins_configure(s, identities);
	s->logins.changed = true;
	begin_review(s);
}

/* When somebody is to be looked at again, as the reactor counts; UINT64_MAX: never. */
static uint64_t due_ns(const struct shard *s, int64_t now_s)
{
	uint64_t at_ns = s->logins.review_again_ns;

	if (s->logins.expires_s != JWT_FOREVER) {
		uint64_t next_ns = s->logins.reviewed_ns + EXPIRY_LOOK_MS * NS_PER_MS;

		if (now_s < s->logins.expires_s)
			next_ns = s->reactor.now_ns + EXPIRY_LOOK_MS * NS_PER_MS;
		at_ns = next_ns < at_ns ? next_ns : at_ns;
	}
	return at_ns;
}

bool access_flush(struct shard *s)
{
	int64_t now_s;
	bool more = s->logins.waiting_n > 0 && logins_flush(s);

	if (!s->logins.reviewing && s->logins.review_again_ns == UINT64_MAX &&
	    s->logins.expires_s == JWT_FOREVER)
		return more;
	now_s = (int64_t)(clock_wall_ns() / NS_PER_S);
	if (!s->logins.reviewing) {
		uint64_t at_ns = due_ns(s, now_s);

		if (s->reactor.now_ns < at_ns) {
			reactor_wake_at(&s->reactor, at_ns);
			return more;
		}
		begin_review(s);
	}
	reactor_part(&s->reactor, PART_CLIENTS);
	if (connections_walk(s, &s->logins.review, review, &now_s))
		return true;
	s->logins.reviewing = s->logins.changed = false;
	s->logins.expires_s = s->logins.next_expires_s;
	return more;
}
