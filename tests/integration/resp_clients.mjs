/*
 * What clients of Redis do with pub/sub, as others wrote them: ioredis, node-redis, iovalkey, and socket.io's adapter.
 * A server is at SERVER (address:port): the broker, or Redis itself, and neither may be told from the other here.
 */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { test } from "node:test";
import { createAdapter } from "@socket.io/redis-adapter";
import IORedis from "ioredis";
import Valkey from "iovalkey";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io as connect } from "socket.io-client";

const [host, port] = process.env.SERVER.split(":"), MANY = 1000;
const sleep = ms => new Promise(done => setTimeout(done, ms));

async function until(what) {
	for (let tries = 0; !await what(); tries++) {
		assert(tries < 1000, `in vain: ${what}`);
		await sleep(10);
	}
}

/* Whoever is not awaited must not end the process in silence. */
process.on("unhandledRejection", error => { throw error; });

/* One of the two that are like ioredis. */
function alike(Client) {
	const open = options => {
		const client = new Client({ host, port: Number(port), retryStrategy: () => 20, ...options });
		client.got = [];
		client.on("message", (channel, message) => client.got.push(["", channel, message]));
		client.on("pmessage", (pattern, channel, message) => client.got.push([pattern, channel, message]));
		client.on("smessage", (channel, message) => client.got.push(["s", channel, message]));
		return client;
	};
	return {
		open,
		close: client => client.disconnect(),
		subscribe: (client, ...channels) => client.subscribe(...channels),
		unsubscribe: (client, ...channels) => client.unsubscribe(...channels),
		psubscribe: (client, ...patterns) => client.psubscribe(...patterns),
		punsubscribe: (client, ...patterns) => client.punsubscribe(...patterns),
		ssubscribe: (client, channel) => client.ssubscribe(channel),
		publish: (client, channel, message) => client.publish(channel, message),
		spublish: (client, channel, message) => client.spublish(channel, message),
		cut: client => client.stream.destroy(),
	};
}

/* node-redis has a listener for each channel. */
function node_redis(RESP) {
	return {
		open: async () => {
			const client = createClient({
				socket: { host, port: Number(port), reconnectStrategy: () => 20 },
				RESP,
			});
			client.got = [];
			client.on("error", () => {});
			await client.connect();
			return client;
		},
		close: client => client.close(),
		subscribe: (client, ...channels) =>
			client.subscribe(channels, (message, channel) => client.got.push(["", channel, message])),
		unsubscribe: (client, ...channels) => client.unsubscribe(channels.length ? channels : undefined),
		psubscribe: (client, ...patterns) => Promise.all(patterns.map(pattern =>
			client.pSubscribe(pattern, (message, channel) => client.got.push([pattern, channel, message])))),
		punsubscribe: (client, ...patterns) => client.pUnsubscribe(patterns.length ? patterns : undefined),
		ssubscribe: (client, channel) =>
			client.sSubscribe(channel, (message, of) => client.got.push(["s", of, message])),
		publish: (client, channel, message) => client.publish(channel, message),
		spublish: (client, channel, message) => client.sPublish(channel, message),
		/* It has no way to lose its connection but the server's. */
		cut: null,
	};
}

const clients = {
	"ioredis": alike(IORedis.default ?? IORedis),
	"iovalkey": alike(Valkey.default ?? Valkey),
	"node-redis with RESP2": node_redis(2),
	"node-redis with RESP3": node_redis(3),
};

