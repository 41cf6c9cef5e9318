"""What the home's agent does for lines: flits that come in, probes that go out, blocks that change their attribute."""
