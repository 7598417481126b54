// Two generations of NATS clients, unmodified, against whatever server NATS_SERVER names: the broker, and
// nats-server as the oracle. Whatever is claimed here holds for both.
import assert from "node:assert/strict";
import test from "node:test";

import { connect as connectNow, headers as headersNow } from "@nats-io/transport-node";
import { connect as connectBefore, headers as headersBefore, StringCodec } from "nats";

const servers = process.env.NATS_SERVER;
const codec = StringCodec();
const text = (m) => codec.decode(m.data);
const open = [];

const libraries = [
	{ name: "nats-core", connect: connectNow, headers: headersNow },
	{ name: "nats", connect: connectBefore, headers: headersBefore },
];

async function client(library, options = {}) {
	const nc = await library.connect({ servers, timeout: 5000, ...options });
	open.push(nc);
	return nc;
}

// A name of its own for each test and library, so that none hears of another.
let names = 0;
const name = () => `t${process.pid}.n${++names}`;

// The next n messages of a subscription, or fewer if it ends.
async function take(subscription, n) {
	const got = [];
	if (n === 0) return got;
	for await (const m of subscription) {
		got.push(m);
		if (got.length === n) break;
	}
	return got;
}

function each(claim, body) {
	for (const library of libraries) {
		test(`${library.name}: ${claim}`, { timeout: 30000 }, async () => {
			try {
				await body(library);
			} finally {
				for (const nc of open.splice(0)) await nc.close();
			}
		});
	}
}

each("what is published is received, in order, by another client", async (library) => {
	const a = await client(library), b = await client(library), subject = name();
	const s = a.subscribe(subject);
	await a.flush();
	for (let i = 0; i < 500; i++) b.publish(subject, `m${i}`);
	const got = await take(s, 500);
	assert.deepEqual(got.map(text), Array.from({ length: 500 }, (_, i) => `m${i}`));
	assert.equal(got[0].subject, subject);
});

each("a client hears itself, unless it does not want to", async (library) => {
	const subject = name();
	for (const noEcho of [false, true]) {
		const nc = await client(library, { noEcho }), other = await client(library);
		const s = nc.subscribe(subject);
		await nc.flush();
		nc.publish(subject, "own");
		await nc.flush();
		other.publish(subject, "other");
		const got = await take(s, noEcho ? 1 : 2);
		assert.deepEqual(got.map(text), noEcho ? ["other"] : ["own", "other"]);
		s.unsubscribe();
	}
});

each("any bytes arrive as they were sent, an empty message too", async (library) => {
	const nc = await client(library), subject = name();
	const s = nc.subscribe(subject, { max: 3 });
	const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
	nc.publish(subject, bytes);
	nc.publish(subject);
	nc.publish(subject, "\r\nMSG a 1 1\r\n");
	const got = await take(s, 3);
	assert.deepEqual([...got[0].data], [...bytes]);
	assert.equal(got[1].data.length, 0);
	assert.equal(text(got[2]), "\r\nMSG a 1 1\r\n");
});

each("a megabyte is a message, one byte more is not", async (library) => {
	const nc = await client(library), subject = name();
	const s = nc.subscribe(subject);
	const max = nc.info.max_payload;
	assert.equal(max, 1024 * 1024);
	const large = new Uint8Array(max).map((_, i) => i * 7);
	nc.publish(subject, large);
	const [m] = await take(s, 1);
	assert.deepEqual(Buffer.from(m.data), Buffer.from(large));
	assert.throws(() => nc.publish(subject, new Uint8Array(max + 1)));
});

each("headers arrive, several values too", async (library) => {
	const nc = await client(library), subject = name();
	const s = nc.subscribe(subject);
	const h = library.headers();
	h.append("a", "1");
	h.append("a", "2");
	h.set("Content-Type", "text/plain");
	nc.publish(subject, "with", { headers: h });
	nc.publish(subject, "without");
	const got = await take(s, 2);
	assert.deepEqual(got[0].headers.values("a"), ["1", "2"]);
	assert.equal(got[0].headers.get("Content-Type"), "text/plain");
	assert.equal(text(got[0]), "with");
	assert.equal(got[1].headers, undefined);
});

each("nothing comes behind the end of a subscription", async (library) => {
	const nc = await client(library), subject = name();
	const s = nc.subscribe(subject), other = nc.subscribe(subject);
	nc.publish(subject, "1");
	await nc.flush();
	s.unsubscribe();
	nc.publish(subject, "2");
	await nc.flush();
	assert.deepEqual((await take(other, 2)).map(text), ["1", "2"]);
	assert.equal(s.getReceived(), 1);
});

each("flush is a barrier for what one has published", async (library) => {
	const nc = await client(library), subject = name();
	let got = 0;
	nc.subscribe(subject, { callback: () => got++ });
	for (let round = 1; round <= 20; round++) {
		for (let i = 0; i < 10; i++) nc.publish(subject, "x");
		await nc.flush();
		assert.equal(got, round * 10);
	}
});

