"""`umem run`: a script in every rank of a new world. This process is itself the warm parent.

Parsed by hand-made argparse, not by the other commands' library: start-up time is part of what is promised.
"""
