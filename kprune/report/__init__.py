"""Reports, tables, plots and drawings; the demo."""
