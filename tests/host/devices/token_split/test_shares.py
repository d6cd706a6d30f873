"""The cut of a sequence: nothing is lost, nothing is twice, and the order comes back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_split.shares import MIN_TOKENS, Layout, Segment, frame_rows, own_rows, share

SEGMENTS = st.lists(st.builds(Segment, st.integers(1, 40), st.booleans()), min_size=1, max_size=4)
MEMBERS = st.integers(1, 6)
SETTINGS = settings(deadline=None, derandomize=True)


def layouts(segments: list[Segment], members: int) -> list[Layout]:
    """The first segment is the picture's."""
    return [Layout.of(segments, members, rank, picture=0) for rank in range(members)]


@SETTINGS
@given(st.integers(0, 200), MEMBERS)
def test_shares_follow_each_other_and_differ_by_one_token_at_most(tokens: int, members: int) -> None:
    bounds = [share(tokens, members, rank) for rank in range(members)]
    assert bounds[0][0] == 0 and bounds[-1][1] == tokens
    assert all(end == first for (_, end), (first, _) in zip(bounds, bounds[1:], strict=False))
    sizes = [end - first for first, end in bounds]
    assert max(sizes) - min(sizes) <= 1


@SETTINGS
@given(SEGMENTS, MEMBERS)
def test_what_is_cut_and_joined_is_as_before(segments: list[Segment], members: int) -> None:
    whole = torch.arange(sum(item.tokens for item in segments)).reshape(1, -1, 1)
    views = layouts(segments, members)
    local = [view.cut(whole, 1) for view in views]
    assert all(x.shape[1] == view.local_tokens for view, x in zip(views, local, strict=True))
    if any(item.shared for item in views[0].segments):
        sent = [view.sent(x, 1, view.all) for view, x in zip(views, local, strict=True)]
        for view, x in zip(views, local, strict=True):
            assert torch.equal(view.joined(x, sent, 1, view.all), whole)


@SETTINGS
@given(SEGMENTS, MEMBERS, st.data())
def test_some_segments_can_be_joined_by_themselves(segments: list[Segment], members: int, data: st.DataObject) -> None:
    views = layouts(segments, members)
    shared = [index for index in views[0].all if views[0].segments[index].shared]
    which = data.draw(st.lists(st.sampled_from(shared), unique=True).map(sorted)) if shared else []
    if not which:
        return
    parts = [torch.arange(segments[index].tokens) + 100 * index for index in which]
    local = [torch.cat([view.own(x, 0, i) for x, i in zip(parts, which, strict=True)]) for view in views]
    for view, x in zip(views, local, strict=True):
        assert torch.equal(view.joined(x, local, 0, which), torch.cat(parts))


@SETTINGS
@given(SEGMENTS, MEMBERS)
def test_a_segment_too_short_to_be_shared_is_with_everybody(segments: list[Segment], members: int) -> None:
    for view in layouts(segments, members):
        for index, item in enumerate(segments):
            if item.tokens < members * (MIN_TOKENS if index else 1) or not item.shared:
                assert view.length(index) == item.tokens
            else:
                assert view.length(index) >= 1


@SETTINGS
@given(SEGMENTS, MEMBERS, st.data())
def test_a_border_lies_behind_as_many_own_tokens(segments: list[Segment], members: int, data: st.DataObject) -> None:
    tokens = sum(item.tokens for item in segments)
    border = data.draw(st.integers(0, tokens))
    whole = torch.arange(tokens)
    for view in layouts(segments, members):
        assert view.place_in_all(border) == int((view.cut(whole, 0) < border).sum())


@SETTINGS
@given(SEGMENTS, MEMBERS)
def test_a_mask_keeps_the_rows_of_a_members_queries(segments: list[Segment], members: int) -> None:
    tokens = sum(item.tokens for item in segments)
    mask = torch.arange(tokens * tokens).reshape(1, tokens, tokens)
    for view in layouts(segments, members):
        rows = view.cut(torch.arange(tokens), 0)
        assert torch.equal(own_rows(mask, view), mask[:, rows])


@SETTINGS
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 3), MEMBERS)
def test_frames_are_those_of_the_host(frames: int, each: int, more: int, members: int) -> None:
    """Wan's `repeat_e`: every row as often as it goes; where that leaves tokens over, once more each, then cut."""
    tokens = frames * each + (more if more < frames else 0)
    repeats = tokens // frames
    if repeats * frames != tokens:
        repeats += 1
    if tokens > repeats * frames or tokens <= repeats * (frames - 1):
        return  # the host's own rule leaves a frame without tokens there
    host = torch.repeat_interleave(torch.arange(frames), repeats)[:tokens]
    found = [frame_rows(tokens, frames, *share(tokens, members, rank), torch.device("cpu")) for rank in range(members)]
    assert torch.equal(torch.cat(found), host)
