"""Tiny models of any type that transformers knows, from its default config made small, and what goes into them."""

import copy
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from architectures import ARCHITECTURES, ENCODER_DECODERS, REFUSED, SPEECH, VISION
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

Config = transformers.PretrainedConfig  # as 4.57 spells it, too
ModelClass = type[transformers.PreTrainedModel]

MODEL_TYPES = tuple(CONFIG_MAPPING_NAMES)
N_TOKENS, N_DECODER_TOKENS, N_WORDS = 12, 7, 80
MOST_PARAMETERS = 40_000_000
# Some models turn more dimensions of a head than a small one has.
HEAD_SIZES = (8, 64, 128)
# Heads over the same stack differ in what they make of its output, not in its attention.
_MAPPINGS = ("", "FOR_CAUSAL_LM", "FOR_MASKED_LM", "FOR_SEQ_TO_SEQ_CAUSAL_LM", "FOR_IMAGE_TEXT_TO_TEXT")

_HEAD, _WIDTH = "size of a head", "size of all heads"
# What a number of a config is made, by its name: the first pattern that fits the whole name counts.
_SMALL = (
    (r"image_size|input_size|pretrain_image_size|img_size", 32),
    (r"patch_size", 8),
    (r"spatial_merge_size|temporal_patch_size|tubelet_size|merge_size", 2),
    (r"num_channels|in_channels|in_chans|input_channels|audio_channels|type_vocab_size", None),
    (r".*codebook_size", 64),
    (r"(.*_)?vocab_size(_.*)?", 96),
    (r"num_key_value_heads|num_kv_heads|.*num_key_value_heads", 2),
    (r"(.*_)?attention_heads|num_heads|n_heads?|.*_num_heads|.*_n_heads|.*num_attention_heads", 4),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (r".*head_dim|d_kv|dim_head", _HEAD),
    (r"(num_)?hidden_layers|num_layers|n_layers?|.*_layers|depth|.*_depth|num_blocks|.*num_hidden_layers", 4),
    (r".*intermediate_size|.*ffn_dim|d_ff|.*ffn_hidden_size|n_inner|mlp_dim|dff|dim_ff|d_inner", 48),
    (r"qk_rope_head_dim|qk_nope_head_dim|v_head_dim", 8),
    (r"q_lora_rank|kv_lora_rank", 16),
    (r"n_routed_experts|num_experts|num_local_experts|moe_num_experts", 4),
    (r"num_experts_per_tok|moe_topk|moe_k|top_k", 2),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"max_position_embeddings|n_positions|.*max_.*positions|max_seq_len(gth)?|n_ctx|max_target_positions", 64),
    (r"sliding_window(_size)?|attention_window_size", 5),
    (r"window_size", 4),
    (r"mamba_n_heads", 4),
    (r".*(d_state|state_size|conv_kernel_dim)", 4),
    (r"num_mel_bins|feature_size|input_feat_per_channel", 16),
    (r"rotary_dim", 4),
    (r".*hidden_size(_.*)?|d_model|n_embd|(.*_)?dim|embedding_size|.*_size_per_layer_input", _WIDTH),
    (r"num_queries|num_query_tokens|num_latents|.*max_source_positions", 16),
)
_DERIVED = ("layer_types", "layers_block_type", "mlp_layer_types")  # configs make them anew for other depths
_TOKENS = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 2}


class NotBuiltError(Exception):
    """No config of ours makes a model of this type."""


class NotRunError(Exception):
    """A model takes none of the inputs that we make."""


def find_classes(model_type: str) -> list[ModelClass]:
    """Return the classes of models of a type that differ in how they run.

    Raises
    ------
    NotBuiltError
        If there is none, or none without further packages.
    """
    found: list[str] = []
    for name in _MAPPINGS:
        mapping = f"MODEL_{name}_MAPPING_NAMES".replace("__", "_")
        named = getattr(modeling_auto, mapping, {}).get(model_type, ())
        found += [named] if isinstance(named, str) else named[:1]
    try:
        if found:
            return [getattr(transformers, name) for name in dict.fromkeys(found)]
        config_class = transformers.CONFIG_MAPPING[model_type]
        file = importlib.import_module(config_class.__module__.replace("configuration_", "modeling_"))
    except (ImportError, AttributeError) as error:
        raise NotBuiltError(f"{type(error).__name__}: {error}") from error
    classes = [value for value in vars(file).values() if getattr(value, "config_class", None) is config_class]
    classes = [value for value in classes if inspect.isclass(value) and "forward" in vars(value)]
    if not classes:
        raise NotBuiltError("its config belongs to no model")
    return classes[:1]


