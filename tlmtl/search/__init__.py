"""Sweeps that choose by validation: `hydra/sweeper=optuna`, and the equal budgets of `tune.trials`."""
