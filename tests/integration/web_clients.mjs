/*
 * The HTTP contract as clients from the web's own world see it: eventsource, undici, and bare sockets. The broker
 * is at BROKER (address:port), speaks lines and HTTP, has two reactors or more and a wait_seconds of 2 or more.
 */
import assert from "node:assert/strict";
import net from "node:net";
import { Readable } from "node:stream";
import { after, test } from "node:test";
import { EventSource } from "eventsource";
import { Client, Pool, getGlobalDispatcher, request } from "undici";

const BROKER = process.env.BROKER, [host, port] = BROKER.split(":"), base = `http://${BROKER}`;
const sleep = ms => new Promise(done => setTimeout(done, ms));

/* What is kept alive would keep the tests alive. */
after(() => getGlobalDispatcher().destroy());

async function publish(topic, body, headers = {}) {
	const answer = await request(`${base}/publish/${topic}`, { method: "POST", body, headers });
	assert.equal(answer.statusCode, 200);
	return (await answer.body.json()).id;
}

async function get(path, headers = {}) {
	const answer = await request(base + path, { headers });
	return { status: answer.statusCode, headers: answer.headers, body: Buffer.from(await answer.body.arrayBuffer()) };
}

/* The events of a source, one after the other. */
function events(path) {
	const source = new EventSource(base + path), waiting = [], here = [];
	const take = event => waiting.length ? waiting.shift()(event) : here.push(event);
	for (const kind of ["message", "gap", "base64"]) source.addEventListener(kind, take);
	return {
		source,
		opened: new Promise(done => source.addEventListener("open", done, { once: true })),
		next: () => here.length ? here.shift() : new Promise(done => waiting.push(done)),
	};
}

/* A bare connection: what is written, and what has come. */
async function dial(text) {
	const socket = net.connect(port, host), chunks = [];
	socket.on("data", data => chunks.push(data));
	const ended = new Promise(done => socket.on("close", done));
	const got = () => Buffer.concat(chunks).toString("latin1");
	if (text) socket.write(text);
	return {
		socket, ended, got,
		until: async wanted => {
			while (!(wanted instanceof RegExp ? wanted.test(got()) : got().includes(wanted))) {
				assert(!socket.destroyed, `ended with ${got()}`);
				await sleep(5);
			}
		},
	};
}

const body = text => text.slice(text.indexOf("\r\n\r\n") + 4);

/* ---- eventsource ---- */

test("eventsource gets lines, unicode, empty messages and bytes, each with its id", async () => {
	const { source, opened, next } = events("/subscribe/es.kinds");
	await opened;
	const bodies = ["plain", "two\nlines", "grüße 🌍", "", Buffer.from([0xff, 0]), "ends in a line\n", " leading space", "data: x"];
	for (const message of bodies) {
		const id = await publish("es.kinds", message), event = await next();
		assert.equal(event.lastEventId, id);
		if (Buffer.isBuffer(message)) {
			assert.equal(event.type, "base64");
			assert.deepEqual(Buffer.from(event.data, "base64"), message);
		} else {
			assert.equal(event.type, "message");
			assert.equal(event.data, message);
		}
	}
	source.close();
});

test("eventsource replays the newest, and after an id, and hears of a gap", async () => {
	const ids = [];
	for (let n = 0; n < 5; n++) ids.push(await publish("es.replay", `${n}`));
	const last = events("/subscribe/es.replay?last=2");
	assert.deepEqual([(await last.next()).data, (await last.next()).data], ["3", "4"]);
	last.source.close();
	const from = events(`/subscribe/es.replay?last_event_id=${encodeURIComponent(ids[3])}`);
	assert.equal((await from.next()).data, "4");
	from.source.close();
	const foreign = events("/subscribe/es.replay?last_event_id=0000000000000000:1"), gap = await foreign.next();
	assert.deepEqual([gap.type, gap.data], ["gap", ids[0]]);
	assert.equal((await foreign.next()).data, "0");
	foreign.source.close();
});

