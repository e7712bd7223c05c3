"""What was worked out lately from something that never changes, kept in the process for who asks for it next."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The results that were asked for last, by key, at most `most` of them; whoever gets one leaves it as it is."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T], *, keeps: Callable[[T], bool] = lambda _: True) -> T:
        """What is remembered of `key`, else what `make` gives, remembered from now on if `keeps` says so.

        Two that ask at the same time may both make it; nobody waits.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        if keeps(made):
            with self._lock:
                self._kept[key] = made
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return made
