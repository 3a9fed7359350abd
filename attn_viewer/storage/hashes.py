"""Which prompt is which: the hashes that name their folders, as pattern-lens makes them."""

import base64
import hashlib
import re
from typing import Any

from ..errors import ActivationsMismatchError, InvalidPromptError, shorten

HASH = re.compile(r"[\w-]{1,100}", re.ASCII)


def augment_prompt_with_hash(prompt: dict[str, Any]) -> dict[str, Any]:
    """Give a prompt in place its hash, URL-safe base64 of the MD5 sum of its text without padding, and return it.

    Raises `InvalidPromptError` for no dictionary with ``text`` or ``hash``, or if these are not what they can be.
    """
    if not isinstance(prompt, dict) or not ("hash" in prompt or "text" in prompt):
        raise InvalidPromptError(f"a prompt is a dictionary with 'text' or 'hash', got {shorten(prompt)}")
    if not isinstance(prompt.get("text", ""), str):
        raise InvalidPromptError(f"the text of a prompt must be str, got {shorten(prompt['text'])}")
    if "hash" not in prompt:
        # A lone surrogate has no UTF-8; it must not stop the hash of a text that was read from JSON.
        digest = hashlib.md5(prompt["text"].encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
        prompt["hash"] = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    elif not (isinstance(prompt["hash"], str) and HASH.fullmatch(prompt["hash"])):
        raise InvalidPromptError(
            f"the hash of a prompt names a folder: letters, digits, - and _, got {shorten(prompt['hash'])}; "
            "leave it out to have it computed from the text"
        )
    return prompt


def compare_prompt_to_loaded(prompt: dict[str, Any], prompt_loaded: dict[str, Any]) -> None:
    """Raise `ActivationsMismatchError` unless a prompt is the stored one; a text that it lacks is not compared."""
    for key in ("text", "hash"):
        if key in prompt and prompt[key] != prompt_loaded.get(key):
            raise ActivationsMismatchError(
                f"prompt {prompt.get('hash')!r} is stored with another {key}: {shorten(prompt_loaded.get(key))} there, "
                f"{shorten(prompt[key])} here; give one of them another 'hash', or leave the hash out"
            )
