"""The command line: `umem info | run | verdict | bench`."""