def find_running(model_type: str, model_class: ModelClass) -> tuple[Config, dict[str, Any]]:
    """Return a config with which a model can be built, and inputs with which it runs.

    Raises
    ------
    NotBuiltError, NotRunError
        If there is none, and why the first did not do.
    """
    failures: list[Exception] = []
    for make in _make_configs(model_type, model_class):
        try:
            config = make()
            model = build_model(model_class, config, "eager")
        except Exception as error:
            failures.append(NotBuiltError(f"{type(error).__name__}: {error}"))
            continue
        try:
            return config, _find_inputs(model)
        except NotRunError as error:
            failures.append(error)
    raise next((failure for failure in failures if isinstance(failure, NotRunError)), failures[0])


def _make_configs(model_type: str, model_class: ModelClass) -> Iterator[Callable[[], Config]]:
    """Yield what makes configs of a type, the smallest first; the table's, if it has one, last."""
    for head_dim in HEAD_SIZES:
        yield lambda head_dim=head_dim: make_config(model_class.config_class, head_dim)
    for table in (ARCHITECTURES, ENCODER_DECODERS, VISION, SPEECH, REFUSED):
        if model_type in table:
            yield lambda table=table: model_class.config_class(**table[model_type][1])


def make_config(config_class: type[Config], head_dim: int) -> Config:
    """Return a config with every number that makes a model large made small, four heads of this size for a start."""
    default = config_class()
    changes: dict[str, Any] = {}
    for i, (name, value) in enumerate(vars(default).items()):
        if isinstance(value, Config):
            changes[name] = make_config(type(value), head_dim)
        elif name == "head_dim":
            changes[name] = head_dim
        elif isinstance(value, int) and not isinstance(value, bool):
            changes[name] = _make_small(name, value, i, head_dim)
        elif re.fullmatch(r"(.*_)?depths", name):
            changes[name] = [2] * len(value)
    changes = {name: value for name, value in changes.items() if value is not None}
    if "num_key_value_heads" in changes and default.num_key_value_heads == getattr(default, "num_attention_heads", 0):
        changes["num_key_value_heads"] = changes["num_attention_heads"]
    depth, old_depth = changes.get("num_hidden_layers"), getattr(default, "num_hidden_layers", None)
    for name, value in vars(default).items():
        is_by_layer = depth and isinstance(value, (list, tuple)) and len(value) == old_depth
        if is_by_layer and name not in _DERIVED and name in inspect.signature(config_class).parameters:
            changes[name] = list(value[:depth])
    return config_class(**changes)


def _make_small(name: str, value: int, i: int, head_dim: int) -> int | None:
    token = re.fullmatch(r"(.*)_token(_id|_index)?", name)
    if token:
        return _TOKENS.get(token[1], N_WORDS + i % 16)
    for pattern, small in _SMALL:
        if re.fullmatch(pattern, name):
            small = {_WIDTH: 4 * head_dim, _HEAD: head_dim}.get(small, small)
            return None if small is None else min(value, small) if value > 0 else value
    return None


