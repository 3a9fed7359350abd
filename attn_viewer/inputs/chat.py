"""Chat messages through a chat template, and which tokens of it are whose."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PromptError, describe_error
from ..spans import SENSES

if TYPE_CHECKING:
    import torch

Message = Mapping[str, Any]
ANSWER = "assistant"


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
    """Turn chat messages into model inputs through a chat template.

    What the template adds for an answer is in it unless the last message is the assistant's. Contents are text, or
    parts ``{"type": "text", "text": …}``, ``{"type": "image", …}`` and so on, for which a processor is needed. The text
    of one message of pictures goes in as it is where there is no template, or where it says itself where they stand.
    """
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise PromptError(
                f"a chat prompt is a list of {{'role': …, 'content': …}}, got {message!r:.200} in it; "
                "text goes in as one str, token ids as a list of int"
            )
    senses = {str(part["type"]) for message in messages for part in _get_parts(message) if _is_seen_or_heard(part)}
    if senses and _get_tokenizer(tokenizer) is tokenizer:
        raise PromptError(
            f"the messages hold {' and '.join(sorted(senses))}, and {type(tokenizer).__name__} is for text alone; give "
            "the model's processor as tokenizer (AutoProcessor.from_pretrained)"
        )
    question = _find_question(tokenizer, messages)
    if question is not None:
        return _ask(tokenizer, *question)
    if not getattr(tokenizer, "chat_template", None):
        way = "model inputs as the processor returns them" if senses else "text (no --chat)"
        raise PromptError(
            f"this {'processor' if senses else 'tokenizer'} has no chat template; pass the prompt as {way}"
        )
    inputs = dict(_apply(tokenizer, _fit_contents(tokenizer, messages), is_whole=True, tokenize=True))
    if senses and not any(part.is_floating_point() for part in inputs.values()):
        raise PromptError(
            f"{type(tokenizer).__name__} leaves the {' and '.join(sorted(senses))} of the messages out; use the "
            "processor that belongs to the model"
        )
    return inputs


def _find_question(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[Any]] | None:
    """Return text and pictures of one message that the chat template does not write."""
    parts = [part for part in _get_parts(messages[0]) if isinstance(part, Mapping)]
    texts, pictures = _get_texts(messages[0]), [part["image"] for part in parts if part.get("image") is not None]
    if len(messages) > 1 or not pictures or len(texts) != 1 or len(_get_parts(messages[0])) != 1 + len(pictures):
        return None
    has_template, token = getattr(tokenizer, "chat_template", None), _get_image_token(tokenizer)
    return None if has_template and not (token and token in texts[0]) else (texts[0], pictures)


def _get_image_token(processor: Any) -> str:
    """Return what stands for a picture in a text, where the processor has that."""
    return str(getattr(processor, "image_token", None) or "")


def _ask(processor: Any, text: str, pictures: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Return model inputs of a text as it is, and pictures, for which some processors write the placeholders."""
    from transformers.utils import logging

    token, verbosity = _get_image_token(processor), logging.get_verbosity()
    logging.set_verbosity_error()  # PaliGemma's advises against what it does
    try:
        inputs = dict(processor(text=[text], images=[*pictures], return_tensors="pt"))
        placeholder = _get_tokenizer(processor).convert_tokens_to_ids(token) if token else None
        if placeholder is not None and not bool((inputs["input_ids"] == placeholder).any()):
            raise ValueError("it says of no picture where it stands")
    except Exception as error:  # of as many types as there are processors
        advice = f"; write {token!r} once a picture, where the model was trained to read it" if token else ""
        raise PromptError(f"{type(processor).__name__} refuses this prompt: {describe_error(error)}{advice}") from error
    finally:
        logging.set_verbosity(verbosity)
    return inputs


def _is_seen_or_heard(part: Any) -> bool:
    return isinstance(part, Mapping) and str(part.get("type")).partition("_")[0] in SENSES


def _apply(tokenizer: Any, messages: Sequence[Message], *, is_whole: bool, tokenize: bool) -> Any:
    """Apply the chat template; the whole conversation ends with what the template adds for the answer."""
    options = {"return_dict": True, "return_tensors": "pt"} if tokenize else {}
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=is_whole and messages[-1]["role"] != ANSWER,
            tokenize=tokenize,
            **options,
        )
    except Exception as error:  # templates are programs of the model's authors and raise what they like
        raise PromptError(f"the chat template refuses these messages: {describe_error(error)}") from error


def _get_parts(message: Message) -> Sequence[Any]:
    content = message["content"]
    return content if isinstance(content, (list, tuple)) else [{"type": "text", "text": content}]


