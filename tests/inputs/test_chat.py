import pytest
import torch
import transformers

from attn_viewer import capture_attention, capture_generation
from attn_viewer.errors import PromptError
from attn_viewer.inputs.chat import encode_chat, find_turns

USER = [{"role": "user", "content": "Name three fruits."}]
LONG = [*USER, {"role": "assistant", "content": "A fig."}, {"role": "user", "content": "More?"}]
TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ANSWER = "{% if add_generation_prompt %}assistant:{% endif %}"
ADDED = "{% if messages[0]['role'] != 'system' %}system: be kind\n{% endif %}"
# Of a processor: contents are lists, and text is not known.
PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}{{ '\n' }}{% endfor %}" + ANSWER
)
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate') }}{% endif %}{% endfor %}"
)


def read(tokenizer, messages, template):
    tokenizer.chat_template = template
    ids = encode_chat(tokenizer, messages)["input_ids"][0].tolist()
    turns = find_turns(tokenizer, messages, ids)
    return [(name, tokenizer.decode(ids[start:stop])) for name, start, stop in turns], tokenizer.decode(ids)


@pytest.fixture
def tokenizer(demo, monkeypatch):
    monkeypatch.setattr(demo[1], "chat_template", None)
    return demo[1]


@pytest.mark.parametrize("template", [ADDED + TURNS + ANSWER, ALTERNATE + ADDED + TURNS + ANSWER])
@pytest.mark.parametrize("begin", ["", "{{ bos_token }}"])
def test_a_system_turn_that_the_template_adds_is_the_systems(template, begin, tokenizer):
    turns, whole = read(tokenizer, USER, begin + template)
    assert [name for name, _ in turns] == ["system", "user", "assistant"]
    assert turns[0][1].removeprefix("<s>") == "system: be kind\n"
    assert turns[1][1] == "user: Name three fruits.\n"
    assert "".join(text for _, text in turns) == whole
    turns, _ = read(tokenizer, LONG, begin + template)
    assert [name for name, _ in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert turns[3][1] == "user: More?\n"


def test_a_system_turn_of_the_users_own_is_one(tokenizer):
    turns, _ = read(tokenizer, [{"role": "system", "content": "be brief"}, *USER], ADDED + TURNS + ANSWER)
    assert turns[0] == ("system", "system: be brief\n")
    assert [name for name, _ in turns] == ["system", "user", "assistant"]


def test_special_tokens_before_the_first_turn_are_nobodys(tokenizer):
    turns, _ = read(tokenizer, USER, "{{ bos_token }}" + TURNS + ANSWER)
    assert turns[0] == ("user", "user: Name three fruits.\n")


def test_a_template_that_rewrites_what_was_said_has_no_segments(tokenizer):
    last = "{% for m in messages %}{% if loop.last %}{{ m['role'] }}: {{ m['content'] }}\n{% endif %}{% endfor %}"
    assert read(tokenizer, LONG, last + ANSWER)[0] == []


@pytest.mark.parametrize("template", [TURNS + ANSWER, PARTS])
@pytest.mark.parametrize("form", ["text", "parts"])
def test_contents_are_text_or_parts_as_the_template_wants_them(template, form, tokenizer):
    messages = (
        USER if form == "text" else [{"role": "user", "content": [{"type": "text", "text": "Name three fruits."}]}]
    )
    turns, whole = read(tokenizer, messages, template)
    assert whole == "user: Name three fruits.\nassistant:"
    assert turns == [("user", "user: Name three fruits.\n"), ("assistant", "assistant:")]


def test_pictures_need_a_processor(tokenizer):
    tokenizer.chat_template = TURNS + ANSWER
    parts = [{"type": "image", "url": "there.png"}, {"type": "text", "text": "What is this?"}]
    with pytest.raises(PromptError, match="processor as tokenizer"):
        encode_chat(tokenizer, [{"role": "user", "content": parts}])


def test_messages_go_through_capture_and_generation(demo, tokenizer):
    tokenizer.chat_template = ADDED + TURNS + ANSWER
    maps = capture_attention(*demo, tuple(LONG), layers=[0])
    assert [name for name, *_ in maps.segments] == ["system", "user", "assistant", "user", "assistant"]
    said = capture_generation(*demo, LONG, max_new_tokens=3, layers=[0])
    assert said.segments[:-1] == maps.segments[:-1]
    assert said.segments[-1] == ("assistant", maps.segments[-1][1], len(said.tokens_key))
    own = capture_generation(*demo, LONG[:2], max_new_tokens=3, layers=[0])
    assert own.segments[-1] == ("assistant", own.segments[-1][1], len(own.tokens_key))


@pytest.mark.parametrize(
    "messages", [[{"role": "user"}], [*USER, "more"], [{"content": "x"}], [{"role": "user", "content": "x"}, 3]]
)
def test_what_is_no_message_is_refused(messages, demo, tokenizer):
    tokenizer.chat_template = TURNS
    with pytest.raises(PromptError):
        capture_attention(*demo, messages)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A small LLaVA, its processor, and a picture as a file."""
    from PIL import Image
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "<image>", "user", ":", "what", "is", "this", "?", "assistant"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    from transformers.models import clip

    # Without torchvision; before transformers 5, the plain name was that of this class.
    make_processor = getattr(clip, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    processor = transformers.LlavaProcessor(
        make_processor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        tokenizer,
        patch_size=6,
        vision_feature_select_strategy="default",
        chat_template=PARTS,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    vision = transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                           num_attention_heads=4, image_size=24, patch_size=6)  # fmt: skip
    text = transformers.LlamaConfig(vocab_size=10, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                                    num_attention_heads=4)  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=2,
                                      vision_feature_select_strategy="default", vision_feature_layer=-1)  # fmt: skip
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (24, 24), "red").save(path)
    torch.manual_seed(0)  # of ten words one is <image>, and no model may say that
    return transformers.LlavaForConditionalGeneration(config).eval(), processor, path


def test_a_processor_brings_the_picture_of_a_message_in(pictures):
    model, processor, path = pictures
    parts = [{"type": "image", "path": str(path)}, {"type": "text", "text": "what is this ?"}]
    messages = [{"role": "user", "content": parts}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert "pixel_values" in inputs
    maps = capture_attention(model, processor, messages)
    whole = capture_attention(model, processor, inputs)
    assert maps.tokens_key.count("<image>") == 16
    assert maps.tokens_key == whole.tokens_key
    for ours, theirs in zip(maps.weights, whole.weights, strict=True):
        assert (ours == theirs).all()
    assert [name for name, *_ in maps.segments] == ["user", "assistant"]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    for ours, theirs in zip(maps.weights, layers, strict=True):
        assert abs(ours - theirs[0].numpy()).max() < 1e-5
    said = capture_generation(model, processor, messages, max_new_tokens=2)
    assert said.prompt_length == len(maps.tokens_key)


def test_text_through_a_processor(pictures):
    model, processor, _ = pictures
    maps = capture_attention(model, processor, "what is this ?")
    assert maps.tokens_key == ("what", "is", "this", "?")
    with pytest.raises(PromptError, match="stands for image input"):
        capture_attention(model, processor.tokenizer, "<image> what is this ?")


def test_messages_of_text_go_through_a_processor_as_its_template_wants_them(pictures, monkeypatch):
    _, processor, _ = pictures
    monkeypatch.setattr(processor, "chat_template", PARTS)
    asked = [{"role": "user", "content": "what is this ?"}]
    seen = encode_chat(processor, asked)["input_ids"][0].tolist()
    assert (
        seen
        == encode_chat(processor, [{"role": "user", "content": [{"type": "text", "text": "what is this ?"}]}])[
            "input_ids"
        ][0].tolist()
    )
    # A list that the template would write as Python does is not given to it; processors of transformers 4 take no text.
    monkeypatch.setattr(processor, "chat_template", TURNS + ANSWER)
    if transformers.__version__ < "5":
        with pytest.raises(PromptError, match="refuses these messages"):
            encode_chat(processor, asked)
    else:
        assert encode_chat(processor, asked)["input_ids"][0].tolist() == seen
