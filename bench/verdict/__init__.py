"""`umem verdict`: what this machine is, with the evidence."""
