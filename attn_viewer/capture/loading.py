"""Models and tokenizers from a hub name, a folder, a GGUF file, or the package itself."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..capture_options import LoadingOptions
from ..declarations import takes_options
from ..errors import ModelLoadError, OptionError, shorten
from ..files import describe_place, expand_home
from ..options import FilePath

# The trained models of this package; the first is taken where none is named.
DEMO_MODELS = ("demo", "demo-vision")
ADAPTER_CONFIG = "adapter_config.json"
# Packages of the extra `models`, which only some checkpoints need, and what they are imported as.
_EXTRAS = {"accelerate": "accelerate", "gguf": "gguf", "sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
# What neither attention nor an answer depends on: poolers, unless they have layers, and what stands for masked tokens.
_SPARE = re.compile(r"(?!.*\.\d+\.).*(pooler|mask_token|masked_spec_embed)")
_log = logging.getLogger(__name__)


def get_demo_path(name: str = DEMO_MODELS[0]) -> Path:
    """Return the folder of a trained model inside this package, in Hugging Face format."""
    return Path(str(files("attn_viewer") / name.replace("-", "_")))


@takes_options(LoadingOptions)
def load_model(model_path: FilePath | None = None, *, options: LoadingOptions) -> tuple[Any, Any]:
    """Load a model and its tokenizer, or processor where it takes more than text.

    Parameters
    ----------
    model_path
        Hub name (``org/name``), folder, ``.gguf`` file, or a model of this package: ``"demo"``, which is taken where
        this is left out, or ``"demo-vision"``, which sees. Also the folder of an adapter (PEFT), which names the model
        that it belongs to.
    **options
        As `LoadingOptions` declares them.

    Returns
    -------
    model : transformers.PreTrainedModel
        In eval mode, inside of a `peft.PeftModel` where the folder is an adapter's. Quantised checkpoints load as
        transformers loads them.
    tokenizer : transformers.PreTrainedTokenizerBase or transformers.ProcessorMixin
        Its tokenizer; of a model that also takes images or sound its processor, if that is there.

    Raises
    ------
    ModelLoadError
        If there is no such model or it cannot be loaded.
    """
    adapter = _find_adapter(model_path)
    if adapter is not None:
        return _put_adapter(*load_model(_read_base(adapter), options=options), adapter, options.progress)
    where, arguments = _locate(model_path)
    name = str(DEMO_MODELS[0] if model_path is None else model_path)
    if options.revision is not None and os.path.isdir(where):
        raise OptionError(f"revision is for models of the hub, and {name!r} is on disk; leave it out")
    import transformers

    arguments |= {"revision": options.revision or "main", "trust_remote_code": options.trust_remote_code}
    chosen = {"device_map": options.device_map, "attn_implementation": options.attn_implementation}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    with _report_loading(repr(name), options.progress):
        config = transformers.AutoConfig.from_pretrained(where, **arguments)
        # A GGUF file names no architecture; what it holds is a language model.
        is_unnamed = not getattr(config, "architectures", None) and "gguf_file" in arguments
        kind = "AutoModelForCausalLM" if is_unnamed else choose_class(config)
        tokenizer = _load_tokenizer(where, arguments, may_see=kind.endswith("ForConditionalGeneration"))
        model = _load_weights(getattr(transformers, kind), where, dtype=options.dtype, **arguments, **chosen)
    return model.eval(), tokenizer


def _load_weights(loader: Any, where: str, **arguments: Any) -> Any:
    """Return a model, or raise where it has parameters that the checkpoint lacks: they hold random numbers.

    Only what neither attention nor an answer depends on may be random.
    """
    model, found = loader.from_pretrained(where, output_loading_info=True, **arguments)
    own = {name for name, _ in model.named_parameters() if not _SPARE.match(name)}
    if missing := sorted(own.intersection(found["missing_keys"])):
        raise ValueError(
            f"{len(missing):,} of its parameters are not in the checkpoint and would be random numbers "
            f"({missing[0]}, …); give the config.json and the weights of one model"
        )
    return model


def _load_tokenizer(where: str, arguments: dict[str, Any], *, may_see: bool) -> Any:
    """Return the processor of a model that may take more than text, or else the tokenizer."""
    import transformers

    if may_see:
        try:
            return transformers.AutoProcessor.from_pretrained(where, **arguments)
        except (OSError, ImportError) as error:  # a file or package is missing that text alone does not need
            _log.warning("no processor of images or sound, text alone: %s", _explain(error))
    return transformers.AutoTokenizer.from_pretrained(where, **arguments)


def _find_adapter(model_path: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of an adapter; None where the path is something else."""
    folder = None if model_path is None else expand_home(model_path)
    if folder is None or describe_place(folder / "config.json") != "does not exist":
        return None
    return folder if describe_place(folder / ADAPTER_CONFIG) == "is a file" else None


