"""What is written into the folder of a run when it ends, one file each."""