for (const [name, use] of Object.entries(clients)) {
	const each = (what, body) => test(`${name} ${what}`, async () => {
		const sub = await use.open(), pub = await use.open();
		/* A channel of its own for each. */
		const channel = `${name}.${what}`.replace(/[^a-z0-9.]+/gi, "-");
		try {
			await body(sub, pub, channel);
		} finally {
			await use.close(sub);
			await use.close(pub);
		}
	});

	each("publishes to who has subscribed, and hears how many", async (sub, pub, channel) => {
		assert.equal(await use.publish(pub, channel, "nobody"), 0);
		await use.subscribe(sub, channel);
		assert.equal(await use.publish(pub, channel, "hello"), 1);
		assert.equal(await use.publish(pub, channel, "gr\u00fc\u00df dich \u20ac\r\n"), 1);
		await until(() => sub.got.length === 2);
		assert.deepEqual(sub.got, [["", channel, "hello"], ["", channel, "gr\u00fc\u00df dich \u20ac\r\n"]]);
	});

	each("gets nothing behind its unsubscription", async (sub, pub, channel) => {
		await use.subscribe(sub, channel, `${channel}.2`);
		await use.unsubscribe(sub, channel);
		assert.equal(await use.publish(pub, channel, "late"), 0);
		assert.equal(await use.publish(pub, `${channel}.2`, "here"), 1);
		await until(() => sub.got.length > 0);
		assert.deepEqual(sub.got, [["", `${channel}.2`, "here"]]);
		await use.unsubscribe(sub);
		assert.equal(await use.publish(pub, `${channel}.2`, "late"), 0);
	});

	each("subscribes to patterns", async (sub, pub, channel) => {
		const patterns = [`${channel}.*`, `${channel}.a?c`, `${channel}.[b-d]*`, `${channel}.abc`, `${channel}*`];
		await use.psubscribe(sub, ...patterns);
		assert.equal(await use.publish(pub, `${channel}.abc`, "x"), 4);
		assert.equal(await use.publish(pub, `${channel}.c.d`, "y"), 3);
		assert.equal(await use.publish(pub, `${channel}-x`, "z"), 1);
		await until(() => sub.got.length === 8);
		assert.deepEqual(sub.got.filter(([, , m]) => m === "x").map(([p]) => p).sort(),
			[0, 1, 3, 4].map(i => patterns[i]).sort());
		assert.deepEqual(sub.got.filter(([, , m]) => m === "y").map(([p]) => p).sort(),
			[0, 2, 4].map(i => patterns[i]).sort());
		await use.punsubscribe(sub, patterns[0]);
		assert.equal(await use.publish(pub, `${channel}.abc`, "late"), 3);
		await use.punsubscribe(sub);
		assert.equal(await use.publish(pub, `${channel}.abc`, "late"), 0);
	});

	each("subscribes to a shard's channel", async (sub, pub, channel) => {
		await use.ssubscribe(sub, channel);
		assert.equal(await use.spublish(pub, channel, "x"), 1);
		await until(() => sub.got.length > 0);
		assert.deepEqual(sub.got, [["s", channel, "x"]]);
	});

	each("subscribes to a thousand channels and gets what is published to each", async (sub, pub, channel) => {
		const channels = Array.from({ length: MANY }, (_, i) => `${channel}.${i}`);
		await use.subscribe(sub, ...channels);
		const counts = await Promise.all(channels.map(c => use.publish(pub, c, c)));
		assert(counts.every(n => n === 1));
		await until(() => sub.got.length === MANY);
		assert.deepEqual(new Set(sub.got.map(([, c]) => c)), new Set(channels));
		assert(sub.got.every(([, c, m]) => c === m));
		await use.unsubscribe(sub, ...channels);
	});

	each("gets thousands of messages in their order", async (sub, pub, channel) => {
		await use.subscribe(sub, channel);
		await Promise.all(Array.from({ length: 5000 }, (_, i) => use.publish(pub, channel, `${i}`)));
		await until(() => sub.got.length === 5000);
		sub.got.forEach(([, , m], i) => assert.equal(m, `${i}`));
	});

	if (use.cut !== null)
		each("subscribes again to all of it when its connection was cut", async (sub, pub, channel) => {
			const channels = Array.from({ length: MANY }, (_, i) => `${channel}.${i}`);
			await use.subscribe(sub, ...channels);
			await use.psubscribe(sub, `${channel}-p.*`);
			use.cut(sub);
			/* The server may take a moment to see that it is gone. */
			await until(async () => {
				await use.publish(pub, channels[MANY - 1], "back?");
				await use.publish(pub, `${channel}-p.x`, "back?");
				return new Set(sub.got.map(([, to]) => to)).size === 2;
			});
			assert.equal(await use.publish(pub, channels[0], "x"), 1);
		});
}

test("socket.io's adapter finds the other servers and their clients", async () => {
	const servers = [], sockets = [], redis = [];
	try {
		for (let i = 0; i < 3; i++) {
			const pub = createClient({ socket: { host, port: Number(port) } }), sub = pub.duplicate();
			await Promise.all([pub.connect(), sub.connect()]);
			redis.push(pub, sub);
			const http = createServer(), io = new Server(http, { adapter: createAdapter(pub, sub) });
			io.on("connection", socket => socket.join("room"));
			io.on("question", answer => answer(i));
			http.listen(0, "127.0.0.1");
			await once(http, "listening");
			servers.push(io);
			const socket = connect(`http://127.0.0.1:${http.address().port}`, { transports: ["websocket"] });
			socket.got = [];
			socket.on("said", text => socket.got.push(text));
			await once(socket, "connect");
			sockets.push(socket);
		}
		servers[0].to("room").emit("said", "hello");
		await until(() => sockets.every(s => s.got.length === 1));
		/* It counts with NUMSUB how many answers it has to wait for. */
		assert.equal((await servers[1].in("room").fetchSockets()).length, 3);
		const answers = await new Promise((done, failed) =>
			servers[2].serverSideEmit("question", (error, all) => error ? failed(error) : done(all)));
		assert.deepEqual(answers.sort(), [0, 1]);
	} finally {
		for (const socket of sockets) socket.disconnect();
		for (const server of servers) await server.close();
		for (const client of redis) await client.close();
	}
});
