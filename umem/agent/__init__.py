"""The agent: one thread a rank that answers other ranks, whatever this rank's user code is doing.

layout (what travels, and the memory it lives in), queue, service, loop and liveness (the compiled serving
side), requests and client (the asking side), handlers and near_handlers (what every agent can do), near
(asking for it), remote (a fabric of both), agent (the thread and its table). Floor 3.
"""

from .asking.client import Client
from .asking.messages import Reply, Request
from .asking.near import Near
from .asking.remote import RemoteFabric
from .layout import Operation
from .serving.agent import Agent, bind_ucx

__all__ = ["Agent", "Client", "Near", "Operation", "RemoteFabric", "Reply", "Request", "bind_ucx"]
