"""The commands of ``attn-viewer``: the module that each stands in, under its name, and its line in ``--help``."""

COMMANDS = {
    "view": ("drawing", "capture a prompt's attention and draw it"),
    "html": ("drawing", "capture a prompt's attention and write one interactive HTML file"),
    "overview": ("drawing", "draw all heads at once: thumbnails, last token's text, first-token sinks, similarity"),
    "overlay": ("drawing", "lay a vision model's attention over the image"),
    "heads": ("measuring", "score every head for a prompt"),
    "compare": ("measuring", "compare the attention of one prompt under two models, from two caches"),
    "ablate": ("measuring", "take heads out of a model and show what changes"),
    "completions": (
        "completing",
        "save completions of many prompts where the model is; render pages of them elsewhere, without it",
    ),
    "activations": ("folders", "compute and store the attention weights of many prompts"),
    "figures": ("folders", "draw figures of every head for the prompts of a data folder"),
    "atlas": ("folders", "average scores of heads over the prompts of a data folder, and draw them"),
    "serve": ("folders", "browse a data folder in a web browser, or type prompts for a model there"),
    "site": ("folders", "write the browser over a data folder as files for any web host"),
}