def build_model(model_class: ModelClass, config: Config, implementation: str | None = None) -> Any:
    """Return a model in eval mode with weights spread so wide that its attention is far from uniform."""
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class._from_config(copy.deepcopy(config)).parameters())
    if size > MOST_PARAMETERS:
        raise MemoryError(f"{size:,} parameters")
    options = {} if implementation is None else {"attn_implementation": implementation}
    torch.manual_seed(0)
    model = model_class._from_config(copy.deepcopy(config), **options).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                spread = min(0.2, 1.1 * parameter[0].numel() ** -0.5)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            elif name.endswith(("sinks", "sink")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def _find_inputs(model: Any) -> dict[str, Any]:
    """Return the first of the inputs that we can make with which a model runs."""
    failures: list[str] = []
    for inputs in make_inputs(model):
        failure = _find_failure(model, inputs)
        if failure is None:
            return inputs
        failures.append(failure)
    raise NotRunError(failures[0] if failures else f"it wants {model.main_input_name} and more")


def _find_failure(model: Any, inputs: dict[str, Any]) -> str | None:
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _get_number(config: Config, *names: str, default: int) -> int:
    """Return the first number of these names in a config or in the parts that see or hear."""
    parts = [config, *(getattr(config, f"{part}_config", None) for part in ("vision", "audio", "encoder", "backbone"))]
    values = (getattr(part, name, None) for part in parts for name in names)
    values = (value[0] if isinstance(value, (list, tuple)) and value else value for value in values)
    return next((value for value in values if isinstance(value, int) and value > 0), default)


def _make_pixels(config: Config) -> Iterator[tuple[int, ...]]:
    size = _get_number(config, "image_size", "img_size", "pretrain_image_size", default=32)
    channels = _get_number(config, "num_channels", "in_channels", "in_chans", default=3)
    patch, frames = (
        _get_number(config, "patch_size", default=8),
        _get_number(config, "num_frames", "frames_per_clip", default=2),
    )
    temporal = _get_number(config, "temporal_patch_size", default=1)
    yield channels, size, size
    yield frames, channels, size, size
    yield 1, channels, size, size
    yield 16, channels * patch * patch
    yield 16, channels * patch * patch * temporal
    yield channels, 64, 64


def _make_sound(config: Config) -> Iterator[tuple[int, ...]]:
    bins = _get_number(
        config, "num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "input_dim", default=16
    )
    longest = _get_number(config, "max_source_positions", default=16)
    yield bins, 2 * longest
    yield 2 * longest, bins
    yield bins, 3000
    yield 64, bins
    yield 64, 160


def make_inputs(model: Any) -> Iterator[dict[str, Any]]:
    """Yield what the model may take, the likeliest first: what it must have, and what goes in first."""
    config = model.config
    parameters = inspect.signature(model.forward).parameters
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    main = model.main_input_name
    wanted = list(dict.fromkeys([*([main] if isinstance(main, str) else main), *needed]))
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        wanted.append("decoder_input_ids")
    if "use_cache" in parameters:
        wanted.append("use_cache")
    # Models of two towers want both inputs, which their signatures do not say.
    others = [n for n in ("pixel_values", "input_features", "bbox") if n in parameters and n not in wanted]
    for names in (wanted, [*wanted, *others[:1]])[: 1 + bool(others)]:
        for attempt in range(6):
            generator = torch.Generator().manual_seed(2)
            made = {name: list(_make(name, config, generator)) for name in names}
            if all(made.values()):
                yield {name: values[min(attempt, len(values) - 1)] for name, values in made.items()}


def _make(name: str, config: Config, generator: torch.Generator) -> Iterator[Any]:
    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    width = _get_number(config, "hidden_size", "d_model", "embed_dim", default=32)
    patch = _get_number(config, "patch_size", default=8) ** 2 * _get_number(
        config, "num_channels", "in_channels", default=3
    )
    if name == "use_cache":
        yield False
    elif name == "decoder_input_ids":
        yield torch.randint(3, N_WORDS, (1, N_DECODER_TOKENS), generator=generator)
    elif name.endswith("input_ids"):
        yield torch.randint(3, N_WORDS, (1, N_TOKENS), generator=generator)
    elif name in ("pixel_values", "pixel_values_videos", "prompt_pixel_values"):
        yield from (normal(shape) for shape in _make_pixels(config))
    elif name == "hidden_states":
        temporal = _get_number(config, "temporal_patch_size", default=1)
        yield from (normal(shape)[0] for shape in ((16, patch * temporal), (16, patch), (16, width)))
        yield normal((16, width))
    elif name in ("grid_thw", "image_grid_thw"):
        yield torch.tensor([[1, 4, 4]])
    elif name in ("input_features", "audio_mel"):
        yield from (normal(shape) for shape in _make_sound(config))
    elif name == "input_values":
        yield normal((4000,))
        yield normal((1, 4000))
        yield normal((64, _get_number(config, "num_mel_bins", default=16)))
    elif name == "past_values":
        yield normal(
            (_get_number(config, "context_length", default=32), _get_number(config, "num_input_channels", default=1))
        )
    elif name == "bbox":
        yield torch.randint(0, 9, (1, N_TOKENS, 4), generator=generator).sort(-1).values
    elif name.endswith("_mask"):
        yield torch.ones(1, 64, dtype=torch.bool)
    elif name == "flattened_patches":
        yield normal((16, patch + 2)).abs()
    elif name in ("inputs_embeds", "query_embeds", "patch_embeds"):
        yield normal((N_TOKENS, width))
