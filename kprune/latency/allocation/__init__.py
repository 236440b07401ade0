"""The allocation that meets a measured latency."""
