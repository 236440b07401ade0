"""One file per command of `kprune`; `kprune.cli` puts them together."""
