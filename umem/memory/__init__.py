"""A rank's memory: addresses, segments, control page, devices."""
