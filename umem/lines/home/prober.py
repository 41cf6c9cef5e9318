"""Words that the handlers of coherence share, and where in them things are.

Probes are a network of their own beside the ranks' requests: a client on the agent's channels, with its own slots on
both sides, so that a probe, and its answer, never waits for a request. Only the agent's thread uses it.
"""

from __future__ import annotations

FLIT_KERNELS = "flits"  # of compiled handlers: loaded where a world has ranks that are not mapped
PROBE_CREDITS = 4  # probes under way from one agent to another; more lines at once wait their turn

# --- the context of the handlers, as words
PROBER_CACHE = 0  # address of this rank's coherence header
PROBER_CLIENT = 1  # address of the client's words
# address of as many words a slot of the agent as there are ranks: sequence numbers of its probes
PROBER_TICKETS = 2
PROBER_STATE = 3  # address of the agent's state
PROBER_WORDS = 4
