"""A model is left as it was found, whoever interrupts a capture and whoever else runs the model."""

import contextlib
import copy
import pickle
import sys
import threading

import numpy as np
import pytest
import torch
import transformers
from architectures import build_model, make_ids
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attn_viewer import ablate_heads, capture_attention, capture_attention_calls, capture_generation
from attn_viewer.capture.guard import Loan, Switch, Watch, borrow_model
from attn_viewer.errors import CaptureError


def describe(model):
    """Return all that a capture might leave behind, in the model, the thread and the process."""
    modules = [
        (name, module.training, sorted(vars(module)), [len(table) for table in list_tables(module)])
        for name, module in model.named_modules()
    ]
    config = type(model.config), model.config._attn_implementation
    return modules, config, torch.is_grad_enabled(), torch.overrides._len_torch_function_stack()


def list_tables(module):
    return [table for name, table in vars(module).items() if name.startswith("_forward_")]


class Interruption:
    """Raises a KeyboardInterrupt at the given line that runs, counted over all code or a file; counts them with none.

    While transformers makes a mask it waits: an interrupt in the vmap and the mode there leaves torch itself unusable.
    """

    def __init__(self, at=None, file=""):
        self.at, self.count, self.file = at, 0, file

    def __enter__(self):
        self.before = sys.gettrace()  # of what measures coverage
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error):
        sys.settrace(self.before)

    def _trace(self, frame, event, argument):
        self.count += event == "line" and frame.f_code.co_filename.endswith(self.file)
        if self.at is not None and self.count >= self.at and not self._makes_mask(frame):
            self.at = None
            raise KeyboardInterrupt
        return self._trace

    def _makes_mask(self, frame):
        while frame is not None and "masking_utils" not in frame.f_code.co_filename:
            frame = frame.f_back
        return frame is not None


WAYS = {
    "sdpa": lambda model, ids: capture_attention(model, prompt=ids),
    "eager": lambda model, ids: capture_attention(model, prompt=ids),
    "flash_attention_2": lambda model, ids: capture_attention(model, prompt=ids, layers=[1], reduction="head_mean"),
    "value_norm": lambda model, ids: capture_attention(model, prompt=ids, weighting="value_norm"),
    "steps": lambda model, ids: capture_generation(model, None, ids, max_new_tokens=3, when="steps"),
    "ablated": lambda model, ids: capture_ablated(model, ids),
}


def capture_ablated(model, ids):
    with ablate_heads(model, [(1, 2)]):
        return capture_attention(model, prompt=ids)


N_INTERRUPTS = 6  # a way


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_at_any_line_leaves_the_model_as_it_was(way):
    model, ids = build_model("llama"), make_ids(4)
    model.config._attn_implementation_internal = way if way in ("eager", "flash_attention_2") else "sdpa"
    model.model.layers[1].train()
    capture = WAYS[way]
    expected, before = capture(model, ids), describe(model)
    with Interruption() as counted:
        capture(model, ids)
    rng = np.random.default_rng(len(way))
    for at in rng.integers(1, counted.count, N_INTERRUPTS):
        try:
            with Interruption(at):
                capture(model, ids)
        except KeyboardInterrupt:
            pass
        assert describe(model) == before, at
        again = capture(model, ids)
        assert again.interventions == expected.interventions
        assert all(np.array_equal(a, b) for a, b in zip(again.weights, expected.weights, strict=True)), at


def test_a_watch_below_another_is_taken_off_alone():
    """An interrupt may put the watch of an intervention above that of the capture in its block."""
    below, above, last = Watch(), Watch(), Watch()
    for watch in (below, above, last):
        watch.put_on()
    seen = []
    above.handlers[torch.neg] = lambda tensor: seen.append("above") or torch.neg(tensor)
    last.handlers[torch.neg] = lambda tensor: seen.append("last") or torch.neg(tensor)
    below.take_off()
    below.take_off()
    torch.neg(torch.ones(1))
    assert (seen, torch.overrides._len_torch_function_stack()) == (["last", "above"], 2)
    above.take_off()
    last.take_off()
    assert torch.overrides._len_torch_function_stack() == 0


