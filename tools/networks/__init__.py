"""The networks whose latencies on real devices were published, as plain torch modules with random weights."""
