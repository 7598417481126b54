#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "session/line.h"
#include "session/mqtt.h"
#include "session/websocket.h"
#include "session/websocket_topics.h"
#include "session/words.h"

/* Each reason of the core's, through each door that has words. NATS (a switch without a default for
 * them, which the compiler holds to all) and Redis say few, and close for the others. */

static void every_reason_has_words(void **state)
{
	(void)state;
	for (enum reason r = REASON_NONE + 1; r < REASONS; r++) {
		assert_non_null(reason_words[r]);
		for (enum reason other = REASON_NONE + 1; other < r; other++)
			assert_string_not_equal(reason_words[r], reason_words[other]);
		assert_string_equal(websocket_json_reason(r), reason_words[r]);
	}
	assert_null(websocket_json_reason(REASON_NONE));
}

static void a_line_says_them(void **state)
{
	(void)state;
	for (enum reason r = REASON_NONE + 1; r < REASONS; r++) {
		char wanted[64];

		snprintf(wanted, sizeof(wanted), "ERROR %s\r\n", reason_words[r]);
		assert_string_equal(line_session_say(NULL, r), wanted);
	}
}

static void a_websockets_close_says_them(void **state)
{
	(void)state;
	for (enum reason r = REASON_NONE + 1; r < REASONS; r++) {
		const char *frame = websocket_say(NULL, r);
		unsigned code;

		assert_non_null(frame);
		assert_int_equal((unsigned char)frame[0], 0x88);
		assert_int_equal(frame[1], 2 + strlen(reason_words[r]));
		assert_string_equal(frame + 4, reason_words[r]);
		code = (unsigned)(unsigned char)frame[2] << 8 | (unsigned char)frame[3];
		assert_true(code >= 1001 && code <= 1013);
	}
}

/* As they are, and in frames. */
static void mqtt_has_a_code_for_them(void **state)
{
	struct connection c = { .state = CONNECTION_OPEN };

	(void)state;
	mqtt_of(&c)->state = MQTT_CONNECTED;
	mqtt_of(&c)->level = MQTT_5;
	for (enum reason r = REASON_NONE + 1; r < REASONS; r++) {
		const char *word = mqtt_session_say(&c, r);

		assert_non_null(word);
		assert_int_equal((unsigned char)word[0], 0xe0);
		assert_true((unsigned char)word[2] >= 0x80);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_reason_has_words),
		cmocka_unit_test(a_line_says_them),
		cmocka_unit_test(a_websockets_close_says_them),
		cmocka_unit_test(mqtt_has_a_code_for_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
