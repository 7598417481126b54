#include "admin/exposure.h"

#include <string.h>

#include "base/address.h"
#include "base/config.h"

/* Whether only clients of this very host can come. */
static bool is_local(const struct config_listen *l)
{
	struct address address;

	return address_parse(l->address, &address) != NULL || address_local(&address);
}

static const struct config_user *find_user(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->users_n; i++)
		if (strcmp(config->users[i].name, name) == 0)
			return &config->users[i];
	return NULL;
}

bool exposure_refused(const struct config *config, char *problem, size_t size)
{
	if (config->auth.anonymous != ANONYMOUS_ALL || find_user(config, CONFIG_ANONYMOUS) != NULL)
		return false;
	for (size_t i = 0; i < config->listens_n; i++) {
		if (is_local(&config->listens[i]))
			continue;
		snprintf(problem, size,
			 "auth.anonymous: \"all\" lets clients of other hosts come to %s (listen "
			 "\"%s\") and nothing says what they may, use anonymous = \"none\" or a "
			 "user "
			 "\"anonymous\" with publish and subscribe",
			 config->listens[i].address, config->listens[i].title);
		return true;
	}
	return false;
}

/* "a.>, b.*", or what stands for none. */
static void print_list(FILE *out, char *const *patterns, size_t n, const char *none)
{
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s%s", i > 0 ? ", " : "", patterns[i]);
	if (n == 0)
		fputs(none, out);
}

static void print_rights(FILE *out, const struct config_user *u)
{
	fputs("publish ", out);
	print_list(out, u->publish, u->publish_n, "nothing");
	if (u->deny_publish_n > 0) {
		fputs(" but not ", out);
		print_list(out, u->deny_publish, u->deny_publish_n, "");
	}
	fputs(", subscribe to ", out);
	print_list(out, u->subscribe, u->subscribe_n, "nothing");
	if (u->deny_subscribe_n > 0) {
		fputs(" but not ", out);
		print_list(out, u->deny_subscribe, u->deny_subscribe_n, "");
	}
	if (u->monitor)
		fputs(", and read figures", out);
}

/* Whether anybody can show a credential. */
static bool any_credential(const struct config *config)
{
	bool any = config->auth.jwt.keys_n > 0;

	for (size_t i = 0; i < config->users_n; i++) {
		const struct config_user *u = &config->users[i];

		any |= *u->password_hash != '\0' || u->token_hash_n > 0 ||
		       *u->certificate != '\0' || *u->uid != '\0';
	}
	return any;
}

static void print_strangers(FILE *out, const struct config *config, bool local)
{
	const struct config_user *anonymous = find_user(config, CONFIG_ANONYMOUS);
	bool come = config->auth.anonymous == ANONYMOUS_ALL ||
		    (local && config->auth.anonymous == ANONYMOUS_LOOPBACK);

	fputs("whoever has no credential may ", out);
	if (!come)
		fputs("do nothing", out);
	else if (anonymous != NULL)
		print_rights(out, anonymous);
	else
		fputs(local ? "do everything" : "do nothing", out);
}

void exposure_print(FILE *out, const struct config *config)
{
	bool any = any_credential(config);

	for (size_t i = 0; i < config->listens_n; i++) {
		const struct config_listen *l = &config->listens[i];
		bool local = is_local(l);

		fprintf(out, "access by listen \"%s\": %s: ", l->title,
			local ? "this host only" : "any host that reaches it");
		print_strangers(out, config, local);
		if (local && any && l->proxy_protocol) {
			fputs("; through a proxy from elsewhere: ", out);
			print_strangers(out, config, false);
		} else if (local && config->auth.anonymous != ANONYMOUS_NONE &&
			   find_user(config, CONFIG_ANONYMOUS) == NULL)
			fputs(", and so may everybody for whom a proxy on this host speaks", out);
		fputs(".\n", out);
	}
	for (size_t i = 0; i < config->users_n; i++) {
		const struct config_user *u = &config->users[i];

		if (strcmp(u->name, CONFIG_ANONYMOUS) == 0)
			continue;
		fprintf(out, "access of user \"%s\": may ", u->name);
		print_rights(out, u);
		fputs(".\n", out);
	}
	if (config->auth.jwt.keys_n > 0)
		fputs("access by token: whoever has a JWT that one of jwt.keys has signed may what "
		      "it says.\n",
		      out);
}
