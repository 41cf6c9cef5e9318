"""The agent: one thread a rank that answers other ranks, whatever this rank's user code is doing.

layout (what travels, and the memory it lives in), queue, service, loop and liveness (the compiled serving
side), requests and client (the asking side), handlers and near_handlers (what every agent can do), near
(asking for it), remote (a fabric of both), agent (the thread and its table). Floor 3.
"""

from .agent import Agent, bind_ucx
from .client import Client
from .layout import Operation
from .messages import Reply, Request
from .near import Near
from .remote import RemoteFabric

__all__ = ["Agent", "Client", "Near", "Operation", "RemoteFabric", "Reply", "Request", "bind_ucx"]