test("eventsource goes on by itself after a cut, without a gap or a duplicate", async () => {
	const sockets = new Set();
	const proxy = net.createServer(client => {
		const broker = net.connect(port, host);
		for (const socket of [client, broker]) {
			sockets.add(socket);
			socket.on("error", () => {}).on("close", () => sockets.delete(socket));
		}
		client.pipe(broker).pipe(client);
	});
	await new Promise(done => proxy.listen(0, "127.0.0.1", done));
	const source = new EventSource(`http://127.0.0.1:${proxy.address().port}/subscribe/es.cut`), got = [];
	source.addEventListener("message", event => got.push(event.data));
	source.addEventListener("gap", () => got.push("gap"));
	await new Promise(done => source.addEventListener("open", done, { once: true }));
	for (let n = 0; n < 6; n += 2) {
		await publish("es.cut", `${n}`);
		while (got.length < n + 1) await sleep(5);
		for (const socket of sockets) socket.destroy();
		await publish("es.cut", `${n + 1}`);
		while (got.length < n + 2) await sleep(5);
	}
	assert.deepEqual(got, ["0", "1", "2", "3", "4", "5"]);
	source.close();
	proxy.close();
	for (const socket of sockets) socket.destroy();
});

/* ---- undici ---- */

test("undici pipelines, and every answer is that of its request", async () => {
	const client = new Client(base, { pipelining: 20 }), count = 200;
	const ids = await Promise.all([...Array(count).keys()].map(async n => {
		const answer = await client.request({ method: "POST", path: `/publish/pipe.${n % 5}`, body: `${n}` });
		const { topic, id } = await answer.body.json();
		assert.equal(topic, `pipe.${n % 5}`);
		return id;
	}));
	await Promise.all(ids.map(async (id, n) => {
		const answer = await client.request({ method: "GET", path: `/topic/pipe.${n % 5}/${id.split(":")[1]}` });
		assert.equal(answer.headers.etag, `"${id}"`);
		assert.equal(await answer.body.text(), `${n}`);
	}));
	await client.close();
});

test("undici publishes a body of unknown length in chunks", async () => {
	const parts = [...Array(50).keys()].map(n => `${n}`.padStart(2000, "."));
	const id = await publish("chunked", Readable.from(parts));
	assert.equal((await get(`/topic/chunked/${id.split(":")[1]}`)).body.toString(), parts.join(""));
});

test("undici publishes with Expect: 100-continue", async () => {
	const client = new Client(base);
	const answer = await client.request({ method: "POST", path: "/publish/expect", body: "patient", expectContinue: true });
	assert.equal(answer.statusCode, 200);
	await answer.body.dump();
	assert.equal((await get("/topic/expect/last")).body.toString(), "patient");
	await client.close();
});

test("undici asks ahead of time, waits, and gets the message whole", async () => {
	const large = Buffer.alloc(500000, "v");
	const early = [1, 2, 3].map(n => get(`/topic/ahead/${n}`));
	await sleep(50);
	for (let n = 1; n <= 3; n++) {
		await publish("ahead", large, { "content-type": "video/mp4" });
		const { status, headers, body } = await early[n - 1];
		assert.equal(status, 200);
		assert.equal(headers["content-length"], "500000");
		assert.equal(headers["content-type"], "video/mp4");
		assert(body.equals(large));
	}
	assert.equal((await get("/topic/ahead/7")).status, 404);
});

test("undici gives up waiting, and nobody else is troubled by it", async () => {
	const quitters = [...Array(20)].map(() => {
		const controller = new AbortController();
		const answer = request(`${base}/topic/quit/1`, { signal: controller.signal });
		setTimeout(() => controller.abort(), 50);
		return assert.rejects(answer, { name: "AbortError" });
	});
	const patient = get("/topic/quit/1");
	await Promise.all(quitters);
	await publish("quit", "here");
	assert.equal((await patient).body.toString(), "here");
});

test("undici waits for a playlist by its version", async () => {
	const wanted = get("/topic/list.m3u8/last?_HLS_msn=7&_HLS_part=1");
	await publish("list.m3u8", "7.0", { "x-version": "7.0" });
	await publish("list.m3u8", "7.1", { "x-version": "7.1" });
	const { headers, body } = await wanted;
	assert.deepEqual([headers["x-version"], headers["cache-control"], body.toString()], ["7.1", "public, max-age=36", "7.1"]);
});