each("a thousand subscriptions of one client each get what is theirs", async (library) => {
	const nc = await client(library), other = await client(library), prefix = name();
	const got = new Map();
	for (let i = 0; i < 1000; i++)
		nc.subscribe(`${prefix}.${i}`, { callback: (_, m) => got.set(m.subject, (got.get(m.subject) ?? 0) + 1) });
	await nc.flush();
	for (let round = 0; round < 3; round++) for (let i = 0; i < 1000; i++) other.publish(`${prefix}.${i}`, "x");
	await other.flush();
	while (got.size < 1000 || [...got.values()].some((n) => n < 3)) await nc.flush();
	assert.equal(got.size, 1000);
	assert.ok([...got.values()].every((n) => n === 3));
});

each("a subscription ends after as many messages as it wants", async (library) => {
	const a = await client(library), b = await client(library), subject = name();
	const s = a.subscribe(subject, { max: 2 }), all = a.subscribe(subject);
	await a.flush();
	for (const m of ["1", "2", "3", "4"]) b.publish(subject, m);
	assert.deepEqual((await take(all, 4)).map(text), ["1", "2", "3", "4"]);
	const got = [];
	for await (const m of s) got.push(text(m));
	assert.deepEqual(got, ["1", "2"]);
	const late = a.subscribe(subject);
	await a.flush();
	b.publish(subject, "5");
	await take(late, 1);
	late.unsubscribe(1); // that has come
	await a.flush();
	assert.ok(late.isClosed());
});

each("patterns match levels", async (library) => {
	const nc = await client(library), p = name();
	const got = {};
	for (const pattern of [`${p}.*`, `${p}.>`, `${p}.*.c`, `*.${p.split(".")[1]}.b`, `${p}.b`]) {
		got[pattern] = [];
		nc.subscribe(pattern, { callback: (_, m) => got[pattern].push(m.subject) });
	}
	for (const subject of [`${p}.b`, `${p}.b.c`, `${p}.b.d`, p]) nc.publish(subject, "x");
	await nc.flush();
	// Over several subjects the broker has no order.
	assert.deepEqual(Object.values(got).map((subjects) => subjects.sort()), [
		[`${p}.b`],
		[`${p}.b`, `${p}.b.c`, `${p}.b.d`],
		[`${p}.b.c`],
		[`${p}.b`],
		[`${p}.b`],
	]);
});

each("each message goes to one of a queue group, and to all others", async (library) => {
	const clients = [], subject = name();
	const got = new Map();
	let all = 0, other = 0;
	for (let i = 0; i < 3; i++) {
		const nc = await client(library);
		nc.subscribe(subject, {
			queue: "q",
			callback: (_, m) => got.set(text(m), (got.get(text(m)) ?? 0) + 1),
		});
		clients.push(nc);
	}
	const nc = await client(library);
	nc.subscribe(subject, { callback: () => all++ });
	nc.subscribe(`${subject.split(".")[0]}.*`, { queue: "r", callback: () => other++ });
	for (const c of [...clients, nc]) await c.flush();
	for (let i = 0; i < 300; i++) nc.publish(subject, `${i}`);
	await nc.flush();
	while (got.size < 300) for (const c of clients) await c.flush();
	assert.equal(all, 300);
	while (other < 300) await nc.flush();
	assert.deepEqual([...got.values()].filter((n) => n !== 1), []);
});

each("a request gets its answer", async (library) => {
	const server = await client(library), nc = await client(library), subject = name();
	server.subscribe(subject, { callback: (_, m) => m.respond(`answer to ${text(m)}`) });
	await server.flush();
	for (let i = 0; i < 20; i++)
		assert.equal(text(await nc.request(subject, `${i}`, { timeout: 5000 })), `answer to ${i}`);
	// An inbox of its own for each.
	for (let i = 0; i < 5; i++)
		assert.equal(
			text(await nc.request(subject, `${i}`, { timeout: 5000, noMux: true })),
			`answer to ${i}`,
		);
	const many = await Promise.all(Array.from({ length: 100 }, (_, i) => nc.request(subject, `${i}`, { timeout: 5000 })));
	assert.deepEqual(many.map(text), Array.from({ length: 100 }, (_, i) => `answer to ${i}`));
});

each("a request that nobody is there for is told so at once", async (library) => {
	const nc = await client(library);
	for (const subject of [name(), "$JS.API.INFO", "$SYS.REQ.SERVER.PING.X"]) {
		const began = Date.now();
		await assert.rejects(nc.request(subject, "x", { timeout: 20000 }), /no ?responders|503/i);
		assert.ok(Date.now() - began < 10000);
	}
});

each("drain takes what has come and ends", async (library) => {
	const a = await client(library), b = await client(library), subject = name();
	let got = 0;
	a.subscribe(subject, { callback: () => got++ });
	await a.flush();
	for (let i = 0; i < 100; i++) b.publish(subject, "x");
	await b.flush();
	await a.drain();
	assert.equal(got, 100);
	assert.ok(a.isClosed());
});
