"""Ways in which networks connect layers, each with what is right about its channels."""

from __future__ import annotations

from support.constructions import attention, convolutions, joins, norms, routes
from support.constructions.base import Construction

#: by name; names are unique
CONSTRUCTIONS: dict[str, Construction] = {
    one.name: one for part in (joins, convolutions, norms, attention, routes) for one in part.ALL
}
assert len(CONSTRUCTIONS) == sum(
    len(part.ALL) for part in (joins, convolutions, norms, attention, routes)
)
