"""What the service says of itself: logs, metrics, traces, watched loops, and the failpoints that tests use."""
