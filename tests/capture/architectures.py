"""Tiny random-weight models of many architectures, built with the transformers version at hand.

A row is a model type: the class of the model and the arguments of its config. Arguments that a config does not
know are kept by it as plain attributes, so that rows can share them, and can name one thing as each version calls it.
"""

import pytest
import torch
import transformers

N_TOKENS = 12
_FUSED = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SMALL = _FUSED | {"head_dim": 8}
_GROUPED = _SMALL | {"num_key_value_heads": 2}
_WINDOW = {"sliding_window": 5}
_EXPERTS = _GROUPED | {
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 2,
    "num_local_experts": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
}
# Multi-head latent attention: more values a head in queries and keys than in values.
_LATENT = _EXPERTS | {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
_DELTA = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_DECODER = _SMALL | {"decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}

# Decoders and encoders of text. model type: (model class, config arguments)
ARCHITECTURES = {
    "afmoe": ("AfmoeForCausalLM", _EXPERTS | _WINDOW),
    "albert": ("AlbertForMaskedLM", _SMALL | {"embedding_size": 32}),
    "apertus": ("ApertusForCausalLM", _GROUPED),
    "arcee": ("ArceeForCausalLM", _GROUPED),
    "aria_text": ("AriaTextForCausalLM", _SMALL),
    "axk1": ("AXK1ForCausalLM", _LATENT),
    "axk2": ("AXK2ForCausalLM", _LATENT),
    "bailing_hybrid": (
        "BailingHybridForCausalLM",
        _LATENT
        | {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
        },
    ),
    "bamba": (
        "BambaForCausalLM",
        _GROUPED | _DELTA | {"mamba_d_state": 8, "mamba_n_heads": 4, "attn_layer_indices": [1, 3]},
    ),
    "bart": ("BartForCausalLM", _DECODER),
    "beam": ("BeamForCausalLM", _GROUPED | _WINDOW),
    "bert": ("BertLMHeadModel", _SMALL),
    "bert (decoder)": ("BertLMHeadModel", _SMALL | {"is_decoder": True}),
    "bert-generation": ("BertGenerationDecoder", _SMALL),
    "big_bird": ("BigBirdForCausalLM", _SMALL | {"attention_type": "original_full"}),
    "bigbird_pegasus": ("BigBirdPegasusForCausalLM", _DECODER),
    "biogpt": ("BioGptForCausalLM", _SMALL),
    "bitnet": ("BitNetForCausalLM", _GROUPED),
    "blenderbot": ("BlenderbotForCausalLM", _DECODER),
    "blenderbot-small": ("BlenderbotSmallForCausalLM", _DECODER),
    "bloom": ("BloomForCausalLM", _SMALL),
    "camembert": ("CamembertForCausalLM", _SMALL),
    "codegen": ("CodeGenForCausalLM", _SMALL | {"rotary_dim": 4}),
    "cohere": ("CohereForCausalLM", _SMALL),
    "cohere2": ("Cohere2ForCausalLM", _SMALL | _WINDOW),
    "cohere2_moe": ("Cohere2MoeForCausalLM", _EXPERTS | _WINDOW),
    "convbert": ("ConvBertForMaskedLM", _SMALL | {"embedding_size": 32}),
    "ctrl": ("CTRLLMHeadModel", _SMALL | {"dff": 48}),
    "cwm": ("CwmForCausalLM", _GROUPED | _WINDOW),
    "data2vec-text": ("Data2VecTextForCausalLM", _SMALL),
    "dbrx": (
        "DbrxForCausalLM",
        _SMALL
        | {
            "d_model": 32,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 2, "moe_top_k": 1},
        },
    ),
    "deberta": ("DebertaForMaskedLM", _SMALL),
    "deberta-v2": ("DebertaV2ForMaskedLM", _SMALL),
    "deepseek_v2": ("DeepseekV2ForCausalLM", _LATENT),
    "deepseek_v3": ("DeepseekV3ForCausalLM", _LATENT),
    "deepseek_v32": ("DeepseekV32ForCausalLM", _LATENT),
    "deepseek_v4": ("DeepseekV4ForCausalLM", _LATENT),
    "diffllama": ("DiffLlamaForCausalLM", _SMALL),
    "distilbert": ("DistilBertForMaskedLM", _SMALL | {"hidden_dim": 48}),
    "doge": ("DogeForCausalLM", _SMALL),
    "dots1": ("Dots1ForCausalLM", _EXPERTS | _WINDOW | {"n_shared_experts": 1}),
    "electra": ("ElectraForCausalLM", _SMALL | {"embedding_size": 32}),
    "ernie": ("ErnieForCausalLM", _SMALL),
    "ernie4_5": ("Ernie4_5ForCausalLM", _SMALL),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", _EXPERTS),
    "esm": ("EsmForMaskedLM", _SMALL),
    "esmc": ("EsmcForMaskedLM", _SMALL),
    "eurobert": ("EuroBertForMaskedLM", _SMALL),
    "exaone4": ("Exaone4ForCausalLM", _GROUPED | _WINDOW),
    "exaone_moe": ("ExaoneMoeForCausalLM", _EXPERTS | _WINDOW),
    "falcon": ("FalconForCausalLM", _FUSED),
    "falcon (grouped)": ("FalconForCausalLM", _FUSED | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_h1": ("FalconH1ForCausalLM", _GROUPED | {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_ssm": 64}),
    "flaubert": ("FlaubertWithLMHeadModel", _SMALL),
    "flex_olmo": ("FlexOlmoForCausalLM", _EXPERTS),
    "flint": ("FlintForCausalLM", _EXPERTS | _WINDOW),
    "gemma": ("GemmaForCausalLM", _GROUPED),
    "gemma2": ("Gemma2ForCausalLM", _GROUPED | _WINDOW | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3ForCausalLM", _SMALL | _WINDOW),
    "gemma3n_text": (
        "Gemma3nForCausalLM",
        _SMALL
        | _WINDOW
        | {
            "vocab_size_per_layer_input": 96,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gemma4_text": (
        "Gemma4ForCausalLM",
        _SMALL | _WINDOW | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96, "global_head_dim": 8},
    ),
    "gemma4_unified_text": ("Gemma4UnifiedForCausalLM", _GROUPED | _WINDOW),
    "glm": ("GlmForCausalLM", _SMALL),
    "glm4": ("Glm4ForCausalLM", _SMALL),
    "glm4_moe": ("Glm4MoeForCausalLM", _EXPERTS),
    "glm4_moe_lite": ("Glm4MoeLiteForCausalLM", _LATENT),
    "glm_moe_dsa": ("GlmMoeDsaForCausalLM", _LATENT),
    "gpt2": ("GPT2LMHeadModel", _SMALL),
    "gpt2 (reordered)": ("GPT2LMHeadModel", _SMALL | {"reorder_and_upcast_attn": True}),
    "gpt2 (scaled by layer)": ("GPT2LMHeadModel", _SMALL | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _SMALL),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        _FUSED | {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local"], 1], [["global"], 1]]},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _SMALL),
    "gpt_neox_japanese": ("GPTNeoXJapaneseForCausalLM", _SMALL),
    "gpt_oss": ("GptOssForCausalLM", _EXPERTS | _WINDOW),
    "gptj": ("GPTJForCausalLM", _SMALL | {"rotary_dim": 4}),
    "granite": ("GraniteForCausalLM", _SMALL),
    "granite_swa": ("GraniteSWAForCausalLM", _SMALL | _WINDOW),
    "granitemoe": ("GraniteMoeForCausalLM", _EXPERTS),
    "granitemoe_swa": ("GraniteMoeSWAForCausalLM", _EXPERTS | _WINDOW),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        _EXPERTS
        | _DELTA
        | {"mamba_d_state": 8, "mamba_n_heads": 4, "layer_types": ["mamba", "attention", "mamba", "attention"]},
    ),
    "granitemoeshared": ("GraniteMoeSharedForCausalLM", _EXPERTS),
    "gte": ("GteForMaskedLM", _SMALL),
    "helium": ("HeliumForCausalLM", _GROUPED),
    "hunyuan_v1_dense": ("HunYuanDenseV1ForCausalLM", _SMALL),
    "hunyuan_v1_moe": ("HunYuanMoEV1ForCausalLM", _SMALL),
    "hy_v3": ("HYV3ForCausalLM", _EXPERTS),
    "hy_v4": ("HYV4ForCausalLM", _LATENT),
    "hyperclovax": ("HyperCLOVAXForCausalLM", _SMALL),
    "ibert": ("IBertForMaskedLM", _SMALL),
    "inkling2_text": ("Inkling2ForCausalLM", _EXPERTS),
    "inkling_text": ("InklingForCausalLM", _EXPERTS),
    "jais2": ("Jais2ForCausalLM", _GROUPED),
    "jamba": (
        "JambaForCausalLM",
        _EXPERTS
        | _DELTA
        | {"mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    "jetmoe": ("JetMoeForCausalLM", _EXPERTS | {"kv_channels": 8, "num_experts_per_tok": 2}),
    "jina_embeddings_v3": ("JinaEmbeddingsV3ForMaskedLM", _SMALL),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        _LATENT
        | {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
        },
    ),
    "kolibri1": ("Kolibri1ForCausalLM", _EXPERTS | _WINDOW),
    "laguna": ("LagunaForCausalLM", _EXPERTS | _WINDOW),
    "layoutlm": ("LayoutLMForMaskedLM", _SMALL),
    "lfm2": ("Lfm2ForCausalLM", _GROUPED),
    "lfm2_moe": ("Lfm2MoeForCausalLM", _EXPERTS | {"layer_types": ["conv", "full_attention", "full_attention"]}),
    "lfm3": ("Lfm3ForCausalLM", _SMALL | _WINDOW),
    "llama": ("LlamaForCausalLM", _SMALL),
    "llama4_text": ("Llama4ForCausalLM", _EXPERTS),
    "longcat_flash": (
        "LongcatFlashForCausalLM",
        _LATENT
        | {
            "num_hidden_layers": 4,
            "num_layers": 2,
            "ffn_hidden_size": 48,
            "expert_ffn_hidden_size": 16,
            "n_routed_experts": 4,
            "zero_expert_num": 1,
            "num_experts_per_tok": 2,
            "moe_topk": 2,
        },
    ),
    "luke": ("LukeForMaskedLM", _SMALL | {"entity_vocab_size": 10, "entity_emb_size": 8}),
    "marian": ("MarianForCausalLM", _DECODER),
    "mbart": ("MBartForCausalLM", _DECODER),
    "megatron-bert": ("MegatronBertForCausalLM", _SMALL),
    "mellum": ("MellumForCausalLM", _EXPERTS | _WINDOW),
    "mimo_v2_flash": ("MiMoV2FlashForCausalLM", _EXPERTS | _WINDOW | {"v_head_dim": 8}),
    "minicpm3": ("MiniCPM3ForCausalLM", _LATENT),
    "minimax": ("MiniMaxForCausalLM", _GROUPED),
    "minimax_m2": ("MiniMaxM2ForCausalLM", _EXPERTS),
    "minimax_m3_vl_text": ("MiniMaxM3VLForCausalLM", _EXPERTS),
    "ministral": ("MinistralForCausalLM", _GROUPED | _WINDOW),
    "ministral3": ("Ministral3ForCausalLM", _GROUPED | _WINDOW),
    "mistral": ("MistralForCausalLM", _GROUPED | _WINDOW),
    "mixtral": ("MixtralForCausalLM", _EXPERTS | _WINDOW),
    "mobilebert": ("MobileBertForMaskedLM", _SMALL | {"embedding_size": 16}),
    "modernbert": ("ModernBertForMaskedLM", _SMALL),
    "modernbert-decoder": ("ModernBertDecoderForCausalLM", _SMALL),
    "moshi": ("MoshiForCausalLM", _GROUPED | _WINDOW | {"ffn_dim": 48}),
    "mpnet": ("MPNetForMaskedLM", _SMALL),
    "mpt": ("MptForCausalLM", _SMALL),
    "mvp": ("MvpForCausalLM", _DECODER),
    "nanochat": ("NanoChatForCausalLM", _GROUPED),
    "nemotron": ("NemotronForCausalLM", _GROUPED),
    "nemotron_h": ("NemotronHForCausalLM", _EXPERTS),
    "neomme": ("NeoMMEForMaskedLM", _SMALL | {"head_dim": 16}),
    "nomic_bert": ("NomicBertForMaskedLM", _SMALL),
    "nystromformer": ("NystromformerForMaskedLM", _SMALL),
    "olmo": ("OlmoForCausalLM", _SMALL),
    "olmo2": ("Olmo2ForCausalLM", _SMALL),
    "olmo3": ("Olmo3ForCausalLM", _SMALL | _WINDOW),
    "olmo_hybrid": ("OlmoHybridForCausalLM", _SMALL | {"linear_value_head_dim": 8}),
    "olmoe": ("OlmoeForCausalLM", _EXPERTS),
    "openai-gpt": ("OpenAIGPTLMHeadModel", _SMALL),
    "opt": ("OPTForCausalLM", _SMALL | {"ffn_dim": 48}),
    "pegasus": ("PegasusForCausalLM", _DECODER),
    "persimmon": ("PersimmonForCausalLM", _SMALL),
    "phi": ("PhiForCausalLM", _GROUPED),
    "phi3": ("Phi3ForCausalLM", _SMALL | _WINDOW),
    "phimoe": ("PhimoeForCausalLM", _EXPERTS | _WINDOW),
    "plbart": ("PLBartForCausalLM", _DECODER),
    "prophetnet": (
        "ProphetNetForCausalLM",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "num_decoder_layers": 3,
            "num_decoder_attention_heads": 4,
            "decoder_ffn_dim": 48,
        },
    ),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _EXPERTS),
    "qwen3": ("Qwen3ForCausalLM", _GROUPED),
    "qwen3_5_moe_text": ("Qwen3_5MoeForCausalLM", _EXPERTS | _DELTA),
    "qwen3_5_text": ("Qwen3_5ForCausalLM", _GROUPED | _DELTA),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _EXPERTS),
    "qwen3_next": ("Qwen3NextForCausalLM", _EXPERTS | _DELTA),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", _SMALL),
    "rembert": ("RemBertForCausalLM", _SMALL),
    "roberta": ("RobertaForCausalLM", _SMALL),
    "roberta-prelayernorm": ("RobertaPreLayerNormForCausalLM", _SMALL),
    "roc_bert": ("RoCBertForCausalLM", _SMALL | {"pronunciation_vocab_size": 96, "shape_vocab_size": 96}),
    "roformer": ("RoFormerForCausalLM", _SMALL),
    "seed_oss": ("SeedOssForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", _SMALL),
    "solar_open": ("SolarOpenForCausalLM", _EXPERTS),
    "stablelm": ("StableLmForCausalLM", _GROUPED),
    "starcoder2": ("Starcoder2ForCausalLM", _SMALL | _WINDOW),
    "tapas": ("TapasForMaskedLM", _SMALL),
    "trocr": ("TrOCRForCausalLM", _DECODER),
    "ultrabert": ("UltrabertForMaskedLM", _SMALL | _WINDOW),
    "vaultgemma": ("VaultGemmaForCausalLM", _SMALL | _WINDOW | {"attn_logit_softcapping": 2.0}),
    "whisper": ("WhisperForCausalLM", _DECODER),
    "xglm": (
        "XGLMForCausalLM",
        {"vocab_size": 96, "d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48},
    ),
    "xlm": ("XLMWithLMHeadModel", _SMALL),
    "xlm-roberta": ("XLMRobertaForCausalLM", _SMALL),
    "xlm-roberta-xl": ("XLMRobertaXLForCausalLM", _SMALL),
    "xlnet": ("XLNetLMHeadModel", {"vocab_size": 96, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48}),
    "xmod": ("XmodForCausalLM", _SMALL | {"default_language": "en_XX"}),
    "youtu": ("YoutuForCausalLM", _LATENT),
    "zamba": (
        "ZambaForCausalLM",
        _GROUPED
        | {
            "num_hidden_layers": 6,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "mamba"],
        },
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        _GROUPED | _DELTA | {"mamba_d_state": 8, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    ),
    "zaya": ("ZayaForCausalLM", _EXPERTS),
}