test("undici gets conditions, ranges and errors as the field has them", async () => {
	const id = await publish("fields", "0123456789"), at = `/topic/fields/${id.split(":")[1]}`;
	assert.equal((await get(at, { "if-none-match": `"${id}"` })).status, 304);
	const part = await get(at, { range: "bytes=2-4" });
	assert.deepEqual([part.status, part.body.toString(), part.headers["content-range"]], [206, "234", "bytes 2-4/10"]);
	const missing = await get("/topic/nobody");
	assert.deepEqual([missing.status, JSON.parse(missing.body)], [404, { error: "no such topic" }]);
	const head = await request(base + at, { method: "HEAD" });
	assert.deepEqual([head.statusCode, head.headers["content-length"]], [200, "10"]);
});

test("undici reads a subscription as bytes, and its pool goes on after it is dropped", async () => {
	const pool = new Pool(base, { connections: 4 });
	const { body } = await pool.request({ method: "GET", path: "/subscribe/stream" });
	for (let n = 0; n < 100; n++) await publish("stream", `message ${n};`);
	let text = "";
	for await (const chunk of body) {
		text += chunk;
		if (text.endsWith("message 99;")) break;
	}
	assert.equal(text, [...Array(100).keys()].map(n => `message ${n};`).join(""));
	assert.equal((await pool.request({ method: "GET", path: "/health" })).statusCode, 200);
	await pool.destroy();
});

/* ---- bare sockets ---- */

test("a subscription is one chunk for each message, byte by byte", async () => {
	const raw = await dial("GET /subscribe/raw HTTP/1.1\r\nHost: b\r\n\r\n");
	await raw.until("\r\n\r\n");
	await publish("raw", "hello");
	await publish("raw", "a\r\nb");
	await raw.until("b\r\n");
	assert.equal(body(raw.got()), "5\r\nhello\r\n4\r\na\r\nb\r\n");
	raw.socket.destroy();
});

test("an event is one chunk of its id and its lines, byte by byte", async () => {
	const raw = await dial("GET /subscribe/rawes HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\n\r\n");
	await raw.until("\n\n\r\n");
	const id = await publish("rawes", "one\ntwo"), event = `id: ${id}\ndata: one\ndata: two\n\n`;
	await raw.until("two\n\n\r\n");
	const start = `retry: 1000\nid: ${id.split(":")[0]}:0\n\n`;
	assert.equal(body(raw.got()), `${start.length.toString(16)}\r\n${start}\r\n${event.length.toString(16)}\r\n${event}\r\n`);
	raw.socket.destroy();
});

test("a request cut anywhere is the same request", async () => {
	const whole = "POST /publish/cut HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhelloGET /topic/cut/last HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
	await Promise.all([...Array(whole.length - 1).keys()].map(async n => {
		const raw = await dial(whole.slice(0, n + 1));
		raw.socket.setNoDelay();
		await sleep(20);
		raw.socket.write(whole.slice(n + 1));
		await raw.ended;
		assert.deepEqual(raw.got().match(/^HTTP\/1.1 200 OK/gm).length, 2);
		assert(raw.got().endsWith("\r\n\r\nhello"), raw.got());
	}));
});

test("answers come in the order of the requests, though the first has to wait", async () => {
	const raw = await dial("GET /topic/order/1 HTTP/1.1\r\nHost: b\r\n\r\nGET /health HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
	await sleep(50);
	assert.equal(raw.got(), "");
	await publish("order", "first");
	await raw.ended;
	assert.match(raw.got(), /first[^]*ok\n$/);
});

test("what is published in lines is delivered as events, and the other way round", async () => {
	const { source, opened, next } = events("/subscribe/both"), reader = await dial("SUBSCRIBE both\r\n");
	await Promise.all([opened, reader.until("OK\r\n")]);
	const writer = await dial("PUBLISH both\r\nfrom a line\r\nBYE\r\n");
	await writer.ended;
	assert.equal((await next()).data, "from a line");
	await publish("both", "from a request");
	assert.equal((await next()).data, "from a request");
	await reader.until("from a request\r\n");
	assert.equal(reader.got(), "OK\r\nfrom a line\r\nfrom a request\r\n");
	source.close();
	reader.socket.destroy();
});
