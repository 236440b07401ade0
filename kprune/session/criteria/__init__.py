"""Criteria that run the model call by call."""