def _read_base(adapter: Path) -> str:
    """Return the path or hub name of the model that an adapter belongs to."""
    try:
        base = json.loads((adapter / ADAPTER_CONFIG).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelLoadError(f"adapter {str(adapter)!r} does not say to which model it belongs: {error}") from error
    if not isinstance(base, str) or not base:
        raise ModelLoadError(f"adapter {str(adapter)!r} does not say to which model it belongs, but {base!r:.80}")
    beside = adapter / base
    if describe_place(beside) == "is a folder" != describe_place(base):
        base = str(beside)
    if _find_adapter(base) is not None:
        raise ModelLoadError(f"adapter {str(adapter)!r} belongs to {base!r}, which is an adapter too; merge that one")
    return base


def _put_adapter(model: Any, tokenizer: Any, adapter: Path, progress: bool | None) -> tuple[Any, Any]:
    """Put an adapter into its model, which has as many words as the adapter was trained on."""
    try:
        import peft
        import transformers
    except ImportError as error:
        raise ModelLoadError(
            f"{str(adapter)!r} is an adapter, which peft loads: pip install 'attn-viewer[adapters]'"
        ) from error
    with _report_loading(f"adapter {str(adapter)!r}", progress), warnings.catch_warnings():
        # One that lacks some of its parameters leaves their layers as they were.
        warnings.filterwarnings("error", "Found missing adapter keys")
        if describe_place(adapter / "tokenizer_config.json") == "is a file":
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(adapter))
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(tokenizer))
        return peft.PeftModel.from_pretrained(model, str(adapter)).eval(), tokenizer


def load_image_model(model_path: FilePath, *, progress: bool | None = None) -> tuple[Any, Any]:
    """Load a vision encoder and the processor that makes its pixel values.

    Parameters
    ----------
    model_path
        Hub name or folder; of a model of images and texts (CLIP, SigLIP) its vision tower is taken.
    progress
        Whether transformers may show bars and remarks; left out, only when stderr is a terminal.

    Returns
    -------
    model : transformers.PreTrainedModel
        In eval mode.
    processor : transformers image processor
        Its processor.

    Raises
    ------
    ModelLoadError
        If there is no such model or it cannot be loaded.
    """
    where, arguments = _locate(model_path)
    import transformers

    with _report_loading(f"vision model {str(model_path)!r}", progress):
        processor = transformers.AutoImageProcessor.from_pretrained(where, **arguments)
        model = _load_weights(transformers.AutoModel, where, **arguments)
    return getattr(model, "vision_model", model).eval(), processor


def _explain(error: Exception) -> str:
    """Say in a line why loading failed, and what to install where a package of the extra ``models`` is missing."""
    text = str(error)
    reason = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    missing = [name for name, module in _EXTRAS.items() if name in text.lower() and not _can_import(module)]
    return f"{reason} ({' and '.join(missing)} missing: pip install 'attn-viewer[models]')" if missing else reason


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _locate(model_path: FilePath | None) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` takes for a path: the folder or name, and arguments for a GGUF file."""
    if model_path is None or model_path in DEMO_MODELS:
        return str(get_demo_path(str(model_path or DEMO_MODELS[0]))), {}
    path = expand_home(model_path)
    if path.suffix == ".gguf":
        if (what := describe_place(path)) != "is a file":
            raise ModelLoadError(f"GGUF file {shorten(str(model_path))} {what}; check the path")
        return str(path.parent), {"gguf_file": path.name}
    what = describe_place(path)
    if what == "is a folder":
        if describe_place(path / "config.json") != "is a file":
            raise ModelLoadError(
                f"folder {shorten(str(model_path))} holds no model: config.json is missing; give the folder that "
                "save_pretrained wrote, or a .gguf file"
            )
        return str(path), {}
    is_hub_name = 0 <= str(model_path).count("/") <= 1 and str(model_path)[:1] not in (".", "/", "~", "")
    if what != "does not exist" or not is_hub_name:
        raise ModelLoadError(
            f"{shorten(str(model_path))} {what}; give a model folder, a .gguf file or a hub name 'org/name'"
        )
    return str(model_path), {}


@contextlib.contextmanager
def _report_loading(what: str, progress: bool | None) -> Iterator[None]:
    """Turn what the block raises into one error; keep transformers' bars and remarks off stderr unless wanted."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    is_quiet = not (sys.stderr.isatty() if progress is None else progress)
    # The bar over the tensors of a GGUF file listens to neither setting.
    stderr = contextlib.redirect_stderr(io.StringIO()) if is_quiet else contextlib.nullcontext()
    if is_quiet:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        with stderr:
            yield
    except Exception as error:  # from_pretrained raises OSError, ValueError, ImportError, KeyError, RuntimeError, …
        raise ModelLoadError(f"cannot load {what}: {_explain(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def choose_class(config: Any) -> str:
    """Return the name of the class of transformers that loads a checkpoint as what it was trained to be."""
    import transformers

    architecture: str = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "AutoModelForCausalLM"
    # No Auto class knows all of these: they write text after text, images, sound or several. A class of that name may
    # also come with the checkpoint.
    if not architecture.endswith("ForConditionalGeneration"):
        return "AutoModel"
    if getattr(getattr(transformers, architecture, None), "config_class", None) is type(config):
        return architecture
    return "AutoModelForSeq2SeqLM" if getattr(config, "is_encoder_decoder", False) else "AutoModel"
