"""Version, read by the build without importing kprune."""

__version__ = "0.1.0"
