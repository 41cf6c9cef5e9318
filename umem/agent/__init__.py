"""The agent: one thread a rank that answers other ranks, whatever this rank's user code is doing.

layout (what travels, and the memory it lives in), queue, service, loop and liveness (the compiled serving
side), requests and client (the asking side), handlers (what every agent can do), agent (the thread and
its table). Floor 3.
"""

from .agent import Agent, bind_ucx
from .client import Client, Reply, Request
from .layout import Operation

__all__ = ["Agent", "Client", "Operation", "Reply", "Request", "bind_ucx"]
