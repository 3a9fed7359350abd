"""Small random models that see or hear, with the real processors of their families."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from attn_viewer.inputs.signature import find_decoder

WORDS = ["<pad>", "<s>", "</s>", "what", "is", "this", "?", "\n", *map(str, range(10))]
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 96}
# Rotary positions of time, height and width.
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}


class Family(NamedTuple):
    """A model, its processor, and a picture that its processor leaves as it is.

    `tiles` are those that the picture (height, width) is cut into.
    """

    model: Any
    processor: Any
    image_token: str
    size: tuple[int, int]
    tiles: tuple[int, int] = (1, 1)

    def encode(self, *images: Any) -> dict[str, Any]:
        text = f"<s> what {' is '.join([self.image_token] * len(images))} is this ?"
        return dict(self.processor(text=[text], images=list(images), return_tensors="pt"))


def make_tokenizer(*special: str, **named: str) -> Any:
    """Return a tokenizer of a few words, and of special ones, some of which processors ask for by name."""
    words = list(dict.fromkeys([*WORDS, *special, *named.values()]))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=named
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [word for word in words if word[0] == "<" or word in special]}
    )
    return tokenizer


def make_image_processor(name: str, **options: Any) -> Any:
    """Return an image processor that runs on Pillow: called so from transformers 5 on, the plain one before."""
    module = importlib.import_module(f"transformers.models.{name}")
    names = [one for one in dir(module) if one.endswith(("ImageProcessorPil", "ImageProcessor"))]
    return getattr(module, max(names, key=lambda one: one.endswith("Pil")))(**options)


def make_processor(name: str, kind: str, *parts: Any, **options: Any) -> Any:
    """Return a processor without what it would read videos with, which asks for torchvision."""
    found = getattr(importlib.import_module(f"transformers.models.{name}.processing_{name}"), kind)
    made = type(kind, (found,), {"check_argument_for_proper_class": lambda self, name, part: type(part)})
    return made(*parts, **options)


def build(kind: str, **config: Any) -> Any:
    torch.manual_seed(0)
    config_class = getattr(transformers, f"{kind}Config")
    model_class = getattr(transformers, f"{kind}ForConditionalGeneration")
    return make_local(model_class(config_class(**config)).eval())


def make_local(model: Any) -> Any:
    """Let every patch say what lies on it alone: attention of towers adds nothing."""
    language = find_decoder(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
        for module in set(model.modules()) - set(language.modules()):
            if "attention" in type(module).__name__.lower():
                for name, part in module.named_modules():
                    if isinstance(part, torch.nn.Linear) and not any(word in name for word in ("q", "k", "v")):
                        part.weight.zero_()
    return model


def make_clip(size: int, patch: int = 6) -> Any:
    return transformers.CLIPVisionConfig(**SMALL, image_size=size, patch_size=patch)


def make_siglip(size: int, patch: int = 6) -> Any:
    return transformers.SiglipVisionConfig(**SMALL, image_size=size, patch_size=patch)


def make_llava(strategy: str = "default") -> Family:
    tokenizer = make_tokenizer(image_token="<image>")
    token = tokenizer.convert_tokens_to_ids("<image>")
    pixels = make_image_processor("clip", size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor = transformers.LlavaProcessor(
        pixels, tokenizer, patch_size=6, vision_feature_select_strategy=strategy, num_additional_image_tokens=1
    )
    model = build("Llava", vision_config=make_clip(24), text_config=transformers.LlamaConfig(**TEXT),
                  image_token_index=token, vision_feature_layer=-1,
                  vision_feature_select_strategy=strategy)  # fmt: skip
    return Family(model, processor, "<image>", (24, 24))


def make_llava_next() -> Family:
    tokenizer = make_tokenizer(image_token="<image>")
    pinpoints = [[24, 48], [48, 24], [48, 48]]
    pixels = make_image_processor("llava_next", size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24},
                                  image_grid_pinpoints=pinpoints)  # fmt: skip
    processor = transformers.LlavaNextProcessor(
        pixels, tokenizer, patch_size=6, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    model = build("LlavaNext", vision_config=make_clip(24), text_config=transformers.LlamaConfig(**TEXT),
                  image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pinpoints,
                  vision_feature_layer=-1)  # fmt: skip
    return Family(model, processor, "<image>", (36, 48))


def make_llava_onevision() -> Family:
    tokenizer = make_tokenizer(image_token="<image>", video_token="<video>")
    pinpoints = [[24, 48], [48, 24], [48, 48], [72, 48]]
    pixels = make_image_processor("llava_onevision", size={"height": 24, "width": 24}, image_grid_pinpoints=pinpoints)
    processor = make_processor(
        "llava_onevision",
        "LlavaOnevisionProcessor",
        pixels,
        tokenizer,
        None,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    model = build("LlavaOnevision", vision_config=make_siglip(24), text_config=transformers.Qwen2Config(**TEXT),
                  image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pinpoints,
                  video_token_index=tokenizer.convert_tokens_to_ids("<video>"), vision_feature_layer=-1,
                  vision_feature_select_strategy="full")  # fmt: skip
    return Family(model, processor, "<image>", (72, 36))


def make_qwen(kind: str) -> Family:
    tokenizer = make_tokenizer(
        "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    patch = 6
    pixels = make_image_processor("qwen2_vl", patch_size=patch, merge_size=2, temporal_patch_size=2,
                                  size={"shortest_edge": 144, "longest_edge": 10**6})  # fmt: skip
    ids = {f"{one}_token_id": tokenizer.convert_tokens_to_ids(f"<|{one}|>") for one in ("vision_start", "vision_end")}
    ids |= {f"{one}_token_id": tokenizer.convert_tokens_to_ids(f"<|{one}_pad|>") for one in ("image", "video")}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 32, "patch_size": patch,
              "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}  # fmt: skip
    text = {**TEXT, **MROPE, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    if kind == "Qwen2VL":
        vision |= {"embed_dim": 32, "mlp_ratio": 1}
    elif kind == "Qwen2_5_VL":
        vision |= {"out_hidden_size": 32, "window_size": 24, "fullatt_block_indexes": [1]}
    else:
        vision |= {"out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": []}
        text |= {"head_dim": 8}
        text["rope_scaling"] = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    name = "qwen3_vl" if kind == "Qwen3VL" else "qwen2_vl"
    processor = make_processor(name, f"{kind[:5]}VLProcessor", pixels, tokenizer, None)
    return Family(build(kind, vision_config=vision, text_config=text, **ids), processor, "<|image_pad|>", (48, 72))


class SimpleProcessor:
    """Writes placeholders as the real processor of a family does, which asks for torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, token: str, lay_out: Callable[[Any], list[str]]) -> None:
        self.image_processor, self.tokenizer, self.token, self.lay_out = image_processor, tokenizer, token, lay_out

    def __call__(self, text: list[str], images: list[Any], **options: Any) -> dict[str, Any]:
        made = self.image_processor(images=images, **options)
        first, *rest = text[0].split(self.token)
        whole = first + "".join(f"{one} {part}" for one, part in zip(self.lay_out(made), rest, strict=True))
        return {**self.tokenizer(" ".join(whole.split()), return_tensors="pt"), **made}


