"""`tlmtl check`: what a data set holds, before training. `survey` finds out, `tell` prints, `sheet` draws."""
