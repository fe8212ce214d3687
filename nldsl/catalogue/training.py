"""NL7xx: training."""

from nldsl.catalogue.page import error

PAGES = {
    "NL701": error("the training text cannot be read", "`--data FILE` names a file that is not there or not readable. Without it the text that ships with Python is used."),
    "NL702": error("the training text is too small", "A text has to hold at least one training window and one held-out window."),
    "NL703": error("unknown optimizer", "The optimizer of a `train` block is one of those listed."),
    "NL704": error("unknown schedule", "The learning rate's schedule is one of those listed."),
    "NL705": error("a training setting out of range", "A setting of the `train` block or of the command line has a value that no run could follow."),
    "NL706": error("a device that cannot be used", "The device is not there, or torch was built without it. `--device cpu` always works."),
    "NL707": error("no checkpoint", "The run folder has no checkpoint to read."),
    "NL708": error("a damaged checkpoint", "The file is not a whole checkpoint, or its contents do not match its checksum. Nothing was changed."),
    "NL709": error("a checkpoint of another spec", "A run goes on only with the spec it was started with; the checkpoint carries that text."),
    "NL710": error("a checkpoint of another format", "The file was written by another version of nldsl."),
    "NL711": error("a checkpoint that does not fit the model", "The tensors of the checkpoint are not those of the model compiled from its spec."),
    "NL712": error("settings that changed", "A resumed run keeps the settings that decide its numbers. Give the old ones, or start over with `--fresh`."),
    "NL713": error("training diverged", "The loss or a gradient is not a finite number. The last checkpoint is kept."),
    "NL714": error("the run folder cannot be written", "The folder is not writable, or the disk is full."),
    "NL715": error("the run folder is in use", "Another process trains in this folder."),
    "NL716": error("a model unfit for bytes", "A byte model takes int[256] or real[...] of it and returns 256 logits a tick."),
    "NL717": error("out of memory", "One step does not fit in memory at this batch and length."),
    "NL718": error("nothing to train", "The model has no param and no learned memory."),
    "NL720": error("no model to train", "`model = NAME(...)` in a `train` block names a block of the file; its parameters are constants given by name."),
    "NL721": error("no outer objective", "A `train` block has one `minimize E by OPTIMIZER`. Its objective uses the model once, on the stream `byte`, and may use `next`, the byte that follows."),
    "NL722": error("unknown outer optimizer", "The name after `by` in a `train` block is an optimizer, with numbers by name: adamw(lr = 2e-3, weight_decay = 0.01)."),
    "NL723": error("unknown setting", "A setting of a `train` block is misspelled, or its value is of another kind."),
    "NL724": error("which training", "The file has no `train` block, or several: `--train NAME` says which."),
}
