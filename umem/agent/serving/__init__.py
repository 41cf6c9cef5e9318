"""The agent: the thread that answers other ranks and watches their lives."""