# Eager attention computes something else than SDPA, so that both are right and differ.
NOT_AS_EAGER = {"falcon (alibi)": ("FalconForCausalLM", _FUSED | {"alibi": True})}  # adds ALiBi twice
if int(transformers.__version__.split(".")[0]) < 5:
    _DIFFERENT = (
        *("gemma2", "vaultgemma"),  # SDPA leaves out the soft cap
        "gpt2 (scaled by layer)",  # SDPA leaves out the scale of the layer
        "moshi",  # eager attention sees the future unless it is handed a mask
        "recurrent_gemma",  # runs SDPA whatever is asked for, and hands out no weights
    )
    NOT_AS_EAGER |= {name: ARCHITECTURES[name] for name in _DIFFERENT}

# True numbers of the layers that have attention weights, where those are not 0, 1 and 2.
LAYERS = {
    "bailing_hybrid": (1, 3),
    "bamba": (1, 3),
    "granitemoehybrid": (1, 3),
    "jamba": (1, 3),
    "kimi_linear": (1, 3),
    "lfm2_moe": (1, 2),
    "lfm3": (2,),
    "longcat_flash": (0, 1, 2, 3),
    "minimax": (0, 2),
    "nemotron_h": (2,),
    "olmo_hybrid": (2,),
    "qwen3_5_moe_text": (3,),
    "qwen3_5_text": (3,),
    "qwen3_next": (3,),
    "recurrent_gemma": (2,),
    "zamba": (1, 3),
    "zamba2": (1, 3),
}

