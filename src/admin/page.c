#include "admin/page.h"

#include <stdint.h>

#include "broker/connection.h"
#include "session/http_answer.h"
#include "session/routes.h"
#include "broker/shard.h"
#include "protocol/http.h"

/* The file as it is, put between two labels by the assembler. */
__asm__(".pushsection .rodata\n"
	".globl page_html, page_html_len\n"
	"page_html:\n"
	".incbin \"src/admin/page.html\"\n"
	"1:\n"
	".balign 8\n"
	"page_html_len:\n"
	".quad 1b - page_html\n"
	".popsection\n");

extern const char page_html[];
extern const uint64_t page_html_len;

static void handle_page(struct connection *c, const struct http_request *r, struct span rest)
{
	/* It needs nothing from anywhere but this broker. */
	static const char headers[] =
		"Cache-Control: no-cache\r\n"
		"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
		"script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
		"frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n";

	(void)r;
	(void)rest;
	if (!c->shard->config->http.page) {
		http_error(c, 404, "no such page");
		return;
	}
	http_answer(c, &(struct http_answer){ .status = 200,
					      .type = SPAN("text/html; charset=utf-8"),
					      .headers = headers,
					      .body = { page_html, page_html_len } });
}

void page_init(struct broker *b)
{
	static const struct route page = { .path = "/",
					   .local = true,
					   .methods = HTTP_VERB_GET | HTTP_VERB_HEAD,
					   .handle = handle_page };

	routes_add(b, &page);
}
