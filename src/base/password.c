#include "base/password.h"

#include <crypt.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"

_Static_assert(CRYPT_OUTPUT_SIZE == PASSWORD_HASH_BYTES_MAX, "a hash fits");
_Static_assert(CRYPT_MAX_PASSPHRASE_SIZE == PASSWORD_BYTES_MAX, "and a password");

bool password_hash_valid(const char *hash)
{
	static const char *const kinds[] = { "$y$", "$2b$", "$6$" };
	size_t len = strlen(hash);
	bool known = false;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		known |= strncmp(hash, kinds[i], strlen(kinds[i])) == 0;
	/* A salt alone, or half a hash, is one that no password has. */
	return known && len < PASSWORD_HASH_BYTES_MAX && crypt_checksalt(hash) == CRYPT_SALT_OK &&
	       len - (size_t)(strrchr(hash, '$') - hash) > 31;
}

bool password_fits(const char *password, const char *hash)
{
	size_t len = strlen(password);
	struct crypt_data *work;
	const char *made;
	bool fits;

	if (len == 0 || len > PASSWORD_BYTES_MAX - 1)
		return false;
	/* 32 KiB. */
	work = calloc(1, sizeof(*work));
	if (work == NULL)
		return false;
	made = crypt_r(password, hash, work);
	/* What begins with '*' says that it failed (crypt(3)). */
	fits = made != NULL && *made != '*' && strlen(made) == strlen(hash) &&
	       bytes_same(made, hash, strlen(hash));
	bytes_forget(work, sizeof(*work));
	free(work);
	return fits;
}

int password_hash_new(const char *password, char out[PASSWORD_HASH_BYTES_MAX])
{
	char setting[CRYPT_GENSALT_OUTPUT_SIZE];
	struct crypt_data *work;
	const char *made;
	int err = 0;

	if (crypt_gensalt_rn("$y$", 0, NULL, 0, setting, sizeof(setting)) == NULL)
		return -errno;
	work = calloc(1, sizeof(*work));
	if (work == NULL)
		return -ENOMEM;
	made = crypt_r(password, setting, work);
	if (made == NULL || *made == '*')
		err = errno != 0 ? -errno : -EINVAL;
	else
		strcpy(out, made);
	bytes_forget(work, sizeof(*work));
	free(work);
	return err;
}
