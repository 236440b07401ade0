"""Allocations that need what recovery knows of layers."""
