"""The home agent's work for lines: flits that come in, probes that go out, blocks that change their attribute."""
