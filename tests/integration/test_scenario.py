"""The scenario that this system grew from."""

import pytest


@pytest.mark.parametrize("reactors", [1, 3])
def test_the_next_message_reaches_whoever_is_left_and_then_nobody(start, reactors):
    broker = start(reactors=reactors)
    publisher = broker.publisher("news")
    first, second = broker.subscribe("news"), broker.subscribe("news")
    broker.eventually(connections=3, subscriptions=2)

    publisher.send_lines(b"for both")
    assert first.take(1) == second.take(1) == [b"for both"]

    assert first.leave() == []
    broker.eventually(connections=2, subscriptions=1, published=1, matched=2, delivered=2)
    publisher.send_lines(b"for the one that is left")
    assert second.take(1) == [b"for the one that is left"]

    assert second.leave() == []
    broker.eventually(connections=1, subscriptions=0, published=2, matched=3, delivered=3)
    publisher.send_lines(b"for nobody")
    broker.eventually(published=3, matched=3, delivered=3, dropped=0)

    assert publisher.leave() == []
    broker.stop(published=3, matched=3, delivered=3, dropped=0, connections=0, subscriptions=0)
