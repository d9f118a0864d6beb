"""The in-memory book: priority, depth, and a check() that finds every corruption."""

from collections.abc import Callable
from random import Random

import pytest

from common.book import Book, BookSide
from common.matching import close
from common.model import CloseReason, Level, NewOrder, Order, OrderType, Side

NOW_US = 1_700_000_000_000_000
BID, ASK = Side.BID, Side.ASK


def order(side: Side, price: int | None, *, sequence: int = 1, quantity: int = 5) -> Order:
    asked = NewOrder("1", side, OrderType.LIMIT, "ABC", price, quantity, NOW_US + 1)
    return asked.accepted(order_id=sequence << 32, sequence=sequence, broker_id=1, now_us=NOW_US)


def take_out(book_side: BookSide, item: Order) -> None:
    close(item, CloseReason.CANCELLED, NOW_US)
    book_side.remove(item, item.remaining_quantity)


def side_of(side: Side, prices: list[int]) -> BookSide:
    book_side = BookSide(side)
    for sequence, price in enumerate(prices, start=1):
        book_side.insert(order(side, price, sequence=sequence))
    return book_side


@pytest.mark.parametrize("side", Side)
def test_an_empty_side_has_no_best_price_and_no_depth(side: Side) -> None:
    empty = BookSide(side)
    assert empty.best_price() is None
    assert empty.depth(10) == []
    assert list(empty.orders()) == []


@pytest.mark.parametrize(("side", "best"), [(BID, 12), (ASK, 10)])
def test_the_best_bid_is_the_highest_and_the_best_ask_the_lowest(side: Side, best: int) -> None:
    assert side_of(side, [11, 12, 10]).best_price() == best


@pytest.mark.parametrize(("side", "prices"), [(BID, [12, 11, 10]), (ASK, [10, 11, 12])])
def test_depth_shows_the_best_levels_best_first(side: Side, prices: list[int]) -> None:
    book_side = side_of(side, [11, 10, 12, 11])
    expected = [Level(price, 10 if price == 11 else 5, 2 if price == 11 else 1) for price in prices]
    assert book_side.depth(2) == expected[:2]
    assert book_side.depth(50) == expected


@pytest.mark.parametrize(("side", "sequences"), [(BID, [2, 4, 1, 3]), (ASK, [3, 1, 2, 4])])
def test_orders_come_in_priority(side: Side, sequences: list[int]) -> None:
    assert [item.sequence for item in side_of(side, [11, 12, 10, 12]).orders()] == sequences


def test_an_order_rests_on_its_own_side_and_meets_the_other() -> None:
    book = Book()
    bid, ask = order(BID, 10, sequence=1), order(ASK, 11, sequence=2)
    for item in (bid, ask):
        book.sides(item)[0].insert(item)
    assert list(book.sides(order(BID, 11))[1].orders()) == [ask]
    assert list(book.sides(order(ASK, 10))[1].orders()) == [bid]
    book.check()


def test_removing_the_last_order_of_a_price_removes_the_level() -> None:
    book = Book()
    only = order(BID, 10)
    book.bids.insert(only)
    take_out(book.bids, only)
    assert book.is_empty()
    assert book.bids.best_price() is None


@pytest.mark.parametrize("side", Side)
def test_a_book_with_orders_on_one_side_is_not_empty(side: Side) -> None:
    book = Book()
    item = order(side, 10)
    book.sides(item)[0].insert(item)
    assert not book.is_empty()


def test_a_reduced_order_keeps_its_place_and_its_level_counts_less() -> None:
    book_side = side_of(ASK, [10, 10])
    first, second = book_side.orders()
    first.remaining_quantity -= 2
    book_side.reduce(first, 2)
    assert list(book_side.orders()) == [first, second]
    assert book_side.depth(1) == [Level(10, 8, 2)]
    book_side.check()


def test_a_cancel_in_the_middle_of_a_long_level_leaves_the_order_of_the_others() -> None:
    book_side = side_of(BID, [10] * 10_000)
    resting = list(book_side.orders())
    gone = set(Random(1).sample(range(10_000), 5_000))
    for index in gone:
        take_out(book_side, resting[index])
    kept = [item for index, item in enumerate(resting) if index not in gone]
    assert list(book_side.orders()) == kept
    assert book_side.depth(1) == [Level(10, 5 * 5_000, 5_000)]
    book_side.check()


def test_a_cancel_looks_at_no_other_order_of_its_level() -> None:
    book_side = side_of(BID, [10] * 1_000)
    resting = list(book_side.orders())
    for item in resting:
        if item is not resting[500]:
            # Whoever compares with this order, or asks for its price, fails.
            del item.sequence, item.price, item.remaining_quantity
    take_out(book_side, resting[500])
    assert book_side.levels[-10].total_quantity == 999 * 5