# Python says, and passes over, what is raised while something is deleted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("file", ["inputs/limits.py", "utils/hooks.py", "capture/guard.py", "contextlib.py"])
def test_an_interrupt_while_hooks_and_blocks_end_leaves_the_model_as_it_was(file):
    model, ids, capture = build_model("llama"), make_ids(4), WAYS["sdpa"]
    capture(model, ids)
    before = describe(model)
    with Interruption(file=file) as counted:
        capture(model, ids)
    for at in np.linspace(1, counted.count, min(counted.count, 20)).astype(int):
        with contextlib.suppress(KeyboardInterrupt), Interruption(at, file):
            capture(model, ids)
        assert describe(model) == before, at


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("other", ["forward", "ablate", "attentions"])
def test_another_thread_neither_sees_nor_disturbs_a_capture(implementation, other):
    if other == "attentions" and implementation == "eager" and transformers.__version__ < "5":
        pytest.skip("transformers 4 collects attentions of all threads in one place")
    model, ids = build_model("llama", attn_implementation=implementation), make_ids()
    inputs = torch.tensor([make_ids(7)])

    def work():
        with torch.no_grad():
            if other == "ablate":
                with ablate_heads(model, [(0, 1)]):
                    return [model(inputs, use_cache=False).logits]
            is_asked = other == "attentions" and implementation == "eager"
            output = model(inputs, use_cache=False, output_attentions=is_asked)
            return [output.logits, *(output.attentions or ())]

    expected, alone, came, raised = capture_attention(model, prompt=ids), work(), [], []
    stop = threading.Event()

    def serve():
        try:
            while not stop.is_set():
                came.append(all(map(torch.equal, work(), alone)))
        except Exception as error:
            # Torch reads its stance, which a capture changes for all threads, several times to act once; masks of
            # transformers 4 have it read in every pass.
            if transformers.__version__ >= "5" or "torch.compile stance" not in str(error):
                raised.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        captured = [capture_attention(model, prompt=ids) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not raised
    assert came
    assert all(came)
    for maps in captured:
        assert maps.interventions == ()
        assert all(np.array_equal(a, b) for a, b in zip(maps.weights, expected.weights, strict=True))


def test_hooks_that_others_add_meanwhile_stay():
    model = build_model("llama")
    with borrow_model(model) as loan:
        loan.add_hook(model.model.register_forward_hook, lambda *_: None, with_kwargs=True, always_call=True)
        handle = model.model.register_forward_hook(lambda *_: None)
    assert list(model.model._forward_hooks) == [handle.id]
    assert [len(table) for table in list_tables(model.model)].count(1) == 1


def test_another_thread_reads_the_attention_that_the_model_has():
    model, read = build_model("llama"), []
    kind = type(model.config)
    model.config._attn_implementation_internal = "flash_attention_2"

    def look():
        config = model.config
        copies = copy.deepcopy(config), pickle.loads(pickle.dumps(config))
        read.append((config._attn_implementation, isinstance(config, kind), [type(each) for each in copies]))

    with borrow_model(model):
        assert model.config._attn_implementation == "sdpa"
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        with ablate_heads(model, [(0, 0)]):
            assert model.config._attn_implementation == "sdpa"
    assert read == [("flash_attention_2", True, [kind, kind])]
    assert type(model.config) is kind
    assert model.config._attn_implementation == "flash_attention_2"


def test_a_loan_undoes_the_rest_when_it_was_interrupted():
    undone = []

    def fail():
        if not undone:
            undone.append("interrupted")
            raise KeyboardInterrupt
        undone.append("last")

    try:
        with Loan() as loan:
            loan.note(lambda: undone.append("first"))
            loan.note(fail)
    except KeyboardInterrupt:
        pass
    del loan
    assert undone == ["interrupted", "last", "first"]


def test_a_switch_is_turned_back_by_the_last_who_wanted_it():
    changes = []
    switch = Switch(lambda: changes.append("on") or (lambda: changes.append("off")))
    with Loan() as first:
        with Loan() as second:
            switch.turn(first)
            switch.turn(second)
        assert changes == ["on"]
    assert changes == ["on", "off"]


def test_parts_of_a_model_are_borrowed_once():
    model = build_model("llama")
    with borrow_model(model.model), pytest.raises(CaptureError, match="being captured already"):
        capture_attention(model, prompt=make_ids())
    assert len(capture_attention(model, prompt=make_ids()).layers) == 3


def forward_scaled(module, query, key, value, mask, **options):
    return sdpa_attention_forward(module, query, key, value, mask, **(options | {"scaling": 0.01}))


def forward_written(module, query, key, value, mask, scaling=None, **options):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * 0.01
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


def forward_hidden(module, query, key, value, mask, **options):
    return query.transpose(1, 2).contiguous() * 0.5, None


@pytest.fixture
def registry():
    """Register attention functions until the test ends."""
    functions = transformers.AttentionInterface._global_mapping
    before = dict(functions)
    yield transformers.AttentionInterface.register
    functions.clear()
    functions.update(before)


# Under a name of its own, and under one that transformers has.
@pytest.mark.parametrize("name", ["mine", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("function", [forward_scaled, forward_written])
def test_a_registered_function_is_run_and_seen_as_it_is(registry, name, function):
    registry(name, function)
    model, ids = build_model("llama"), make_ids()
    model.config._attn_implementation_internal = name
    with torch.no_grad():
        expected = model(torch.tensor([ids]), use_cache=False).logits
    outputs = []
    model.register_forward_hook(lambda module, args, output: outputs.append(output.logits))
    maps = capture_attention(model, prompt=ids)
    assert torch.equal(outputs[0], expected)
    plain = build_model("llama")
    for layer in plain.model.layers:
        layer.self_attn.scaling = 0.01
    for ours, theirs in zip(maps.weights, capture_attention(plain, prompt=ids).weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_registered_function_that_shows_nothing_is_refused_by_name(registry):
    registry("mine", forward_hidden)
    model = build_model("llama")
    model.config._attn_implementation_internal = "mine"
    with pytest.raises(CaptureError, match=r"runs 'mine'.*set_attn_implementation\('sdpa'\)"):
        capture_attention(model, prompt=make_ids())
    model.config._attn_implementation_internal = "flash_attention_2"
    registry("sdpa", forward_scaled)
    with pytest.raises(CaptureError, match="registered here"):
        capture_attention(model, prompt=make_ids())


class Pruning(torch.nn.Module):
    """Drops the tokens that the layer before it attends to least, as FastV does."""

    def __init__(self, layer, weights):
        super().__init__()
        self.layer, self.weights = layer, weights

    def forward(self, hidden, **options):
        rank = self.weights[-1].mean(1)[:, -1].argsort(descending=True)
        hidden = hidden.clone()
        hidden[:, rank[0, hidden.shape[1] // 2 :]] = 0
        return self.layer(hidden, **options)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_model_that_prunes_by_its_weights_puts_out_what_it_does(name):
    model, weights = build_model(name, attn_implementation="eager"), []
    layers = model.model.layers
    layers[0].self_attn.register_forward_hook(lambda module, args, output: weights.append(output[1]))
    layers[1] = Pruning(layers[1], weights)
    for attribute in ("attention_type", "is_sliding"):
        if hasattr(layers[1].layer, attribute):
            setattr(layers[1], attribute, getattr(layers[1].layer, attribute))
    ids, outputs = torch.tensor([make_ids()]), []
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    model.register_forward_hook(lambda module, args, output: outputs.append(output.logits))
    maps = capture_attention(model, prompt=ids[0].tolist())
    assert torch.equal(outputs[0], expected)
    assert torch.equal(weights[0], weights[1])
    np.testing.assert_array_equal(maps.weights[0], weights[1][0])
    assert maps.layers == (0, 1, 2)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "xlnet"])
def test_a_caller_who_asks_for_weights_gets_them(name):
    model, outputs = build_model(name, attn_implementation="eager"), []
    ids = torch.tensor([make_ids()])
    with torch.no_grad():
        expected = model(ids, output_attentions=True).attentions
    maps = capture_attention_calls(lambda: outputs.append(model(ids, output_attentions=True)), model=model)
    assert all(map(torch.equal, outputs[0].attentions, expected))
    assert sum(len(each.layers) for each in maps.values()) == len(expected)
