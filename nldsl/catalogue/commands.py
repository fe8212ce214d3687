"""NL8xx: command line, files and the Python interface."""

from nldsl.catalogue.page import error

PAGES = {
    "NL801": error("a file that cannot be read", "There is no such file, or it may not be read."),
    "NL802": error("not a text", "A `.nl` file is UTF-8 text; this one has bytes that are not."),
    "NL803": error(
        "no such block, rule or stream",
        "The file has no block or rule, or the block no stream, of that name. Rules of the library need no file.",
    ),
    "NL804": error(
        "a parameter without a value",
        "A parameter without a default needs a value: `-D d=64` on the command line, `d=64` in Python.",
    ),
    "NL805": error("an unknown parameter", "The block has no parameter of that name."),
    "NL806": error(
        "a parameter that does not fit",
        "The value is of the wrong kind, or a size that follows from it is not a whole number (64 is not "
        "divisible by 5 heads).",
    ),
    "NL807": error("no such stage", "`nldsl show --stage NAME` prints one of the stages listed."),
    "NL808": error(
        "a backend that cannot be used",
        "The part of nldsl that makes PyTorch code is not installed here, or torch is not.",
    ),
    "NL809": error(
        "a file that is there already",
        "`nldsl new` and `-o` do not overwrite what they did not make. Name another file, or remove this one.",
    ),
    "NL810": error("a file that cannot be written", "The folder is not there or not writable, or the disk is full."),
    "NL811": error(
        "which block?",
        "The file has several blocks (or none) that could be meant; name one with `--block`.",
    ),
    "NL812": error(
        "no such code",
        "A code is `NL` and three digits, as printed in brackets after `error` or `warning`.",
    ),
    "NL813": error(
        "not a parameter's value",
        "`-D name=value` gives a whole number, a decimal number, a list `[1, 2]` or the name of a block.",
    ),
    "NL814": error(
        "the file is not in the standard form",
        "`nldsl fmt --check` changes nothing; `nldsl fmt FILE` writes the standard form.",
    ),
    "NL815": error(
        "which rule?",
        "The file has several rules that could be meant; name one with `--rule`.",
    ),
    "NL816": error(
        "no small sizes to verify at",
        "`nldsl verify` runs a block at small sizes. It found none at which all of its parameters fit together; "
        "give those it needs with `-D name=value`.",
    ),
    "NL817": error(
        "no such property",
        "`nldsl verify --property NAME` asks only for the properties named; they are listed.",
    ),
    "NL821": error(
        "a pre-trained file that cannot be read",
        "`pretrained(FILE, TENSOR)` reads a safetensors file when a module is built. Its name is relative to the folder of the"
        " `.nl` text. A checkpoint of another kind is made one by `safetensors.torch.save_file(state_dict, FILE)`.",
    ),
    "NL822": error(
        "no such pre-trained tensor",
        "The file has no tensor of that name, nor with `.weight` behind it. Of a network each param is a tensor of its own:"
        " PREFIX.PARAM, or what `PARAM = TENSOR` says.",
    ),
    "NL823": error(
        "a pre-trained tensor that does not fit",
        "The tensor has another shape than the param, or is not made of floating-point numbers. An operator n -> m is [m, n],"
        " as the weight of a `torch.nn.Linear`; what stands in an `each` has the copies first.",
    ),
    "NL899": error(
        "an internal error",
        "A mistake of nldsl itself, not of your file. Please report it with the file and the output of "
        "NLDSL_DEBUG=1.",
    ),
}
