"""The attention tools and experiments of Arrakis (``arrakis-mi``), all from this module, made to do what they say.

What differs: a model is any transformers model that runs, or a `HookedAutoConfig` of a small one of random weights;
`attention_patterns` gives the weights of a head on these ids, axes ``(n, n)``, not a softmax of its parameters;
`top_attended_ids` says for the last token; `ablate_head` and `merge_heads` hand out a context in which the model runs
without the head, or with one pattern for both, and change no parameter. Experiments are kept as
`attn_viewer.experiment` keeps them, a file a run, in place of the last run alone. Other tools of Arrakis are not here.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from ..analysis.patterns import attention_pattern, top_attended
from ..capture.prefill import capture_attention
from ..errors import OptionError
from ..experiments import experiment, list_experiments
from ..interventions.changed_heads import Intervention, ablate_heads, merge_heads

Ids = torch.Tensor
# Arrakis's words where transformers has others.
_MODEL_TYPES = {"gpt-neo": "gpt_neo", "gpt-neox": "gpt_neox", "stable-lm": "stablelm"}


def HookedAutoConfig(name: str, **facts: Any) -> transformers.PretrainedConfig:  # noqa: N802 - Arrakis's word
    """Make the configuration of a kind of model, such as ``"llama"``, whose sizes are `facts`."""
    return transformers.AutoConfig.for_model(_MODEL_TYPES.get(name, name), **facts)


def HookedAutoModel(config: transformers.PretrainedConfig) -> torch.nn.Module:  # noqa: N802 - Arrakis's word
    """Make a model of random weights."""
    model: torch.nn.Module = transformers.AutoModel.from_config(config).eval()
    return model


class AttentionTools:
    """What the heads of a model look at, and what it does without them; ids have axes ``(1, n)``."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def attention_patterns(self, input_ids: Ids, layer_idx: int, head_idx: int) -> torch.Tensor:
        """Return the weights of a head, axes ``(n_query, n_key)``."""
        return torch.tensor(attention_pattern(self._capture(input_ids, layer_idx), layer_idx, head_idx))

    def top_attended_ids(self, input_ids: Ids, layer_idx: int, head_idx: int, num_tokens: int = 2) -> list[Ids]:
        """Return the ids that the last token puts most weight on in a head, the heaviest first."""
        found = top_attended(self._capture(input_ids, layer_idx), layer_idx, head_idx, k=num_tokens)
        return [input_ids[0, token.position] for token in found]

    def ablate_head(self, layer_idx: int, head_idx: int) -> Intervention:
        """Return a context in which a head puts out nothing."""
        return ablate_heads(self.model, [(layer_idx, head_idx)])

    def merge_heads(self, layer_idx: int, head_idx1: int, head_idx2: int, alpha: float = 0.5) -> Intervention:
        """Return a context in which two heads attend with one pattern, `alpha` of it the first's."""
        return merge_heads(self.model, layer_idx, head_idx1, head_idx2, alpha)

    def _capture(self, input_ids: Ids, layer: int) -> Any:
        return capture_attention(self.model, None, input_ids, layers=[layer], reduction="full")


class BaseInterpretabilityBench:
    """Experiments on a model: functions that are given tools and leave records."""

    def __init__(self, model: torch.nn.Module, save_dir: str = "experiments") -> None:
        self.model, self.save_dir = model, save_dir
        self.tools: dict[str, Any] = {"attention": AttentionTools(model)}

    def use_tools(self, *tools: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a decorator that gives a function tools as arguments of their names."""
        if missing := [name for name in tools if name not in self.tools]:
            raise OptionError(
                f"there is no tool {missing[0]!r}; there are {', '.join(self.tools)}, and self.tools takes more"
            )

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs, **{name: self.tools[name] for name in tools})

            return run

        return decorate

    def log_experiment(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a function leave a record of each run; a decorator."""
        return experiment(self.save_dir)(function)

    def list_versions(self, experiment_name: str) -> list[str]:
        """Return the versions of an experiment's source that left records, the oldest run first."""
        return list(dict.fromkeys(record.version for record in list_experiments(self.save_dir, name=experiment_name)))

    def get_version(self, experiment_name: str, version_hash: str) -> Mapping[str, Any] | None:
        """Return what is known of the last run of a version: `source`, `result` and more; None if there is none."""
        records = list_experiments(self.save_dir, name=experiment_name)
        found = [record for record in records if record.version == version_hash]
        return vars(found[-1]) if found else None
