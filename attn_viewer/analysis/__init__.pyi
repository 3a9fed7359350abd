"""Public names of this room, and the modules that they come from."""

from .modalities import measure_modality_share as measure_modality_share
from .patterns import attention_pattern as attention_pattern
from .repeats import repeated_tokens_prompt as repeated_tokens_prompt
from .rollout import compute_attention_flow as compute_attention_flow
from .similarity import measure_similarity as measure_similarity
from .sinks import (
    accumulate_columns as accumulate_columns,
    find_sinks as find_sinks,
    measure_sink_heads as measure_sink_heads,
)
from .spectra import compute_singular_values as compute_singular_values
from .table import HeadScores as HeadScores, average_scores as average_scores
