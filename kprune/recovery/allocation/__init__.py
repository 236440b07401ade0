"""Allocations that build on helpers of recovery."""
