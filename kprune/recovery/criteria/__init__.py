"""Criteria that build on helpers of recovery."""
