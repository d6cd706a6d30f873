"""Sentences that come as text, as phrases: of the core, of the token split, of workers.

A text is known by its form, which `tests/tools/test_reasons.py` compares with the code that makes it.
"""

from __future__ import annotations

import re

from .phrases import Phrase, in_turn

_KNOWN_SENTENCES = (
    # of the core: rows, and devices that were lost
    "{rows} rows do not fit in memory",
    "a call of {rows} rows failed: {error}",
    "the rows of a call have another shape or type than one row",
    "the rows of a call differ by {share} from calls of one row",
    "its result differs by {share}",
    "it returned NaN or infinity where another device did not",
    "no answer for {seconds} s",
    "lane {lane} has not come back from an evaluation of an earlier run",
    # of Ray
    "the connection to Ray at {address} was lost: {error}",
    "the connection to Ray was lost: {error}",
    "its process or machine was lost: {error}",
    "the child process has given no sign of life for {seconds} s",
    "the child process has ended ({reason})",
    "a worker could not start: {error}",
    "a worker has not found a place in the cluster in time, or has not started there",
    "the Ray cluster at {address} has no room for a worker, which needs one {need}; another program may be using it",
    "the worker {name}: {error}",
    "it did not {task}, and has not answered for {seconds} s",
    "it took too long to {task}, and was ended",
    "it did not {task} within {seconds} s; it goes on, and takes part in a later run",
    "create the worker",
    "load the model",
    "begin the run",
    "answer a call of an earlier run",
    "get ready",
    "Ray could not be {reached}: {error}",
    "started here",
    "reached at {address}",
    "it has not answered within {seconds} s",
    "nothing answers at {address} ({error}). Is Ray running there (ray status), and is the port open?",
    "something listens at {address}, but it is not Ray. Is the port right (6379 unless you chose another one)?",
    # of the token split
    "{network} is not a network that can be shared by tokens",
    "there is one device only",
    "a patch ({name}) of another node works on all tokens at once",
    "another node replaces blocks of {network}",
    "another node wraps the whole network, and may keep state",
    "a picture of {tokens} tokens cannot be shared by {devices} devices",
    "a picture of {rows} rows of tokens cannot be shared by {devices} devices",
    "HiDream with pictures of several sizes in a batch masks tokens of the whole picture",
    "one call cannot be shared by devices of several types ({types})",
    "no answer from member {names} of a split call for {seconds} s",
    "a member of a split call has ended its part before the others",
    "the members of a split call are at different points of it",
    # of an optimisation that has ended early
    "nothing has improved for {iterations} iterations",
    "the mean objective has not improved for {iterations} iterations",
    "the last {count} updates were rolled back: try a smaller step size",
)

_NUMBER = r"\d+"
_VALUES = {
    **dict.fromkeys(("rows", "lane", "tokens", "devices", "iterations", "count"), _NUMBER),
    **dict.fromkeys(("address", "network"), r"\S+|[\w. ]+"),
    "share": r"[\d.]+%|inf%|nan%",
    "seconds": r"[\d.e+]+",
}
"""What the values of a name look like; others may be any text, but as short as can be."""

_NEXT_WORKER = re.compile("; (?=the worker |a worker |the Ray cluster at )")


def phrase_of(text: str) -> Phrase:
    """The known sentence that a text is. Any other text is the value of a phrase that has nothing else."""
    if isinstance(text, Phrase):
        return text
    for template, form in _FORMS:
        if found := form.fullmatch(text):
            return Phrase(template, **{name: _value(value) for name, value in found.groupdict().items()})
    return Phrase("{text}", text=text)


def phrase_of_workers(text: str) -> str:
    """The sentences of a text on workers: the reason of each why it does not take part."""
    if isinstance(text, Phrase):
        return text
    return in_turn([phrase_of(each) for each in _NEXT_WORKER.split(text)])


def _value(text: str) -> str:
    """A value, which may be a known sentence as well."""
    phrase = phrase_of(text)
    return text if phrase.template == "{text}" else phrase


def _form_of(template: str) -> re.Pattern[str]:
    parts = re.split(r"{(\w+)}", template)
    forms = [
        f"(?P<{part}>{_VALUES.get(part, '.+?')})" if place % 2 else re.escape(part) for place, part in enumerate(parts)
    ]
    return re.compile("".join(forms), re.DOTALL)


_FORMS = tuple((template, _form_of(template)) for template in _KNOWN_SENTENCES)
