"""The heap's records in shared memory: allocation, freeing, recovery from deaths, audit."""