def test_takers_that_empty_a_long_level_one_by_one_meet_each_order_once() -> None:
    book_side = side_of(BID, [10] * 10_000)
    resting = list(book_side.orders())
    level = book_side.levels[-10]
    for item in resting:
        assert next(book_side.orders()) is item
        assert level.queue[level.head] is item, "with no closed order to walk over first"
        take_out(book_side, item)
    assert book_side.best_price() is None


def test_a_level_in_the_middle_of_which_orders_come_and_go_does_not_grow() -> None:
    book_side = side_of(BID, [10])
    for sequence in range(2, 10_000):
        item = order(BID, 10, sequence=sequence)
        book_side.insert(item)
        take_out(book_side, item)
        book_side.check()
    assert book_side.depth(1) == [Level(10, 5, 1)]


@pytest.mark.parametrize(
    ("side", "price", "meets"),
    [(BID, 9, False), (BID, 10, True), (BID, None, True), (ASK, 11, False), (ASK, 10, True)],
)
def test_a_side_says_whether_its_best_order_is_within_the_limit_of_a_taker(
    side: Side, price: int | None, meets: bool
) -> None:
    makers = BookSide(ASK if side is BID else BID)
    assert not makers.may_meet(order(side, price, sequence=2))
    makers.insert(order(makers.side, 10))
    assert makers.may_meet(order(side, price, sequence=2)) is meets


# ---- every invariant, corrupted on its own ----


def healthy() -> Book:
    book = Book()
    for sequence, (side, price) in enumerate(
        [(BID, 10), (BID, 10), (BID, 9), (ASK, 11), (ASK, 12)], start=1
    ):
        item = order(side, price, sequence=sequence)
        book.sides(item)[0].insert(item)
    return book


def first_bid(book: Book) -> Order:
    return next(book.bids.orders())


def add_an_empty_level(book: Book) -> None:
    closed = order(BID, 8, sequence=9)
    book.bids.insert(closed)
    close(closed, CloseReason.CANCELLED, NOW_US)


def rank_a_level_wrongly(book: Book, rank: int = -8) -> None:
    book.bids.levels[rank] = book.bids.levels.pop(-9)
    book.bids.ranks.remove(-9)
    book.bids.ranks.add(rank)


def rank_bids_like_asks(book: Book) -> None:
    rank_a_level_wrongly(book, 9)


def lose_a_rank(book: Book) -> None:
    book.bids.ranks.remove(-9)


def keep_the_rank_of_no_level(book: Book) -> None:
    book.bids.ranks.add(-8)


def count_one_share_too_many(book: Book) -> None:
    book.bids.levels[-10].total_quantity += 1


def lose_a_reduction(book: Book) -> None:
    first_bid(book).remaining_quantity -= 1


def swap_two_in_a_queue(book: Book) -> None:
    book.bids.levels[-10].queue.reverse()


def skip_an_open_order(book: Book) -> None:
    book.bids.levels[-10].head = 1


def count_one_order_too_many(book: Book) -> None:
    book.bids.levels[-9].order_count += 1


def forget_which_is_best(book: Book) -> None:
    book.bids.best_rank = -9


def put_an_ask_among_the_bids(book: Book) -> None:
    first_bid(book).side = ASK


def change_the_price_of_a_resting_order(book: Book) -> None:
    first_bid(book).price = 9


def keep_a_closed_order(book: Book) -> None:
    close(first_bid(book), CloseReason.CANCELLED, NOW_US)


def keep_an_order_with_nothing_left(book: Book) -> None:
    book.bids.levels[-10].total_quantity -= first_bid(book).remaining_quantity
    first_bid(book).remaining_quantity = 0


def give_an_order_back_more_than_it_had(book: Book) -> None:
    book.bids.levels[-10].total_quantity += 1
    first_bid(book).remaining_quantity += 1


def let_the_sides_touch(book: Book) -> None:
    book.bids.insert(order(BID, 11, sequence=9))


def let_the_sides_cross(book: Book) -> None:
    book.asks.insert(order(ASK, 9, sequence=9))


CORRUPTIONS = [
    add_an_empty_level,
    rank_a_level_wrongly,
    rank_bids_like_asks,
    lose_a_rank,
    keep_the_rank_of_no_level,
    count_one_share_too_many,
    lose_a_reduction,
    swap_two_in_a_queue,
    skip_an_open_order,
    count_one_order_too_many,
    forget_which_is_best,
    put_an_ask_among_the_bids,
    change_the_price_of_a_resting_order,
    keep_a_closed_order,
    keep_an_order_with_nothing_left,
    give_an_order_back_more_than_it_had,
    let_the_sides_touch,
    let_the_sides_cross,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_check_finds_a_corruption(corrupt: Callable[[Book], None]) -> None:
    book = healthy()
    book.check()
    corrupt(book)
    with pytest.raises(AssertionError):
        book.check()
