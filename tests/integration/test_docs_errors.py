"""docs/ERRORS.md has every reason that the sources give a client, and none that they do not."""

import re

import pytest

from harness import ROOT

SOURCES = {p: p.read_text() for d in ("src", "include") for p in sorted((ROOT / d).rglob("*.[ch]"))}
LITERAL = r'"((?:[^"\\]|\\.)*)"'
TEXT = (ROOT / "docs/ERRORS.md").read_text()


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def listed(title, column=0):
    """What stands in back quotes in this column of the section's table."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section(title).splitlines() if line.startswith("| ")][1:]
    assert rows, "the table was read"
    return {said for row in rows for said in re.findall(r"`([^`]+)`", row[column])}


def joined(text):
    """Literals that stand behind each other are one."""
    return re.sub(r'"\s*"', "", text)


def sources(*parts):
    return [joined(text) for path, text in SOURCES.items() if any(part in str(path.relative_to(ROOT)) for part in parts)]


def arguments(text, function):
    """What stands between the parentheses of each call."""
    for call in re.finditer(rf"\b{function}\(", text):
        depth, at = 1, call.end()
        while depth:
            if text[at] == '"':
                at = re.compile(LITERAL).match(text, at).end()
                continue
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        yield text[call.end() : at - 1]


def reasons():
    """The words for the core's reasons."""
    said = set(re.findall(rf"WORDS\(REASON_\w+, {LITERAL}\)", SOURCES[ROOT / "include/session/words.h"]))
    assert len(said) > 12, "the sources were read"
    return said


def test_line_protocol():
    line = SOURCES[ROOT / "src/session/line.c"]
    said = {text for call in arguments(line, "LINE_ERROR_TEXT") for text in re.findall(LITERAL, call)}
    said |= set(re.findall(rf"#define LINE_\w+ {LITERAL}", SOURCES[ROOT / "include/protocol/line.h"])) | reasons()
    assert len(said) > 12, "the sources were read"
    assert listed("Line protocol") == said


def test_http():
    said = reasons()
    for text in sources("src/session/", "src/admin/"):
        for function in ("http_error", "http_not_permitted"):
            said |= {s for call in arguments(text, function) for s in re.findall(LITERAL, call)}
        said |= set(re.findall(r'\{\\"error\\":\\"([\w ]+)\\"\}', text))
        # Functions that answer why not, for one of those.
        said |= {s for s in re.findall(rf'return {LITERAL};', text) if re.match("bad|malformed", s)}
    for call in arguments(joined(SOURCES[ROOT / "src/protocol/http.c"]), "fail"):
        said |= set(re.findall(LITERAL, call))
    for function in ("list_read", "ticket_request_read"):
        body = SOURCES[ROOT / "src/protocol/jwt.c"].split(f"const char *{function}(")[1].split("\n}\n")[0]
        said |= set(re.findall(rf"(?:return|wrong =) {LITERAL};", body))
    assert not [s for s in said if '"' in s], "they stand in JSON as they are"
    assert len(said) > 50, "the sources were read"
    assert listed("HTTP") == said


def test_redis():
    said = set()
    for text in sources("session/resp", "protocol/resp"):
        said |= set(re.findall(r'"(-[A-Z]+ (?:[^"\\]|\\.)*)', text))
    assert len(said) > 20, "the sources were read"
    prefixes = listed("Redis")
    assert [s for s in said if not any(s.startswith(p) for p in prefixes)] == []
    assert [p for p in prefixes if not any(s.startswith(p) for s in said)] == []


def test_nats():
    header = joined(SOURCES[ROOT / "include/protocol/nats.h"])
    said = set(re.findall(rf'#define NATS_[A-Z_]+ {LITERAL}', header))
    for path, text in SOURCES.items():
        if path.name.startswith("nats"):
            said |= {s.removesuffix('\\"').strip() for s in re.findall(r'"((?:Permissions Violation|Invalid)(?:[^"\\]|\\.)*)', text)}
    assert len(said) > 12, "the sources were read"
    assert listed("NATS") == said


def test_mqtt():
    codes = re.findall(r"MQTT_\w+ = 0x([0-9a-f]{2}),", SOURCES[ROOT / "include/protocol/mqtt.h"].split("enum mqtt_reason {")[1].split("};")[0])
    said = {f"0x{int(code, 16):02X}" for code in codes if int(code, 16) >= 0x80}
    assert len(said) > 15, "the sources were read"
    assert set(re.findall(r"^\| (0x[0-9A-F]{2}) ", section("MQTT"), re.M)) == said


def test_websocket():
    header = re.sub(r"\\\n\s*", "", SOURCES[ROOT / "include/protocol/websocket.h"])
    frames = re.findall(r'#define WEBSOCKET_\w+\s+"\\x88\\x..\\x(..)\\x(..)"(?:\s*"([^"]*)")?', header)
    said = {}
    for high, low, reason in frames:
        said.setdefault(str(int(high + low, 16)), set()).update({reason} - {""})
    assert len(said) > 8, "the sources were read"
    shown = {}
    for line in section("WebSocket close codes").splitlines():
        if row := re.match(r"\| (\d{4}) \|([^|]*)\|", line):
            shown[row[1]] = set(re.findall(r"`([^`]+)`", row[2]))
    assert shown == said


@pytest.mark.parametrize("title", ["Line protocol", "HTTP", "Redis", "NATS", "MQTT", "WebSocket close codes"])
def test_every_reason_says_what_to_do(title):
    for line in section(title).splitlines():
        if line.startswith("| ") and not set(line) <= set("|- "):
            assert line.rstrip().rstrip("|").rsplit("|", 1)[1].strip(), line
