"""`tlmtl compare`: the rows of runs and sweeps as one table, one file or one figure. Torch-free, and free of Hydra."""