# Model types that have no weight for each pair of tokens, or none that can be seen, and why.
REFUSED = {
    "cpmant": ("CpmAntForCausalLM", _SMALL | {"dim_ff": 48, "prompt_length": 4}),  # puts a learned prompt in front
    "deepseek_v4 (compressed)": (  # keys of several tokens each
        "DeepseekV4ForCausalLM",
        _LATENT
        | {
            "sliding_window": 5,
            "compress_rates": {"heavily_compressed_attention": 4, "compressed_sparse_attention": 4},
            "layer_types": ["sliding_attention", "heavily_compressed_attention", "sliding_attention"],
        },
    ),
    "falcon_mamba": ("FalconMambaForCausalLM", _SMALL),  # state space
    "fnet": ("FNetForMaskedLM", _SMALL),  # Fourier transform
    "funnel": (  # pools its tokens
        "FunnelForMaskedLM",
        {"vocab_size": 96, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 1, 1]},
    ),
    "hrm_text": ("HrmTextForCausalLM", _SMALL),  # each layer runs several times
    "longformer": ("LongformerForMaskedLM", _SMALL | {"attention_window": 4}),  # a band around the diagonal
    "mamba": ("MambaForCausalLM", _SMALL),  # state space
    "mamba2": ("Mamba2ForCausalLM", _SMALL | {"num_heads": 8}),  # state space
    "mra": ("MraForMaskedLM", _SMALL),  # an approximation, in blocks
    "reformer": (  # hashes its keys
        "ReformerModelWithLMHead",
        _SMALL
        | {
            "is_decoder": True,
            "axial_pos_shape": [4, 3],
            "axial_pos_embds_dim": [16, 16],
            "attn_layers": ["local", "lsh", "local"],
            "attention_head_size": 8,
            "feed_forward_size": 48,
            "local_attn_chunk_length": 4,
            "lsh_attn_chunk_length": 4,
        },
    ),
    "rwkv": ("RwkvForCausalLM", _SMALL),  # linear attention
    "xlstm": ("xLSTMForCausalLM", _SMALL | {"num_heads": 4}),  # recurrent
    "yoso": ("YosoForMaskedLM", _SMALL),  # hashes its keys
}

