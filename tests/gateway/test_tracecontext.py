"""W3C Trace Context: what is taken from a caller, and what is passed on."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.tracecontext import TraceContext, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

hexadecimal = st.text("0123456789abcdef")
identifiers = st.builds(
    TraceContext,
    trace_id=st.integers(1, 2**128 - 1).map("{:032x}".format),
    span_id=st.integers(1, 2**64 - 1).map("{:016x}".format),
    sampled=st.booleans(),
)
# mostly right, so that each part is wrong alone
nearly = st.tuples(
    st.sampled_from(["00", "01", "cc", "fe", "ff", "0", "FF", "0x"]),
    st.sampled_from([TRACE, "0" * 32, TRACE.upper(), TRACE[1:], TRACE + "0"]),
    st.sampled_from([SPAN, "0" * 16, SPAN.upper(), SPAN[1:], SPAN + "0"]),
    st.one_of(st.sampled_from(["00", "01", "02", "ff", "1", "0G", "01-", "01-x"]), hexadecimal),
).map("-".join)


@given(identifiers)
def test_what_is_passed_on_is_read_again(context):
    """The header says the whole of a context, but for other systems' state."""
    assert parse([context.traceparent]) == context


@given(st.one_of(nearly, st.text()))
@example(f"00-{TRACE}-{SPAN}-01\n")
@example(f"01-{TRACE}-{SPAN}-01-")
@example(f"00-{TRACE}-{SPAN}-01-")
def test_whatever_comes_is_taken_or_left_as_opentelemetry_does(header):
    """The same headers count as none; the same ids are read from the others."""
    expected = get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": header.strip(" \t\n")})
    ).get_span_context()
    found = parse([header.strip(" \t\n")])
    if not expected.is_valid:
        assert found is None
    else:
        assert int(found.trace_id, 16) == expected.trace_id
        assert int(found.span_id, 16) == expected.span_id
        assert found.sampled is expected.trace_flags.sampled


@pytest.mark.parametrize(
    "headers", [[], [f"00-{TRACE}-{SPAN}-01"] * 2, [f"00-{TRACE}-{SPAN}-01\n"], [""]]
)
def test_none_and_two_callers_are_none(headers):
    """Without a caller, or with two that contradict each other, a trace begins here."""
    assert parse(headers, ["vendor=1"]) is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    """Its known fields are used, what it appends is not passed on, and only `sampled` is kept."""
    context = parse([f"cc-{TRACE}-{SPAN}-ff-something new"])
    assert context.traceparent == f"00-{TRACE}-{SPAN}-01"


def test_a_child_is_another_span_of_the_same_trace():
    """Trace, flag and state stay; the span's id is new."""
    context = TraceContext(TRACE, SPAN, sampled=True, state="vendor=1")
    child = context.child()
    assert (child.trace_id, child.sampled, child.state) == (TRACE, True, "vendor=1")
    assert child.span_id != SPAN
    assert parse([child.traceparent]) is not None


def test_every_trace_that_begins_here_is_another():
    """Ids are drawn, and valid."""
    one, other = TraceContext.begin(), TraceContext.begin()
    assert one.trace_id != other.trace_id
    assert parse([one.traceparent]) == one


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (["a=1"], "a=1"),
        (["a=1 , b=2", "c@d=3"], "a=1,b=2,c@d=3"),
        (["", " "], ""),
        (["a=1,a=2"], ""),  # a key twice
        (["a=1,B=2"], ""),  # upper case
        (["a=ü"], ""),
        (["a"], ""),
        ([",".join(f"k{n}=1" for n in range(33))], ""),
        (["a=" + "x" * 256, "b=" + "x" * 256], ""),  # longer than anyone has to pass on
    ],
)
def test_other_systems_state_is_passed_on_or_left_out_whole(sent, kept):
    """Members keep their order; one that breaks the standard takes the others with it."""
    assert parse([f"00-{TRACE}-{SPAN}-00"], sent).state == kept
