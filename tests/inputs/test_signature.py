import copy

import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import PROMPT
from small import make_bert

from attn_viewer import capture_attention, capture_generation
from attn_viewer.errors import CaptureError, OptionError
from attn_viewer.inputs.signature import find_inner, takes_argument


class Anything(torch.nn.Module):
    """Takes anything, as Lightning modules and many more do."""

    def __init__(self, inner):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Batch(Anything):
    """Takes keywords alone."""

    def forward(self, **batch):
        return self.inner(**batch)


class Features(Anything):
    """Takes one dictionary, as the modules of SentenceTransformer do."""

    def forward(self, features):
        return self.inner(**features)


class Bridge(Anything):
    """Takes tokens by another name, a mask beside them, as the bridges of TransformerLens do."""

    def forward(self, input, return_type="logits", attention_mask=None, **others):
        return self.inner(input, attention_mask=attention_mask, **others).logits


class Named(Anything):
    """Names what it takes."""

    def forward(self, input_ids, attention_mask=None):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


class Deep(Anything):
    """Has the model two floors down."""

    def __init__(self, inner):
        super().__init__(Anything(inner))


def with_adapter(model, **options):
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], **options)).eval()


WRAPPERS = {
    "anything": Anything,
    "batch": Batch,
    "features": Features,
    "bridge": Bridge,
    "named": Named,
    "deep": Deep,
    "DataParallel": torch.nn.DataParallel,
    "compiled": torch.compile,
    "adapter": with_adapter,
    "adapter of a language model": lambda model: with_adapter(model, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_gives_the_maps_of_the_model_inside(name, demo):
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(demo[0].name_or_path).eval(), demo[1]
    want = capture_attention(model, tokenizer, PROMPT)
    wrapper = WRAPPERS[name](model)
    maps = capture_attention(wrapper, tokenizer, PROMPT)
    np.testing.assert_array_equal(np.stack(maps.weights), np.stack(want.weights))
    assert (maps.tokens_key, maps.layers, maps.causal) == (want.tokens_key, want.layers, want.causal)
    assert maps.model_id == want.model_id
    said, expected = (capture_generation(m, tokenizer, PROMPT, max_new_tokens=3, layers=[1]) for m in (wrapper, model))
    assert said.ids_key == expected.ids_key


def test_an_adapter_that_changes_the_model_shows_in_the_map(demo):
    model = transformers.AutoModelForCausalLM.from_pretrained(demo[0].name_or_path).eval()
    wrapper = with_adapter(model)
    for name, part in wrapper.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, generator=torch.Generator().manual_seed(0))
    maps = capture_attention(wrapper, demo[1], PROMPT)
    wrapper.set_attn_implementation("eager")
    with torch.no_grad():
        layers = wrapper(**demo[1](PROMPT, return_tensors="pt"), output_attentions=True).attentions
    for ours, theirs in zip(maps.weights, layers, strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-5)
    assert np.abs(maps.weights[0] - capture_attention(*demo, PROMPT).weights[0]).max() > 0.01


def test_a_wrapper_that_says_something_else_does_not_generate(demo):
    class Loud(Anything):
        def forward(self, input_ids, **options):
            return self.inner(input_ids.flip(1), **options)

    with pytest.raises(OptionError, match="says other things"):
        capture_generation(Loud(demo[0]), demo[1], PROMPT, max_new_tokens=2)


def test_arguments_are_asked_of_the_model_inside():
    model, _ = make_bert()
    assert find_inner(Deep(model)) is model
    assert takes_argument(Deep(model), "token_type_ids")
    assert not takes_argument(Deep(model), "pixel_values")
    assert not takes_argument(Named(model), "token_type_ids")
    assert find_inner(torch.nn.Linear(2, 2)).in_features == 2


def test_a_module_that_takes_ids_and_nothing_else():
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(8, 4)

        def forward(self, x):
            vectors = self.table(x)[:, None]
            return torch.nn.functional.scaled_dot_product_attention(vectors, vectors, vectors)

    maps = capture_attention(Plain(), prompt=[1, 2, 3])
    np.testing.assert_allclose(maps.weights[0].sum(-1), 1, rtol=1e-5)
    assert maps.tokens_key == ("1", "2", "3")


def test_what_is_no_model_is_refused():
    for model in ("demo", None, 3):
        with pytest.raises(OptionError, match="must be a loaded model"):
            capture_attention(model, prompt=[1])


def test_of_two_models_in_one_neither_is_chosen(demo):
    model, tokenizer = demo

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = model, copy.deepcopy(model)

        def forward(self, input_ids):
            return self.teacher(input_ids).logits - self.student(input_ids).logits

    with pytest.raises(CaptureError, match=r"'teacher.*' and 'student.*' both attend over the prompt"):
        capture_attention(Two(), tokenizer, PROMPT)
