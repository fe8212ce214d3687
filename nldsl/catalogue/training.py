"""NL7xx: training."""

from nldsl.catalogue.page import error, warning

TRAIN = (
    "block lm(d) {{\n  in x : int[256]\n  param E : 256 -> d\n  param H : d -> 256\n  out y = H(E(x))\n}}\n"
    "train t {{\n  model = lm(d = 8)\n  minimize cross_entropy(model(byte), next) {}\n}}"
)
RULE = "rule r(lr = 0.1) on d -> e { update last w - lr * g }\n"
TOLD = (
    "block lm(d) {{\n  in x, target : int[256]\n  param E, V : 256 -> d\n  param H : d -> 256\n"
    "  memory F : d -> d {{ update 0.9 * last F + outer(V(target), E(x)) }}\n  out logits = H({})\n  out loss = cross_entropy(logits, target)\n}}\n"
    "train t {{\n  model = lm(d = 8)\n  m = model(byte, next)\n  minimize m.loss by adamw()\n}}"
)

PAGES = {
    "NL701": error("the training text cannot be read", "`--data FILE` names a file that is not there or not readable. Without it the text that ships with Python is used."),
    "NL702": error("the training text is too small", "A text has to hold at least one training window and one held-out window."),
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
    "NL721": error("no outer objective", "A `train` block has one `minimize E by OPTIMIZER`. Its objective uses the model once, on the stream `byte`, and may use `next`, the byte that follows. A model with several outputs has a name first: `m = model(byte, next)`, then `minimize m.loss by ...`; the output `logits` is what predicts."),
    "NL722": error(
        "unknown outer optimizer",
        "After `by` in a `train` block stands a rule of the file or of the library, with its numbers by name: adamw(lr ="
        " 2e-3, weight_decay = 0.01). Several rules share the parameters by routes: matrices by muon(), rest by adamw().",
    ),
    "NL723": error("unknown setting", "A setting of a `train` block is misspelled, or its value is of another kind."),
    "NL724": error("which training", "The file has no `train` block, or several: `--train NAME` says which."),
    "NL725": error(
        "an unknown selector",
        "Before `by` stands which parameters the rule trains: matrices, vectors, embeddings, heads, convolutions, rest, all,"
        " a pattern of names in quotes, or split(SELECTOR, PARTS), whose tensors hold PARTS equal matrices one below the other.",
        TRAIN.format('matrixes by adamw(), rest by adamw()'), TRAIN.format('matrices by adamw(), rest by adamw()'),
    ),
    "NL726": error(
        "a number the rule does not have",
        "The numbers of a rule are its parameters, given by name or in order; those without a default have to be given. A list"
        " stays a list of the same length.",
        TRAIN.format("by adamw(learning_rate = 1e-3)"), TRAIN.format("by adamw(lr = 1e-3)"),
    ),
    "NL727": error(
        "an `every` that counts no steps",
        "`every N` runs a rule at every N-th step on the sum of the gradients; N is a whole number. A rule that reads the"
        " inputs of each step cannot wait.",
        TRAIN.format("all by adamw() every 0.5"), TRAIN.format("all by adamw() every 8"),
    ),
    "NL728": error(
        "a rule that does not learn on this",
        "A rule `on d -> e` takes matrices, `on real[n]` vectors, `on embeddings, heads` parameters of these roles. What it does"
        " not take goes to the rule after its `else`; where there is none, another route has to take it.",
        RULE + TRAIN.format("vectors by r(), rest by adamw()"), RULE + TRAIN.format("matrices by r(), rest by adamw()"),
    ),
    "NL729": error(
        "a parameter without a rule",
        "Every parameter needs a route: the first that matches takes it. End with `rest by adamw(...)`.",
    ),
    "NL730": warning(
        "a route without parameters",
        "No parameter of the model is left for the route: a name is misspelled, an earlier route takes them, or the model has none.",
        TRAIN.format("all by adamw(), matrices by adamw()"), TRAIN.format("matrices by adamw(), rest by adamw()"),
    ),
    "NL731": error(
        "a prediction that knows its answer",
        "A model may take `next`, the byte that follows, and learn from it while it reads. What it predicts at a tick must not"
        " depend on the answer of that tick: read what learns from the answer with `last`.",
        TOLD.format("F(E(x))"), TOLD.format("last F(E(x))"),
    ),
    "NL732": error(
        "specs of different sizes",
        "`nldsl compare` sets models side by side that have about as many parameters. Change their widths, or allow a larger"
        " difference with `--tolerance F`.",
    ),
    "NL733": error(
        "specs that cannot be compared",
        "`nldsl compare` trains at least two specs, on the same bytes in the same order: steps, batch, length and data have to"
        " be the same. On the command line they are set for all.",
    ),
    "NL734": error(
        "a training that several processes cannot share",
        "Under `torchrun` each process takes an equal part of every batch, and the result is that of one process. Where that"
        " cannot be so it is refused: a batch that does not divide, a memory that all its sequences share, or a rule that reads"
        " the inputs of a layer, which are spread over the processes. `--sharded` spreads the model over several processes, so it"
        " needs them.",
    ),
}
