"""A transformers model under the names of TransformerLens that this package uses."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ...capture.prefill import capture_attention, get_model_id
from ...pipeline.activations import load_model, name_model
from ...storage.arrays import KEY


class HookedTransformer:
    """A model and its tokenizer; the model stays as it is."""

    def __init__(self, model: Any, tokenizer: Any, model_name: str | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.cfg = SimpleNamespace(model_name=model_name or get_model_id(model))

    @classmethod
    def from_pretrained(cls, model_name: str, device: Any = None) -> "HookedTransformer":
        """Load a model by hub name, folder or GGUF file; ``"demo"`` is the one of Attention Viewer."""
        return cls(*load_model(model_name, None if device is None else str(device)), name_model(model_name))

    def to_tokens(self, text: str) -> Any:
        """Return token ids, axes ``(1, n_ctx)``."""
        return self.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]

    def run_with_cache(
        self, texts: str | Sequence[str], names_filter: Callable[[str], bool] | None = None, **settings: Any
    ) -> tuple[None, dict[str, Any]]:
        """Return None and the weights under TransformerLens's names, axes ``(batch, n_heads, n_ctx, n_ctx)``.

        Each text runs alone; what shorter ones lack is 0.
        """
        import torch

        texts = [texts] if isinstance(texts, str) else texts
        captured = [capture_attention(self.model, self.tokenizer, text, reduction="full") for text in texts]
        longest = max(maps.weights[0].shape[-1] for maps in captured)
        cache = {}
        for i, layer in enumerate(captured[0].layers):
            name = KEY.format(layer)
            if names_filter is None or names_filter(name):
                pads = [longest - maps.weights[i].shape[-1] for maps in captured]
                weights = [torch.tensor(maps.weights[i]) for maps in captured]
                padded = [torch.nn.functional.pad(w, (0, n, 0, n)) for w, n in zip(weights, pads, strict=True)]
                cache[name] = torch.stack(padded)
        return None, cache