def _get_texts(message: Message) -> list[str]:
    parts = (part for part in _get_parts(message) if isinstance(part, Mapping))
    return [part["text"] for part in parts if isinstance(part.get("text"), str)]


def _fit_contents(tokenizer: Any, messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages with contents as the template takes them: as text, or as a list of parts.

    Templates that know one of both write the other out as Python does, or leave it out, without a word.
    """

    def flatten(message: Message) -> Message:
        texts = _get_texts(message)
        return {**message, "content": "\n".join(texts)} if len(texts) == len(_get_parts(message)) else message

    def spread(message: Message) -> Message:
        is_text = isinstance(message["content"], str)
        return {**message, "content": _get_parts(message)} if is_text else message

    forms = [messages, [flatten(message) for message in messages], [spread(message) for message in messages]]
    if _get_tokenizer(tokenizer) is not tokenizer:
        forms.insert(0, forms.pop())  # processors of transformers 4 take parts alone
    refusals = []
    for form in forms:
        try:
            text = _apply(tokenizer, form, is_whole=True, tokenize=False)
        except PromptError as error:
            refusals.append(error)
            continue
        if _shows_texts(text, form):
            return form
    if refusals:
        raise refusals[0]
    raise PromptError(
        "the chat template does not write these messages' contents as they are; give each as text, or images and "
        "sound with the model's processor as tokenizer"
    )


def _shows_texts(text: str, messages: Sequence[Message]) -> bool:
    """Tell whether a rendered conversation holds the last text, and no content as Python writes lists."""
    contents = [message["content"] for message in messages if isinstance(message["content"], (list, tuple))]
    if any(repr(part) in text for content in contents for part in content if isinstance(part, Mapping)):
        return False
    texts = [part.strip() for message in messages for part in _get_texts(message) if part.strip()]
    return not texts or texts[-1].splitlines()[-1].strip() in text


def find_turns(tokenizer: Any, messages: Sequence[Message], ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """Find which tokens of a chat prompt belong to which message: ``(role, start, stop)`` a message.

    What the template adds for the answer is the assistant's; a system turn that it adds before the first message is the
    system's; special tokens before that are nobody's. There are none where the beginning of a conversation is not how
    the template begins the whole.
    """
    if _find_question(tokenizer, messages) is not None:
        return []
    messages = _fit_contents(tokenizer, messages)
    turns, start, before = [], _find_first_turn(tokenizer, messages, ids), 0
    if not set(ids[:start]) <= set(_get_tokenizer(tokenizer).all_special_ids):
        turns.append(("system", 0, start))
    whole = _apply(tokenizer, messages, is_whole=True, tokenize=False)
    for i, message in enumerate(messages, 1):
        try:
            text = _apply(tokenizer, messages[:i], is_whole=False, tokenize=False)
            part = _apply(tokenizer, messages[:i], is_whole=False, tokenize=True)["input_ids"][0].tolist()
        except PromptError:
            return []
        stop = _count_common(part, ids)
        if len(text) <= before or not whole.startswith(text) or stop <= start:
            return []
        turns.append((str(message["role"]), start, stop))
        start, before = stop, len(text)
    return turns + [(ANSWER, start, len(ids))] * (start < len(ids))


def _count_common(part: Sequence[int], ids: Sequence[int]) -> int:
    """Count the tokens that both begin with: the last ones of a part may be others in the whole."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(part, ids, strict=False)))


def _find_first_turn(tokenizer: Any, messages: Sequence[Message], ids: Sequence[int]) -> int:
    """Return the token with which the first message's own turn begins: what its turn looks like further on tells."""
    first = messages[0]
    if first["role"] == "system":
        return 0
    other: dict[str, Any] = {"role": ANSWER if first["role"] == "user" else "user", "content": "x"}
    if not isinstance(first["content"], str):
        other["content"] = [{"type": "text", "text": "x"}]
    try:
        alone, longer, longest = (
            _apply(tokenizer, some, is_whole=False, tokenize=False)
            for some in ([first], [first, other], [first, other, first])
        )
    except PromptError:
        return 0
    turn = longest[len(longer) :]
    if not turn.strip() or not longest.startswith(longer) or not alone.endswith(turn):
        return 0
    added = alone[: len(alone) - len(turn)]
    # A template writes special tokens itself, or leaves them to the tokenizer.
    parts = (_get_tokenizer(tokenizer)(added, add_special_tokens=adds, verbose=False) for adds in (False, True))
    return max(_count_common(part["input_ids"], ids) for part in parts) if added else 0


def _get_tokenizer(tokenizer: Any) -> Any:
    return getattr(tokenizer, "tokenizer", tokenizer)
