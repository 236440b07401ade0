"""Criteria that need what recovery knows of layers."""
