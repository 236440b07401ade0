"""Allocations that replace channels to see what they are worth."""
