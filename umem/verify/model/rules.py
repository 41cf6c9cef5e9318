"""Decisions of the messaging design that the table does not make, one a method.

Agents (umem/lines/home) and requesters (kernels/coherent) follow them. A check plants a bug by overriding one, so
that the model itself holds no bugs.
"""

from __future__ import annotations

from ...coherence.protocol import Copy, Relation, Request
from .flit_state import OWNED, Data, Flit, Kind, Tag


class Rules:
    """The decisions of the design."""

    separates_networks = True  # a probe and its answer never wait behind a request or its reply
    waits_for_answers = True  # the home replies when every probe has been answered

    def tag_after_invalidate(self, tag: Tag) -> Tag:
        """The tag after INVALIDATE; a slot being filled is marked, for its grant may have left before the probe."""
        return {Tag.S: Tag.I, Tag.FILLING: Tag.DROPPED}.get(tag, tag)

    def tag_after_grant(self, tag: Tag, granted: Copy) -> Tag:
        """The tag after a grant: a line that was dropped meanwhile is not kept, unless it is owned.

        An owned grant left after the answer to the probe: else the directory would have named the owner.
        """
        return Tag.I if tag is Tag.DROPPED and granted is Copy.S else Tag(granted)

    def waits_with_take(self, tag: Tag) -> bool:
        """Whether a probe for the owner's copy waits: for the grant that made it owner, or for a store to end."""
        return tag in (Tag.FILLING, Tag.DROPPED, Tag.PINNED)

    def can_be_taken(self, tag: Tag) -> bool:
        """Whether the slot has an owned copy for the probe, or one that is being given back."""
        return tag in OWNED or tag is Tag.TAKEN

    def tag_after_take(self, tag: Tag, probe: Kind) -> Tag:
        """The tag after TAKE_SHARED or TAKE_INVALID; a slot that is being given back stays so until its reply, DONE."""
        if tag is Tag.TAKEN:
            return tag
        return Tag.S if probe is Kind.TAKE_SHARED else Tag.I

    def tag_after_store(self, tag: Tag) -> Tag:
        """The tag of a pinned slot after its store."""
        return Tag.M

    def line_taken(self, tag: Tag, data: Data) -> Data:
        """The data that the answer to a probe carries."""
        return data

    def line_given_back(self, tag: Tag, data: Data) -> Data:
        """The data that PUT_OWNED carries."""
        return data

    def sends_line(self, relation: Relation, request: Flit) -> bool:
        """Whether a grant carries the line: unless its rank says that it holds it, and the directory agrees.

        The rank may have lost its copy since it asked; then the directory does not name it any more.
        """
        return relation is not Relation.SHARER or request.data is Data.NONE

    def invalidates_requester(self, request: Request) -> bool:
        """Whether INVALIDATE goes to the requester too: its slot is not claimed while it stores at the home."""
        return request is Request.WRITE_HOME