_SEQ2SEQ = _DECODER | {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
_T5 = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "decoder_start_token_id": 0,
}
_IMAGE = _SMALL | {"image_size": 16, "patch_size": 4, "num_channels": 3}
_SPEECH = _SMALL | {
    "conv_dim": (16, 16),
    "conv_kernel": (4, 4),
    "conv_stride": (2, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}

# Models of other inputs than one text; `make_inputs` knows what they take.
ENCODER_DECODERS = {
    "bart": ("BartModel", _SEQ2SEQ),
    "bigbird_pegasus": ("BigBirdPegasusModel", _SEQ2SEQ | {"attention_type": "original_full"}),
    "blenderbot": ("BlenderbotModel", _SEQ2SEQ),
    "blenderbot-small": ("BlenderbotSmallModel", _SEQ2SEQ),
    "fsmt": ("FSMTModel", _SEQ2SEQ | {"src_vocab_size": 96, "tgt_vocab_size": 96, "langs": ["en", "de"]}),
    "m2m_100": ("M2M100Model", _SEQ2SEQ),
    "marian": ("MarianModel", _SEQ2SEQ | {"decoder_start_token_id": 0}),
    "mbart": ("MBartModel", _SEQ2SEQ),
    "mt5": ("MT5Model", _T5),
    "mvp": ("MvpModel", _SEQ2SEQ),
    "nllb-moe": ("NllbMoeModel", _SEQ2SEQ | {"num_experts": 2}),
    "pegasus": ("PegasusModel", _SEQ2SEQ),
    "plbart": ("PLBartModel", _SEQ2SEQ),
    "switch_transformers": ("SwitchTransformersModel", _T5 | {"num_experts": 2}),
    "t5": ("T5Model", _T5),
    "umt5": ("UMT5Model", _T5),
}
VISION = {
    "beit": ("BeitModel", _IMAGE),
    "clip_vision_model": ("CLIPVisionModel", _IMAGE),
    "data2vec-vision": ("Data2VecVisionModel", _IMAGE),
    "deit": ("DeiTModel", _IMAGE),
    "dinov2": ("Dinov2Model", _IMAGE),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", _IMAGE),
    "dinov3_vit": ("DINOv3ViTModel", _IMAGE),
    "dpt": ("DPTModel", _IMAGE),
    "ijepa": ("IJepaModel", _IMAGE),
    "siglip_vision_model": ("SiglipVisionModel", _IMAGE),
    "vit": ("ViTModel", _IMAGE),
    "vit_msn": ("ViTMSNModel", _IMAGE),
    "yolos": ("YolosModel", _IMAGE | {"image_size": [16, 16], "num_detection_tokens": 2}),
}
SPEECH = {
    "data2vec-audio": ("Data2VecAudioModel", _SPEECH),
    "hubert": ("HubertModel", _SPEECH),
    "sew": ("SEWModel", _SPEECH | {"squeeze_factor": 1}),
    "unispeech": ("UniSpeechModel", _SPEECH),
    "wav2vec2": ("Wav2Vec2Model", _SPEECH),
    "wavlm": ("WavLMModel", _SPEECH),
}


def build_model(name, table=None, **options):
    """Build a row of `ARCHITECTURES`, or of another table, in eval mode, the same weights every time."""
    class_name, arguments = (table or ARCHITECTURES)[name]
    if not hasattr(transformers, class_name):
        pytest.skip(f"transformers {transformers.__version__} has no {class_name}")
    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = model_class._from_config(model_class.config_class(**arguments), **options).eval()
    with torch.no_grad():  # weights as they are initialised give nearly uniform attention
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim > 1 and parameter.requires_grad and parameter.numel() > 1 and parameter.std() > 0:
                parameter.mul_(0.2 / parameter.std())
            elif parameter_name.endswith(("sinks", "sink")):
                parameter.normal_()
    return model


def make_ids(n_tokens=N_TOKENS, vocab_size=96):
    """Return token ids that are no special tokens."""
    return torch.randint(3, vocab_size, (n_tokens,), generator=torch.Generator().manual_seed(1)).tolist()


def make_inputs(table):
    """Return what the models of a table other than `ARCHITECTURES` take."""
    generator = torch.Generator().manual_seed(2)
    if table is ENCODER_DECODERS:
        ids, decoder_ids = torch.tensor([make_ids()]), torch.tensor([make_ids(7)])
        return {"input_ids": ids, "decoder_input_ids": decoder_ids, "use_cache": False}
    if table is VISION:
        return {"pixel_values": torch.randn(1, 3, 16, 16, generator=generator)}
    return {"input_values": torch.randn(1, 80, generator=generator)}
