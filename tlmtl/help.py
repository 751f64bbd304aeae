"""What `--help` prints: plain text, so that it is there at once."""

HELP = {
    "tlmtl": """\
tlmtl: compare ways to transfer and to share, by numbers that can be trusted

  tlmtl train [OVERRIDES] [-m]   one run, or a sweep with -m
  tlmtl check [OVERRIDES]        what a data set holds, before training
  tlmtl predict RUN PATH...      labels for new images, from a run's folder alone
  tlmtl export RUN               a run's model as ONNX, a PyTorch program or safetensors
  tlmtl compare PATH...          results of runs and sweeps, side by side
  tlmtl report PATH...           one HTML page of them: table, charts, the images that were got wrong
  tlmtl list [GROUP]             what there is to choose from
  tlmtl cache                    what is kept between runs: show, verify, prune, clear

Examples:
  tlmtl train                                                    # seconds on a CPU, without a network
  tlmtl train strategy=finetune_all
  tlmtl train -m strategy=from_scratch,linear_probe,finetune_all seed=0,1,2
  tlmtl check dataset=folder dataset.root=my_images
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
  tlmtl train -m +experiment=fair strategy=linear_probe,finetune_all tune.trials=20  # each tries 20 settings; the best, 5 seeds
  tlmtl train -m hydra/sweeper=optuna 'optimizer.lr=tag(log,interval(1e-4,1e-1))'   # a search (pip install 'tlmtl[tune]')
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
    "check": """\
tlmtl check [OVERRIDES] [FLAGS]: what a data set holds and what is wrong with it, before training

OVERRIDES are those of `tlmtl train`. Every file is read once: classes in each split, sizes, copies within and across splits,
files that cannot be read, missing labels. A picture shows some images of each class as the model would see them.

Examples:
  tlmtl check                                                    # the embedded digits
  tlmtl check dataset=folder dataset.root=my_images
  tlmtl check dataset=folder dataset.root=my_images model=resnet18 dataset.augment=crop_flip --sheet images.png
  tlmtl check dataset=table dataset.path=scans.csv dataset.group_column=patient
  tlmtl check dataset=table dataset.path=scans.csv dataset.fold=1/5 --all

Flags:
  --sheet FILE           the picture, a PNG (default: check/DATASET.png below output.root)
  --all                  name everything that was found, not the first few of each kind
  --cfg job              print the composed config and stop
  --debug                show the traceback of an error

Exit codes: 0 when `tlmtl train` would take the data set, 1 when it would refuse something in it, 2 for a wrong command or
config.
""",
    "predict": """\
tlmtl predict RUN PATH... [FLAGS]: labels for new images, from the folder of a finished run alone

A PATH is an image, a folder (with all below it), a CSV or Parquet file with a column of image files, or - for names of
files on standard input. Images are prepared as the run's were, whatever their size, mode and orientation.

Examples:
  tlmtl predict outputs/runs/latest photo.jpg
  tlmtl predict outputs/runs/latest new_images --out predictions.csv
  tlmtl predict outputs/runs/latest new.csv --image file --top 3 --out predictions.parquet
  tlmtl predict outputs/sweeps/latest/3f2a90b1c7de scans/*.png
  find scans -name '*.png' | tlmtl predict outputs/runs/latest - > predictions.csv

One row for each image: image, for each task what the model says (a class with its probability; a value; for several labels
those above one half, and each one's probability), error. Flags:
  --out FILE             a .csv or .parquet file, written whole or not at all (default: CSV to standard output)
  --top K                the K likeliest classes with their probabilities
  --image COLUMN         the column of a CSV or Parquet file that names the images (found when not given)
  --encoding NAME        of a CSV file (utf-8); --delimiter CHARACTER between its cells (found when not given)
  --batch-size N         images at a time (32)
  --engine NAME          what runs the backbone: torch, onnxruntime, openvino, or auto (the fastest installed one that pays
                         for its start and gives what torch gives)
  --allow PACKAGE        a package of your own that the run was trained with
Exit code: 0 done, 1 some images could not be read (their rows say why), 2 nothing could be predicted.
""",
    "export": """\
tlmtl export RUN [FLAGS]: a finished run's model as a file for other programs, from the run's folder alone

The file is loaded again, and compared with the run's model on images, before it is put in its place. It takes images that
are resized, and gives for each task what `tlmtl predict` says; model.json beside it (and in it) says how to make and read both.

Examples:
  tlmtl export outputs/runs/latest                               # ONNX, in the run's folder, below export/onnx
  tlmtl export outputs/runs/latest --out digits.onnx
  tlmtl export outputs/runs/latest --format pt2 --out exported   # a program of torch.export; neither needs tlmtl
  tlmtl export outputs/runs/latest --format safetensors          # the parameters under the names they were trained with
  tlmtl export outputs/runs/latest --task digit ink              # these tasks alone

Flags:
  --format FORMAT        onnx (default), pt2 or safetensors
  --out PATH             a file that ends in .onnx, .pt2 or .safetensors, else a folder (default: RUN/export/FORMAT)
  --task NAME...         tasks that are wanted (default: all)
  --batch N              so many images at a time (default: dynamic, any number)
  --force                replace an export that is there
  --allow PACKAGE        a package of your own that the run was trained with
Exit code: 0 done, 1 the model cannot be put into the format or says something else there, 2 wrong command or RUN. The
formats other than pt2 and safetensors need pip install 'tlmtl[export]'.
""",
    "compare": """\
tlmtl compare PATH... [FLAGS]: results of runs and sweeps in one table, repeats (seeds) as mean ± standard deviation

A PATH is a results.csv, a folder with some, or any other CSV with a metric and a seed.

Examples:
  tlmtl compare outputs/sweeps/latest
  tlmtl compare outputs --filter 'dataset == digits' --sort -test --top 10
  tlmtl compare outputs/sweeps/latest --over optimizer.lr         # the rate chosen by validation, its test figure shown
  tlmtl compare outputs/sweeps/latest --baseline strategy=linear_probe      # who is better, and how sure that is
  tlmtl compare outputs/sweeps/latest --fail-if 'test < 0.9'      # exit code 1 then
  tlmtl compare theirs.csv --rename acc=test/accuracy --rename run=seed --rename method=strategy
  tlmtl compare outputs/sweeps/latest --plot curve.png
  tlmtl compare outputs/sweeps/latest --format latex --out table.tex
  tlmtl compare outputs/sweeps/front outputs/sweeps/front_learned --front --plot front.png

Flags:
  --metric NAME          the metric shown (default: the first of each task)
  --filter 'KEY OP VALUE'  keep rows; OP is == != < <= > >= in ~; may be given several times
  --sort KEY             sort by a shown column, `test` or `val`; -KEY for descending
  --top N                the first N rows
  --columns A,B          columns to show
  --rename THEIRS=OURS   read a column under another name
  --repeats KEY...       settings that are repeats, as seeds always are, such as dataset.fold
  --over KEY...          show, for each setting, the value of KEY that validation chooses
  --baseline KEY=VALUE   the difference of each row to this one, seed by seed: 95 % interval, exact p, Holm's correction, and
                         a bootstrap over test examples; may be given again to say which row
  --fail-if 'KEY OP VALUE'  exit code 1 when this holds for a row, such as 'difference < -0.01'; may be given again
  --front                which weightings of task losses lie beyond the front of static sums
  --plot FILE            a picture: metric against labels per class where they vary, else bars; with --front the front
  --format FORMAT        table, csv, md, json or latex
  --out FILE             write there instead of to the terminal
""",
    "report": """\
tlmtl report PATH... [FLAGS]: one HTML page of runs and sweeps, in one file that needs no network

A PATH is a results.csv or a folder with some, as for `tlmtl compare`. On the page: what is best by validation and how sure
that is, the table (sorted by a click, filtered by words), learning curves, metric against cost and labels, what sharing gained
per task, confusions and the worst-predicted images of the best runs, runs that failed, commands and versions.

Examples:
  tlmtl report outputs/sweeps/latest
  tlmtl report outputs/sweeps/latest --out digits.html --figures figures
  tlmtl report outputs/sweeps/latest --baseline strategy=linear_probe --title 'Few labels'
  tlmtl report outputs --filter 'dataset == digits'

Flags:
  --out FILE             the page (report.html)
  --figures DIR          its pictures, too, each as PNG and SVG
  --metric NAME          the metric shown (default: the first of each task)
  --filter 'KEY OP VALUE'  keep runs, as in `tlmtl compare`; may be given several times
  --baseline KEY=VALUE   compare each row with that one, seed by seed, as in `tlmtl compare`
  --rename THEIRS=OURS   read a column under another name
  --title TEXT           of the page
  --no-images            do not look for the images of the data set
  --allow PACKAGE        a package of your own that the data set of the runs comes from
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
    "cache": """\
tlmtl cache [FLAGS]: what is kept between runs, how large and how old it is; verified, pruned, cleared

Kept are features of frozen backbones, decoded images, models that source=pretrain has trained, what one reading of the files of
a data set found, and which format of a model was fastest here. All of it can be made again. docs/cache.md says more.

Examples:
  tlmtl cache                                                    # what is there
  tlmtl cache --verify                                           # read every checksum
  tlmtl cache --prune 5000                                       # features and images down to 5,000 MB, the oldest first
  tlmtl cache --older-than 30d                                   # what no run has used for so long goes
  tlmtl cache --clear images
  tlmtl cache --clear --yes --cache /scratch/tlmtl

Flags:
  --cache DIR            the folder (default: $TLMTL_CACHE, else ~/.cache/tlmtl; a run's is output.cache)
  --verify               exit code 1 when features or images are not what was written; --repair removes those
  --prune MB             or 5GB; --older-than AGE, such as 36h, 30d, 8w; both together
  --clear [KIND]         all, or features, images, sources, scans, plans; asks first
  --yes                  do not ask

What runs are making or hold open is left, or stays readable for them; other files in the folder and links are not touched.
Exit code: 0 done, 1 something is broken or could not be removed, 2 a wrong command.
""",
}