def make_gemma3() -> Family:
    tokenizer = make_tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    pixels = make_image_processor("gemma3", size={"height": 48, "width": 48})
    processor = transformers.Gemma3Processor(pixels, tokenizer, image_seq_length=16)
    text = transformers.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=64)
    ids = {
        f"{one}_token_index": tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{one}_token"))
        for one in ("boi", "eoi", "image")
    }
    model = build("Gemma3", vision_config=make_siglip(48), text_config=text, mm_tokens_per_image=16, **ids)
    return Family(model, processor, "<start_of_image>", (48, 48))


def make_paligemma() -> Family:
    tokenizer = make_tokenizer(image_token="<image>")
    pixels = make_image_processor("siglip", size={"height": 24, "width": 24})
    pixels.image_seq_length = 16
    processor = make_processor("paligemma", "PaliGemmaProcessor", pixels, tokenizer)
    text = transformers.GemmaConfig(**TEXT, head_dim=8)
    model = build("PaliGemma", vision_config=make_siglip(24), text_config=text, projection_dim=32,
                  image_token_index=tokenizer.convert_tokens_to_ids("<image>"))  # fmt: skip
    return Family(model, processor, "<image>", (24, 24))


def make_internvl() -> Family:
    tokenizer = make_tokenizer(
        start_image_token="<img>", end_image_token="</img>", video_token="<video>", context_image_token="<IMG_CONTEXT>"
    )
    pixels = make_image_processor(
        "got_ocr2", size={"height": 24, "width": 24}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    processor = make_processor("internvl", "InternVLProcessor", pixels, tokenizer, None, image_seq_length=4)
    vision = transformers.InternVLVisionConfig(**SMALL, image_size=[24, 24], patch_size=[6, 6])
    model = build("InternVL", vision_config=vision, text_config=transformers.Qwen2Config(**TEXT), downsample_ratio=0.5,
                  image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4)  # fmt: skip
    return Family(model, processor, "<IMG_CONTEXT>", (48, 72), (2, 3))


def make_idefics3(kind: str) -> Family:
    rows = [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]
    tokenizer = make_tokenizer(
        *rows,
        "\n",
        "\n\n",
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    pixels = make_image_processor(kind.lower(), size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    # SmolVLM's own, which lays pictures out alike, asks for num2words.
    processor = make_processor("idefics3", "Idefics3Processor", pixels, tokenizer, image_seq_len=4)
    vision = getattr(transformers, f"{kind}VisionConfig")(**SMALL, image_size=24, patch_size=6)
    model = build(kind, vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), scale_factor=2,
                  image_token_id=tokenizer.convert_tokens_to_ids("<image>"))  # fmt: skip
    return Family(model, processor, "<image>", (24, 48), (1, 2))


def make_llama4() -> Family:
    names = ("image", "image_start", "image_end", "patch", "tile_x_separator", "tile_y_separator")
    tokenizer = make_tokenizer(*(f"<|{name}|>" for name in names))
    pixels = make_image_processor(
        "got_ocr2", size={"height": 24, "width": 24}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    vision = transformers.Llama4VisionConfig(
        **{**SMALL, "intermediate_size": 128},
        image_size=24,
        patch_size=6,
        pixel_shuffle_ratio=0.5,
        vision_output_dim=32,
        projector_input_dim=32,
        projector_output_dim=32,
    )
    text = transformers.Llama4TextConfig(
        **TEXT, head_dim=8, intermediate_size_mlp=32, num_local_experts=2, attention_chunk_size=512
    )
    model = build(
        "Llama4", vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>")
    )

    def lay_out(made: Any) -> list[str]:
        made.pop("num_patches")
        tile = " ".join(["<|patch|>"] * 4)
        line = f"{tile} <|tile_y_separator|> "
        return [f"<|image_start|> {line * 2} <|image|> {tile} <|image_end|>"]  # two tiles, one above the other

    def add_missing(module: Any, args: Any, output: Any) -> None:
        output.image_outputs = None  # transformers 5.24 looks for it here, and fails at every picture

    model.language_model.register_forward_hook(add_missing)
    return Family(model, SimpleProcessor(pixels, tokenizer, "<|image|>", lay_out), "<|image|>", (48, 24), (2, 1))


def make_pixtral(kind: str) -> Family:
    tokenizer = make_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    merge = 2 if kind == "Mistral3" else 1
    pixels = make_image_processor("pixtral", size={"longest_edge": 96}, patch_size=6 * merge)
    patch = 6 * merge

    def lay_out(made: Any) -> list[str]:
        """Write what `PixtralProcessor` does, which asks for torchvision."""
        rows = (
            " [IMG_BREAK] ".join([" ".join(["[IMG]"] * (w // patch))] * (h // patch)) for h, w in made["image_sizes"]
        )
        return [f"{row} [IMG_END]" for row in rows]

    processor = SimpleProcessor(pixels, tokenizer, "[IMG]", lay_out)
    vision = transformers.PixtralVisionConfig(**SMALL, image_size=96, patch_size=6, head_dim=8)
    more = {"spatial_merge_size": 2} if merge == 2 else {"vision_feature_select_strategy": "full"}
    model = build(kind, vision_config=vision, text_config=transformers.MistralConfig(**TEXT, head_dim=8), **more,
                  image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), vision_feature_layer=-1)  # fmt: skip
    return Family(model, processor, "[IMG]", (24, 48))


def make_kimi() -> Family:
    tokenizer = make_tokenizer(image_token="<|media_pad|>", video_token="<|video_pad|>")
    pixels = make_image_processor(
        "qwen2_vl",
        patch_size=6,
        merge_size=2,
        temporal_patch_size=1,
        size={"shortest_edge": 144, "longest_edge": 10**6},
    )
    vision = {"patch_size": 6, "pos_emb_height": 16, "pos_emb_width": 16, **SMALL}

    def lay_out(made: Any) -> list[str]:
        (_, down, across), *_ = made["image_grid_thw"].tolist()  # one picture; its patches row by row, not by squares
        patches = made["pixel_values"].unflatten(0, (down // 2, across // 2, 2, 2)).transpose(1, 2).flatten(0, 3)
        made["pixel_values"] = patches.unflatten(-1, (3, 6, 6))
        return [" ".join(["<|media_pad|>"] * (grid.prod() // 4)) for grid in made["image_grid_thw"]]

    processor = SimpleProcessor(pixels, tokenizer, "<|media_pad|>", lay_out)
    text = transformers.DeepseekV3Config(
        **{**TEXT, "num_key_value_heads": 4},
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        moe_intermediate_size=32,
        first_k_dense_replace=2,
    )
    model = build(
        "Kimi_K25",
        vision_config=vision,
        projection_hidden_size=32,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<|media_pad|>"),
    )
    return Family(model, processor, "<|media_pad|>", (48, 72))


def make_deepseek() -> Family:
    tokenizer = make_tokenizer(image_token="<image_placeholder>")
    pixels = make_image_processor("siglip", size={"height": 24, "width": 24})
    processor = transformers.DeepseekVLProcessor(pixels, tokenizer, num_image_tokens=16)
    model = build(
        "DeepseekVL",
        vision_config=make_siglip(24),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    return Family(model, processor, "<image_placeholder>", (24, 24))


MLLAMA_TILES = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


def make_mllama_processor() -> Any:
    tokenizer = make_tokenizer("<|begin_of_text|>", image_token="<|image|>")
    pixels = make_image_processor("mllama", size={"height": 24, "width": 24}, max_image_tiles=4)
    return transformers.MllamaProcessor(pixels, tokenizer)


def make_mllama() -> Family:
    processor = make_mllama_processor()
    tokenizer = processor.tokenizer
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "attention_heads": 4,
        "num_global_layers": 1,
        "image_size": 24,
        "patch_size": 6,
        "max_num_tiles": 4,
        "intermediate_layers_indices": [1],
        "vision_output_dim": 64,
        "supported_aspect_ratios": MLLAMA_TILES,
    }
    text = TEXT | {"num_hidden_layers": 3, "cross_attention_layers": [1], "rope_scaling": {"rope_type": "default"}}
    model = build(
        "Mllama", vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<|image|>")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.ndim == 1:
                parameter.fill_(0.5 if "language" in name else 0)
    return Family(model, processor, "<|image|>", (48, 24), (2, 1))


FAMILIES: dict[str, Callable[[], Family]] = {
    "llava": make_llava,
    "llava, class token kept": functools.partial(make_llava, "full"),
    "llava_next": make_llava_next,
    "llava_onevision": make_llava_onevision,
    "qwen2_vl": functools.partial(make_qwen, "Qwen2VL"),
    "qwen2_5_vl": functools.partial(make_qwen, "Qwen2_5_VL"),
    "qwen3_vl": functools.partial(make_qwen, "Qwen3VL"),
    "gemma3": make_gemma3,
    "paligemma": make_paligemma,
    "internvl": make_internvl,
    "idefics3": functools.partial(make_idefics3, "Idefics3"),
    "smolvlm": functools.partial(make_idefics3, "SmolVLM"),
    "llama4": make_llama4,
    "pixtral": functools.partial(make_pixtral, "Llava"),
    "mistral3": functools.partial(make_pixtral, "Mistral3"),
    "kimi_k25": make_kimi,
    "deepseek_vl": make_deepseek,
    "mllama": make_mllama,
}
