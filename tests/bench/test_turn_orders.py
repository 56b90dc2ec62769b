"""Orders of turns: worked out by hand for two answers of two tokens on two layers."""

from __future__ import annotations

from turn_orders import misses, orders

ROUTES = [  # [answer][token][layer]
    [((0,), (1,)), ((0,), (2,))],
    [((0,), (3,)), ((4,), (2,))],
]


def test_orders_differ_in_what_comes_next() -> None:
    found = {name: list(order) for name, order in orders(ROUTES)}
    assert found["one after another"] == [
        *((0, 0), (1, 1), (0, 0), (1, 2)),
        *((0, 0), (1, 3), (0, 4), (1, 2)),
    ]
    assert found["token by token"] == [
        *((0, 0), (1, 1), (0, 0), (1, 3)),
        *((0, 0), (1, 2), (0, 4), (1, 2)),
    ]
    assert found["layer by layer"] == [
        *((0, 0), (0, 0), (1, 1), (1, 3)),
        *((0, 0), (0, 4), (1, 2), (1, 2)),
    ]


def test_the_least_recently_used_gives_way() -> None:
    first, second, third = (0, 0), (0, 1), (0, 2)
    assert misses([first, second, first, third, first, second], 2) == 4
    assert misses([first, second, first, third, first, second], 3) == 3
