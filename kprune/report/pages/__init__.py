"""Pages to write into the folder of a run when it ends, with one module for each."""
