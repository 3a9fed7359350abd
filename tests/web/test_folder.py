import os

import numpy as np
import pytest
from data_folder import write_model

from attn_viewer.errors import ActivationsMissingError, GetActivationsError
from attn_viewer.web.listing import Listing, open_figure


def damage(folder, demo_maps, write):
    tokens = list(demo_maps.tokens_key)
    place = write_model(folder, "m", 4, 8, [{"text": "t", "tokens": tokens}])[0]
    write(place / "activations.npz")
    return Listing(folder).get_prompt("m", place.name)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, **{"blocks.0.attn.hook_pattern": np.array([{"a": 1}], object)}),
        lambda path: np.savez(path, **{"blocks.0.attn.hook_pattern": np.zeros((1, 8, 4))}),
        lambda path: np.savez(path, **{"blocks.0.attn.hook_pattern": np.zeros((1, 8, 3, 3))}),
        lambda path: np.savez(path, other=np.zeros(3)),
    ],
)
def test_damaged_weights_are_told(tmp_path, demo_maps, write):
    prompt = damage(tmp_path, demo_maps, write)
    with pytest.raises(GetActivationsError) as caught, prompt.open_maps():
        pass
    assert str(tmp_path) not in str(caught.value)


def test_true_numbers_of_heads_are_kept(tmp_path, demo_maps):
    few = demo_maps.select(layers=[1, 3], heads=[2, 5])
    facts = {"layers": [1, 3], "heads": [[2, 5], [2, 5]], "tokens_key": list(few.tokens_key), "causal": True}
    prompt = {"text": "t", "tokens": list(few.tokens_key), "attn_viewer": facts}
    place = write_model(tmp_path, "m", 4, 8, [prompt])[0]
    np.save(place / "activations-blocks.-.attn.hook_pattern.npy", np.stack(few.weights))
    with Listing(tmp_path).get_prompt("m", place.name).open_maps() as opened:
        assert opened.describe().heads == ((2, 5), (2, 5))
        np.testing.assert_array_equal(opened.read_head(3, 5).weights[0][0], demo_maps.get_layer(3)[5])
        with pytest.raises(ActivationsMissingError):
            opened.read_head(3, 4)


def test_figures_are_those_that_some_head_has_or_failed_to_get(tmp_path):
    (place,) = write_model(tmp_path / "data", "m", 2, 2, [{"text": "t", "tokens": ["a"]}])
    for path in (
        "L0/H1/f.error.txt",
        "L0/H1/g.error.txt",
        "L1/H0/g.one.svg",
        "L1/H1/h.png",
        "L1/H1/notes.txt",
        "x.png",
    ):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("TypeError: no\nmore")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").touch()
    (place / "L0" / "H0").symlink_to(outside)
    listing = Listing(tmp_path / "data")
    prompt = listing.get_prompt("m", place.name)
    assert listing.list_figures(prompt) == ["f", "g.one", "h"]
    for figure, words in (("f", "failed: TypeError: no"), ("g.one", "failed: TypeError: no"), ("h", "not made yet")):
        with pytest.raises(ActivationsMissingError) as caught:
            open_figure(prompt, 0, 1, figure)
        assert str(caught.value) == words
    with pytest.raises(ActivationsMissingError, match="there is no model 'other'"):
        listing.get_model("other")


def test_a_thousand_prompts_of_a_thousand_heads(tmp_path):
    prompts = [{"text": f"prompt {i:04}", "tokens": ["a"] * 4} for i in range(1000)]
    places = write_model(tmp_path, "big", 40, 25, prompts)
    weights = np.random.default_rng(0).random((40, 25, 4, 4), np.float32)
    weights /= weights.sum(-1, keepdims=True)
    for number, place in enumerate(places):
        if number == 0:
            np.save(place / "activations-blocks.-.attn.hook_pattern.npy", weights)
        else:
            os.link(
                places[0] / "activations-blocks.-.attn.hook_pattern.npy",
                place / "activations-blocks.-.attn.hook_pattern.npy",
            )
    listing = Listing(tmp_path)
    model = listing.folder.get_model("big")
    first = listing.read_prompts(model)
    assert len(first) == 1000
    assert listing.read_prompts(model) is first  # read once
    with listing.get_prompt("big", places[999].name).open_maps() as opened:
        np.testing.assert_array_equal(opened.read_head(39, 24).weights[0][0], weights[39, 24])
