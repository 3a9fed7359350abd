"""The commands of ``attn-viewer``, one module each.

A module here is a command of its name: `HELP` is its line in ``attn-viewer --help``, `add_arguments(parser)` declares
its words, `run(args)` does it and returns the exit status (None is 0). Importing one loads nothing heavy.
"""
