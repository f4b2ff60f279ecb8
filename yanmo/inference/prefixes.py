"""What was computed for the beginnings of texts, kept for the next text that begins so.

In: ids. Out: for each whole block of them that is known, what was kept of it.

    Prefixes    a tree of blocks of tokens; a block is found by its tokens and by all that stand before it

Tokens are compared, never their hashes alone: the key of a block in its parent is the tuple of its tokens, and a
dictionary compares keys. A scope (a user, an adapter) has a tree of its own. Bytes are bounded: the block that was
used least recently leaves first. A parent is used whenever its child is, and after it, so the oldest is always a leaf.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from torch import Tensor

BLOCK = 16  # tokens
OVERHEAD = 400  # bytes of a node, its tuple of tokens included


class Node:
    """A block and what is known to follow it."""

    def __init__(self, parent: Node | None, key: Hashable, data: Tensor | None) -> None:
        self.parent, self.key, self.data = parent, key, data
        self.children: dict[Hashable, Node] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return OVERHEAD + (0 if self.data is None else self.data.nbytes)


class Prefixes:
    """`most` bytes of blocks."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.nbytes = 0
        self._roots: dict[Hashable, Node] = {}
        self._nodes: OrderedDict[int, Node] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, ids: Sequence[int], scope: Hashable = "") -> list[Node]:
        """The known blocks with which `ids` begins, in order, each BLOCK tokens."""
        found: list[Node] = []
        node = self._roots.get(scope)
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            node = None if node is None else node.children.get(tuple(ids[start : start + BLOCK]))
            if node is None:
                break
            found.append(node)
        self._use(found)
        return found

    def add(self, ids: Sequence[int], read: Callable[[int, int], Tensor | None], scope: Hashable = "") -> None:
        """Keep the whole blocks of `ids`: read(start, stop) gives what is to be kept of one that is not known."""
        path: list[Node] = []
        node = self._roots.setdefault(scope, Node(None, scope, None))
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = tuple(ids[start : start + BLOCK])
            node = self._child(node, key, partial(read, start, start + BLOCK))
            path.append(node)
        self._use(path)
        self._shrink()

    def find_whole(self, ids: Sequence[int], scope: Hashable = "") -> Tensor | None:
        """What was kept of exactly these ids."""
        root = self._roots.get(scope)
        node = None if root is None else root.children.get(("whole", *ids))
        self._use([] if node is None else [node])
        return None if node is None else node.data

    def add_whole(self, ids: Sequence[int], data: Tensor, scope: Hashable = "") -> None:
        """Keep something of exactly these ids."""
        node = self._child(self._roots.setdefault(scope, Node(None, scope, None)), ("whole", *ids), lambda: data)
        self._use([node])
        self._shrink()

    def _child(self, parent: Node, key: Hashable, read: Callable[[], Tensor | None]) -> Node:
        node = parent.children.get(key)
        if node is None:
            node = parent.children[key] = Node(parent, key, read())
            self._nodes[id(node)] = node
            self.nbytes += node.nbytes
        elif node.data is None and (data := read()) is not None:
            node.data = data
            self.nbytes += data.nbytes
        return node

    def _use(self, path: Sequence[Node]) -> None:
        for node in reversed(path):  # the parent last
            self._nodes.move_to_end(id(node))

    def _shrink(self) -> None:
        while self.nbytes > self.most and self._nodes:
            _, node = self._nodes.popitem(last=False)
            assert node.parent is not None and not node.children, "the least recently used block is a leaf"
            del node.parent.children[node.key]
            self.nbytes -= node.nbytes
            if node.parent.parent is None and not node.parent.children:
                del self._roots[node.parent.key]
