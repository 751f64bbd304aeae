"""What `--help` prints: plain text, so that it is there at once."""

HELP = {
    "tlmtl": """\
tlmtl: compare ways to transfer and to share, by numbers that can be trusted

  tlmtl train [OVERRIDES] [-m]   one run, or a sweep with -m
  tlmtl compare PATH...          results of runs and sweeps, side by side
  tlmtl list [GROUP]             what there is to choose from

Examples:
  tlmtl train                                                    # seconds on a CPU, without a network
  tlmtl train strategy=finetune_all
  tlmtl train -m strategy=from_scratch,linear_probe,finetune_all seed=0,1,2
  tlmtl train dataset=folder dataset.root=my_images
  tlmtl compare outputs/sweeps/latest

`tlmtl COMMAND --help` says more; --debug shows the traceback of an error; --version the version.
""",
    "train": """\
tlmtl train [OVERRIDES] [FLAGS]: train and evaluate one config, or each config of a sweep

OVERRIDES are Hydra's: group=member (`tlmtl list` shows them) and key=value (`tlmtl train --cfg job` shows all keys).

Examples:
  tlmtl train                                                    # linear probe on 50 labelled digits
  tlmtl train strategy=finetune_all dataset.labels_per_class=1 optimizer.lr=3e-4
  tlmtl train model=resnet18 source=imagenet dataset=folder dataset.root=my_images
  tlmtl train -m strategy=from_scratch,linear_probe,finetune_all seed=0,1,2
  tlmtl train resume=outputs/runs/latest                         # go on with an interrupted run

Flags, in any position:
  -m, --multirun         a sweep: every combination of the comma-separated values; the same command again runs what is missing
  --cfg job              print the composed config and stop (--resolve fills in interpolations)
  --info defaults-tree   how the config is composed (also: config, defaults, plugins, searchpath)
  --config-dir DIR       further config files of your own; ./conf is looked at anyway
  --shell-completion install=bash    eval "$(tlmtl train -sc install=bash)" gives tab completion
  --hydra-help           Hydra's own help
  --debug                show the traceback of an error
""",
    "compare": """\
tlmtl compare PATH... [FLAGS]: results of runs and sweeps in one table, repeats (seeds) as mean ± standard deviation

A PATH is a results.csv or a folder with some.

Examples:
  tlmtl compare outputs/sweeps/latest
  tlmtl compare outputs --filter 'dataset == digits' --sort -test --top 10
  tlmtl compare outputs/sweeps/latest --over optimizer.lr         # the rate chosen by validation, its test figure shown
  tlmtl compare outputs/sweeps/latest --plot curve.png
  tlmtl compare outputs/sweeps/latest --format latex --out table.tex

Flags:
  --metric NAME          the metric shown (default: the first of each task)
  --filter 'KEY OP VALUE'  keep rows; OP is == != < <= > >= in ~; may be given several times
  --sort KEY             sort by a shown column, `test` or `val`; -KEY for descending
  --top N                the first N rows
  --columns A,B          columns to show
  --rename THEIRS=OURS   read a column under another name
  --over KEY...          show, for each setting, the value of KEY that validation chooses
  --plot FILE            a picture: metric against labels per class where they vary, else bars
  --format FORMAT        table, csv, md, json or latex
  --out FILE             write there instead of to the terminal
""",
    "list": """\
tlmtl list [GROUP]: what there is to choose from, a line each

Examples:
  tlmtl list
  tlmtl list strategy
  tlmtl list dataset
  tlmtl list model
  tlmtl list term
""",
}
