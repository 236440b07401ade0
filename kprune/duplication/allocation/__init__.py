"""Allocations that measure the effect of replacing channels."""
