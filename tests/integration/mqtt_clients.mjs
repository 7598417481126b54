/*
 * The MQTT contract as mqtt.js sees it, in 3.1.1 and in 5.0. The broker is at BROKER (address:port).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import mqtt from "mqtt";

const { BROKER } = process.env;
const VERSIONS = [4, 5];

async function connect(options) {
	const client = await mqtt.connectAsync(`mqtt://${BROKER}`, { reconnectPeriod: 0, ...options });
	const here = [], waiting = [];
	client.on("message", (topic, payload, packet) => {
		const message = { topic, payload: payload.toString(), packet };
		waiting.length ? waiting.shift()(message) : here.push(message);
	});
	client.next = () => here.length ? here.shift() : new Promise(done => waiting.push(done));
	client.here = here;
	return client;
}

for (const protocolVersion of VERSIONS) {
	const topic = name => `js/${protocolVersion}/${name}`;

	test(`${protocolVersion}: what is published comes, with every QoS`, async () => {
		const a = await connect({ protocolVersion }), b = await connect({ protocolVersion });
		const granted = await a.subscribeAsync([topic("x"), topic("y")], { qos: 2 });
		assert.deepEqual(granted.map(g => g.qos), [0, 0]);
		for (const qos of [0, 1, 2]) await b.publishAsync(topic("x"), `qos ${qos}`, { qos });
		await b.publishAsync(topic("y"), "other");
		for (const wanted of ["qos 0", "qos 1", "qos 2", "other"]) assert.equal((await a.next()).payload, wanted);
		await a.unsubscribeAsync(topic("x"));
		await b.publishAsync(topic("x"), "too late", { qos: 1 });
		await b.publishAsync(topic("y"), "last", { qos: 1 });
		assert.equal((await a.next()).payload, "last");
		await a.endAsync();
		await b.endAsync();
	});

	test(`${protocolVersion}: retained messages come to whoever comes later`, async () => {
		const a = await connect({ protocolVersion });
		await a.publishAsync(topic("kept"), "here", { retain: true, qos: 1 });
		const b = await connect({ protocolVersion });
		await b.subscribeAsync(topic("kept"));
		const got = await b.next();
		assert.equal(got.payload, "here");
		assert.equal(got.packet.retain, true);
		await a.publishAsync(topic("kept"), "", { retain: true, qos: 1 });
		await a.endAsync();
		await b.endAsync();
	});

	test(`${protocolVersion}: the will of whoever is cut off is published`, async () => {
		const watcher = await connect({ protocolVersion });
		await watcher.subscribeAsync(topic("will"));
		const client = await connect({ protocolVersion, will: { topic: topic("will"), payload: "gone", qos: 1 } });
		client.stream.destroy();
		assert.equal((await watcher.next()).payload, "gone");
		await watcher.endAsync();
	});

	test(`${protocolVersion}: a refused message is no reason to reconnect`, async () => {
		const client = await connect({ protocolVersion });
		let closed = 0;
		client.on("close", () => closed++);
		if (protocolVersion === 5)
			await assert.rejects(client.publishAsync("a*b", "x", { qos: 1 }), { code: 0x90 });
		else
			await client.publishAsync("a*b", "x", { qos: 1 });
		await client.publishAsync(topic("fine"), "x", { qos: 2 });
		assert.equal(closed, 0);
		await client.endAsync();
	});

	test(`${protocolVersion}: a session that was to stay is taken up anew`, async () => {
		const options = { protocolVersion, clean: false, clientId: `js-${protocolVersion}-stays` };
		const client = await connect({ ...options, reconnectPeriod: 20, properties: { sessionExpiryInterval: 60 } });
		await client.subscribeAsync(topic("again"));
		const back = new Promise(done => client.once("connect", done));
		client.stream.destroy();
		assert.equal((await back).sessionPresent, false);
		await client.publishAsync(topic("again"), "after", { qos: 1 });
		assert.equal((await client.next()).payload, "after");
		await client.endAsync();
	});
}

test("5: properties of a message come through", async () => {
	const a = await connect({ protocolVersion: 5 }), b = await connect({ protocolVersion: 5 });
	const properties = {
		payloadFormatIndicator: true, contentType: "text/plain", responseTopic: "js/answer",
		correlationData: Buffer.from([0, 255]), messageExpiryInterval: 100, userProperties: { a: ["1", "2"], b: "3" },
	};
	await a.subscribeAsync("js/properties");
	await b.publishAsync("js/properties", "x", { properties, qos: 1 });
	assert.deepEqual({ ...(await a.next()).packet.properties, userProperties: undefined },
		{ ...properties, userProperties: undefined });
	await a.endAsync();
	await b.endAsync();
});

test("5: No Local, and Retain Handling", async () => {
	const client = await connect({ protocolVersion: 5 });
	await client.publishAsync("js/local", "kept", { retain: true, qos: 1 });
	await client.subscribeAsync("js/local", { nl: true, rh: 2 });
	await client.publishAsync("js/local", "mine", { qos: 1 });
	await client.publishAsync("js/local", "", { retain: true, qos: 1 });
	await client.subscribeAsync("js/other");
	await client.publishAsync("js/other", "last", { qos: 1 });
	assert.equal((await client.next()).payload, "last");
	await client.endAsync();
});
