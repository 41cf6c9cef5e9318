"""`umem verdict`: one memory or stacked servers, with the evidence."""
