"""One file per command of `kprune`. `kprune.cli` assembles them."""
