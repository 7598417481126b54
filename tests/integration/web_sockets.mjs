/*
 * /ws/<topic> as clients from the web's own world see it: Node's own WebSocket (undici's, which browsers' tests hold
 * for one) and ws. The broker is at BROKER (address:port), speaks lines and HTTP, and has two reactors or more.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket as OwnWebSocket, request } from "undici";
import NpmWebSocket from "ws";
import mqtt from "mqtt";
import { connect as connectNats, StringCodec, headers } from "nats.ws";

const BROKER = process.env.BROKER, base = `ws://${BROKER}`;

async function publish(topic, body) {
	const answer = await request(`http://${BROKER}/publish/${topic}`, { method: "POST", body });
	assert.equal(answer.statusCode, 200);
	await answer.body.json();
}

/* Opened; its messages, one after the other, text as strings, others as buffers. */
async function open(Kind, path, ...more) {
	const socket = new Kind(base + path, ...more), waiting = [], here = [];
	socket.binaryType = "arraybuffer";
	socket.addEventListener("message", ({ data }) => {
		const message = typeof data === "string" ? data : Buffer.from(data);
		waiting.length ? waiting.shift()(message) : here.push(message);
	});
	const closed = new Promise(done => socket.addEventListener("close", ({ code, reason }) => done({ code, reason })));
	await new Promise((done, failed) => {
		socket.addEventListener("open", done, { once: true });
		socket.addEventListener("error", failed, { once: true });
	});
	return { socket, closed, next: () => here.length ? here.shift() : new Promise(done => waiting.push(done)) };
}

const both = (name, script) => [["node", OwnWebSocket], ["ws", NpmWebSocket]].map(([whose, Kind]) => ({
	name: `${whose}: ${name}`, script: () => script(Kind, `${whose}.${name.replaceAll(" ", "-")}`),
}));
const run = async tests => { for (const { script } of tests) await script(); };

test("what is sent comes back, text as text and bytes as bytes", () => run(both("comes back", async (Kind, topic) => {
	const { socket, next, closed } = await open(Kind, `/ws/${topic}`);
	for (const text of ["hello", "", "grüße, €, 😀", "x".repeat(100_000)]) {
		socket.send(text);
		assert.equal(await next(), text);
	}
	const bytes = Buffer.from([...Array(256).keys()]);
	socket.send(bytes);
	assert.deepEqual(await next(), bytes);
	socket.close(4001, "that was all");
	assert.equal((await closed).code, 4001);
})));

test("everybody gets what anybody publishes, in order", () => run(both("everybody", async (Kind, topic) => {
	const all = await Promise.all(Array.from({ length: 20 }, () => open(Kind, `/ws/${topic}`)));
	for (let i = 0; i < 200; i++) all[i % 20].socket.send(`${i % 20} ${i}`);
	for (const { next } of all) {
		const last = new Map();
		for (let i = 0; i < 200; i++) {
			const [who, n] = (await next()).split(" ").map(Number);
			assert(n > (last.get(who) ?? -1));
			last.set(who, n);
		}
	}
	await publish(topic, "posted");
	for (const { next } of all) assert.equal(await next(), "posted");
	for (const { socket } of all) socket.close();
})));

test("the newest are replayed", () => run(both("replayed", async (Kind, topic) => {
	for (const n of ["1", "2", "3"]) await publish(topic, n);
	const { socket, next } = await open(Kind, `/ws/${topic}?last=2`);
	assert.deepEqual([await next(), await next()], ["2", "3"]);
	socket.close();
})));

test("ws: its compression is not taken, its pings are answered", async () => {
	const { socket, next } = await open(NpmWebSocket, "/ws/ws.deflate", { perMessageDeflate: true });
	assert.equal(socket.extensions, "");
	const pong = new Promise(done => socket.on("pong", data => done(data.toString())));
	socket.ping("are you there");
	assert.equal(await pong, "are you there");
	socket.send(["in", "fragments"].join(" "), { fin: false });
	socket.send(" too", { fin: true });
	assert.equal(await next(), "in fragments too");
	socket.close();
});

