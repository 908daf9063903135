"""The formats of JSON Schema, as regular expressions in its own syntax.

A format that the standard does not define demands nothing, as the standard says.
"""

from __future__ import annotations

_DAYS = (
    "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = f"(?:{_DAYS}|{_LEAP_YEAR}-02-29)"
_HOURS = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_FRACTION = r"(?:\.[0-9]+)?"
# Leap seconds are at the end of a day in UTC. They are allowed in that zone only: in others, which minute it is
# depends on the zone.
_TIME = f"(?:{_HOURS}:[0-5][0-9]{_FRACTION}(?:[Zz]|[+-]{_HOURS})|23:59:60{_FRACTION}(?:[Zz]|[+-]00:00))"

_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LAST = f"(?:{_H16}:{_H16}|{_IPV4})"


def _ipv6() -> str:
    """Eight groups, of which any run may be left out once; the last two may be an IPv4 address."""
    forms = [f"(?:{_H16}:){{6}}{_LAST}"]
    for before in range(8):
        start = f"(?:(?:{_H16}:){{0,{before - 1}}}{_H16})?" if before else ""
        after = 5 - before
        if after > 0:
            forms.append(f"{start}::(?:{_H16}:){{{after}}}{_LAST}")
        elif after == 0:
            forms.append(f"{start}::{_LAST}")
        else:
            forms.append(f"{start}::{_H16}" if after == -1 else f"{start}::")
    return f"(?:{'|'.join(forms)})"


_IPV6 = _ipv6()
_ATOM = r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+"
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_NAME = "[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?"
_EMAIL = rf"(?:{_ATOM}(?:\.{_ATOM})*|{_QUOTED})@(?:{_NAME}(?:\.{_NAME})*|\[(?:{_IPV4}|IPv6:{_IPV6})\])"

_POINTER = "(?:/(?:[^/~]|~[01])*)*"
_PERCENT = "%[0-9A-Fa-f]{2}"
_SUB = r"!$&'()*+,;="
# Characters beyond ASCII that internationalised addresses may have, and those of a query only.
_UCS = r"\u{a0}-\u{d7ff}\u{f900}-\u{fdcf}\u{fdf0}-\u{ffef}" + "".join(
    rf"\u{{{plane:x}0000}}-\u{{{plane:x}fffd}}" for plane in range(1, 15)
)
_PRIVATE = r"\u{e000}-\u{f8ff}\u{f0000}-\u{ffffd}\u{100000}-\u{10fffd}"


def _address(*, beyond: str = "", private: str = "", relative: bool) -> str:
    """A URI of RFC 3986, or with characters `beyond` ASCII an IRI of RFC 3987; a reference may be `relative`."""
    plain = rf"0-9A-Za-z\-._~{beyond}{_SUB}"
    segment = f"(?:[{plain}:@]|{_PERCENT})"
    host = rf"(?:\[(?:{_IPV6}|[vV][0-9A-Fa-f]+\.[0-9A-Za-z\-._~{_SUB}:]+)\]|(?:[{plain}]|{_PERCENT})*)"
    authority = f"//(?:(?:[{plain}:]|{_PERCENT})*@)?{host}(?::[0-9]*)?(?:/{segment}*)*"
    absolute = f"/(?:{segment}+(?:/{segment}*)*)?"
    tail = rf"(?:\?(?:{segment}|[/?{private}])*)?(?:#(?:{segment}|[/?])*)?"
    full = f"[A-Za-z][0-9A-Za-z+.-]*:(?:{authority}|{absolute}|{segment}+(?:/{segment}*)*)?{tail}"
    if not relative:
        return full
    no_scheme = f"(?:[{plain}@]|{_PERCENT})+(?:/{segment}*)*"
    return f"(?:{full}|(?:{authority}|{absolute}|{no_scheme})?{tail})"


def _template() -> str:
    """A URI template of RFC 6570."""
    text = rf"(?:[!#$&(-;=?-\[\]_a-z~{_UCS}{_PRIVATE}]|{_PERCENT})"
    character = f"(?:[0-9A-Za-z_]|{_PERCENT})"
    variable = rf"{character}(?:\.?{character})*(?::[1-9][0-9]{{0,3}}|\*)?"
    return rf"(?:{text}|\{{[+#./;?&=,!@|]?{variable}(?:,{variable})*\}})*"


FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[Tt]{_TIME}",
    "email": _EMAIL,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
    "uri": _address(relative=False),
    "uri-reference": _address(relative=True),
    "iri": _address(beyond=_UCS, private=_PRIVATE, relative=False),
    "iri-reference": _address(beyond=_UCS, private=_PRIVATE, relative=True),
    "uri-template": _template(),
}
"""What a string of a format matches as a whole."""

BUILT_IN = frozenset({"duration", "hostname", "uuid"})
"""Formats that llguidance enforces itself."""

UNENFORCEABLE = frozenset({"idn-email", "idn-hostname", "regex"})
"""Formats of the standard that no regular expression tells."""
