"""WebSocket in a real browser: a page that is cut off comes back where it stood."""

import json
import urllib.request

from test_page import Browser, proxy  # noqa: F401, a fixture

HTTP = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}

# What docs/WEBSOCKET.md shows, but for the time that it waits.
PAGE = """
const ids = new Map(), seen = [], ends = [];
let opened = 0, socket;
function connect(topics) {
	socket = new WebSocket(`ws://${location.host}/ws`);
	socket.onopen = () => {
		opened++;
		topics.forEach(topic =>
			socket.send(JSON.stringify({ subscribe: topic, ...(ids.has(topic) && { from: ids.get(topic) }) })));
	};
	socket.onmessage = ({ data }) => {
		const message = JSON.parse(data);
		if (message.id && message.topic) ids.set(message.topic, message.id);
		if ("data" in message) seen.push(`${message.topic} ${message.data}`);
	};
	socket.onclose = ({ code }) => {
		ends.push(code);
		if ([1001, 1006, 1011, 1013].includes(code)) setTimeout(connect, 100, topics);
	};
}
connect(["a", "b"]);
"""


def post(broker, topic, text):
    urllib.request.urlopen(f"http://{broker.address()}/publish/{topic}", text.encode()).close()


def test_a_page_that_is_cut_off_misses_nothing(start, tmp_path, proxy):  # noqa: F811
    broker = start(reactors=2, listen=HTTP)
    proxy.target = broker.address()
    browser = Browser(tmp_path / "profile", 800, 600, False)
    try:
        browser.call("Page.navigate", url=f"http://{proxy.address}/health")
        browser.wait("document.body && document.body.textContent.startsWith('ok')")
        browser.value(PAGE)
        browser.wait("opened === 1")
        for i in range(3):
            post(broker, "a", str(i))
            post(broker, "b", str(i))
        browser.wait("seen.length === 6")
        for cut in range(1, 4):
            proxy.target = None
            proxy.cut()
            browser.wait(f"ends.length >= {cut}")
            for topic in "ab":
                post(broker, topic, f"while away {cut}")
            proxy.target = broker.address()
            browser.wait(f"opened === {cut + 1}")
            post(broker, "a", f"back {cut}")
            browser.wait(f"seen.length === {6 + 3 * cut}")
        seen = json.loads(browser.value("JSON.stringify(seen)"))
        for topic, wanted in (("a", ["0", "1", "2", *(f"{w} {n}" for n in (1, 2, 3) for w in ("while away", "back"))]),
                              ("b", ["0", "1", "2", *(f"while away {n}" for n in (1, 2, 3))])):
            assert [m[2:] for m in seen if m[0] == topic] == wanted
        assert browser.complaints == []
    finally:
        browser.close()


def test_a_page_publishes_text_and_bytes(start, tmp_path):
    broker = start(listen=HTTP)
    line = broker.subscribe("t")
    browser = Browser(tmp_path / "profile", 800, 600, False)
    try:
        browser.call("Page.navigate", url=f"http://{broker.address()}/health")
        browser.wait("document.body && document.body.textContent.startsWith('ok')")
        browser.value("""
            const got = [], socket = new WebSocket(`ws://${location.host}/ws/t`);
            socket.binaryType = "arraybuffer";
            let end;
            socket.onopen = () => { socket.send("text"); socket.send(new Uint8Array([255, 1])); };
            socket.onmessage = ({ data }) => {
                got.push(typeof data === "string" ? data : [...new Uint8Array(data)].join());
                if (got.length === 2) socket.close(4000, "enough");
            };
            socket.onclose = ({ code, wasClean }) => { end = `${code} ${wasClean}`; };
        """)
        browser.wait("end !== undefined")
        assert browser.value("got.join(' ') + ' ' + end") == "text 255,1 4000 true"
        assert line.take(2) == [b"text", b"\xff\x01"]
    finally:
        browser.close()