test("a message that is too long has its code", () => run(both("too long", async (Kind, topic) => {
	const { socket, closed } = await open(Kind, `/ws/${topic}`);
	socket.send("x".repeat((1 << 20) + 1));
	assert.deepEqual(await closed, { code: 1009, reason: "line too long" });
})));

test("what is refused is an error", () => run(both("refused", async Kind => {
	await assert.rejects(open(Kind, "/ws/a..b"));
	await assert.rejects(open(Kind, "/ws/t", ["chat"]));
})));

test("nats.ws: publish, subscribe and headers, over every path", async () => {
	globalThis.WebSocket = OwnWebSocket;
	const codec = StringCodec();
	for (const path of ["", "/nats"]) {
		const topic = `natsws${path.replace("/", ".")}`;
		const nc = await connectNats({ servers: `${base}${path}` });
		const got = nc.subscribe(topic);
		const { socket, next } = await open(OwnWebSocket, `/ws/${topic}`);
		await nc.flush();
		nc.publish(topic, codec.encode("from nats"));
		assert.equal(await next(), "from nats");
		socket.send("from a socket");
		const h = headers();
		h.set("key", "value");
		nc.publish(topic, codec.encode("x".repeat(200_000)), { headers: h });
		const seen = [];
		for await (const m of got) {
			seen.push(codec.decode(m.data));
			if (seen.length === 3) {
				assert.equal(m.headers.get("key"), "value");
				break;
			}
		}
		assert.deepEqual(seen.map(text => text.slice(0, 20)).sort(), ["from a socket", "from nats", "x".repeat(20)].sort());
		socket.close();
		await nc.drain();
	}
});

test("/ws: many topics, ids, replay", () => run(both("json", async (Kind, topic) => {
	for (const n of ["1", "2", "3"]) await publish(`${topic}.a`, n);
	const { socket, next, closed } = await open(Kind, `/ws?topic=${topic}.a&last=1`);
	const hear = async () => JSON.parse(await next());
	assert.equal((await hear()).subscribed, `${topic}.a`);
	assert.equal((await hear()).data, "3");
	socket.send(JSON.stringify({ subscribe: `${topic}.b` }));
	assert.equal((await hear()).subscribed, `${topic}.b`);
	socket.send(JSON.stringify({ publish: `${topic}.b`, data: "hello", ref: 1 }));
	const two = [await hear(), await hear()], published = two.find(m => m.published), message = two.find(m => m.topic);
	assert.deepEqual(published, { published: `${topic}.b`, id: message.id, ref: 1 });
	assert.deepEqual(message, { topic: `${topic}.b`, id: published.id, data: "hello" });
	socket.close();
	await closed;
})));

test("mqtt.js: publish and subscribe in both versions, at any path", async () => {
	for (const protocolVersion of [4, 5]) {
		const topic = `mqttjs/${protocolVersion}`, name = topic.replace("/", ".");
		const client = await mqtt.connectAsync(`${base}/any/path`, { protocolVersion, reconnectPeriod: 0 });
		const got = [], all = new Promise(done => client.on("message", (where, payload) => {
			got.push(`${where} ${payload.length} ${payload.subarray(0, 8)}`);
			if (got.length === 3) done();
		}));
		await client.subscribeAsync(topic);
		const { socket, next } = await open(OwnWebSocket, `/ws/${name}`);
		await client.publishAsync(topic, "one", { qos: 1 });
		assert.equal(await next(), "one");
		socket.send("two");
		assert.equal(await next(), "two");
		await client.publishAsync(topic, "x".repeat(200_000), { qos: 2 });
		await all;
		assert.deepEqual(got, [`${topic} 3 one`, `${topic} 3 two`, `${topic} 200000 xxxxxxxx`]);
		socket.close();
		await client.endAsync();
	}
});
