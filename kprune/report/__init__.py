"""What was measured, as tables; the demo."""
