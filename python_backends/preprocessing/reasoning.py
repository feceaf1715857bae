"""Models that think before they answer: what stands around their thoughts."""

from python_backends.messages import Reasoning

AUTO = "auto"
NONE = "none"
TAGS: dict[str, tuple[str, str]] = {"think": ("<think>", "</think>"), "mistral": ("[THINK]", "[/THINK]")}


def reasoning_tags(name: str, template: str | None) -> tuple[str, str] | None:
    """The tags that a setting names; `auto`: those that the chat template knows. Raises ValueError."""
    if name == NONE:
        return None
    if name == AUTO:
        return next((tags for tags in TAGS.values() if tags[1] in (template or "")), None)
    if name not in TAGS:
        raise ValueError(f"reasoning parser {name!r}: use one of {', '.join((AUTO, NONE, *TAGS))}")
    return TAGS[name]


def reasoning_after(prompt_end: str, tags: tuple[str, str] | None) -> Reasoning | None:
    """How an answer to this prompt is to be split; `prompt_end`: the last of its text."""
    if tags is None:
        return None
    begin, end = tags
    return Reasoning(begin=begin, end=end, open=prompt_end.rstrip().endswith(begin))
