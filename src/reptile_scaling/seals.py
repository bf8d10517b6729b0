"""What a file says of its own content, so that one flipped bit is noticed before anything is made of it. No files here.

Three forms of SHA-256 for three kinds of content: a JSON object begins with it, safetensors have it in their metadata,
and everything that other programs read line by line is listed in a `SHA256SUMS` beside it, which `sha256sum -c` checks.
What was written before there were seals has none and passes; a seal that is damaged does not look like none.
"""

import hashlib
import json
import re
from collections.abc import Mapping

SUMS = "SHA256SUMS"
KEY = "sha256"
BLANK = {KEY: 64 * "0"}
"""Goes into the metadata of safetensors that are to be sealed."""

_JSON_HEAD = re.compile(rb'\{\n  "sha256": "([0-9a-f]{64})",\n')
_FIRST_KEY = re.compile(rb'\s*\{\s*"((?:[^"\\]|\\.)*)"')
_IN_METADATA = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_LISTED = re.compile(r"([0-9a-f]{64})  (.+)")
_UNSEALED_METADATA = {"format", "meta_step", "wall_seconds"}
"""What safetensors said of themselves before there were seals."""


class BrokenSeal(ValueError):
    """The content is not what was sealed; says why."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sealed_json(text: str) -> bytes:
    """A JSON object that is indented by two, with the digest of the rest as its first key."""
    assert text.startswith("{\n"), text[:20]
    rest = text[2:].encode()
    return b'{\n  "sha256": "' + sha256(rest).encode() + b'",\n' + rest


def unsealed_json(content: bytes, known_keys: set[str]) -> bytes:
    """The object without its seal; as it is where it has none and begins with a key that is known."""
    if head := _JSON_HEAD.match(content):
        rest = content[head.end() :]
        _compare(head[1].decode(), sha256(rest))
        return b"{\n" + rest
    first = _FIRST_KEY.match(content)
    if first is not None and first[1].decode(errors="replace") not in known_keys:
        raise BrokenSeal(f"it begins with {first[1].decode(errors='replace')!r}, which is no seal")
    return content


def sealed_tensors(content: bytes) -> bytes:
    """Safetensors whose metadata has `BLANK`, with the digest of all their bytes in its place."""
    found = _IN_METADATA.search(content, 8, _header_end(content))
    assert found is not None and found[1].decode() == BLANK[KEY], content[:200]
    return content[: found.start(1)] + sha256(content).encode() + content[found.end(1) :]


def check_tensors(content: bytes) -> None:
    """Raises BrokenSeal where safetensors are not as `sealed_tensors` left them; passes those of before seals."""
    end = _header_end(content)
    if found := _IN_METADATA.search(content, 8, end):
        whole = hashlib.sha256(content[: found.start(1)] + BLANK[KEY].encode())
        whole.update(memoryview(content)[found.end(1) :])  # gigabytes are not copied
        _compare(found[1].decode(), whole.hexdigest())
        return
    try:
        metadata = json.loads(content[8:end]).get("__metadata__")
        foreign = sorted(metadata.keys() - _UNSEALED_METADATA)
    except (ValueError, AttributeError, RecursionError) as error:
        raise BrokenSeal("its header is no JSON object with metadata") from error
    if foreign:
        raise BrokenSeal(f"its metadata has {foreign[0]!r}, which is no seal")


def _header_end(content: bytes) -> int:
    end = 8 + int.from_bytes(content[:8], "little")
    if len(content) < end:
        raise BrokenSeal("it is shorter than its own header")
    return end


def sums_text(digests: Mapping[str, str]) -> str:
    """`SHA256SUMS` of files by name; its first line is the digest of the others, a comment to `sha256sum -c`."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return f"# {sha256(lines.encode())}\n{lines}"


def read_sums(content: bytes) -> dict[str, str]:
    """Digests by name. BrokenSeal where the list is not as `sums_text` wrote it."""
    head, _, lines = content.partition(b"\n")
    if head != b"# " + sha256(lines).encode():
        raise BrokenSeal("its first line is not the digest of the others")
    found = [_LISTED.fullmatch(line) for line in lines.decode().splitlines()]
    return {match[2]: match[1] for match in found if match is not None}


def check_listed(name: str, content: bytes, sums: Mapping[str, str]) -> None:
    """Raises BrokenSeal for content that is not what the list of its folder says."""
    if name not in sums:
        raise BrokenSeal(f"{SUMS} beside it does not list it")
    _compare(sums[name], sha256(content))


def _compare(expected: str, found: str) -> None:
    if found != expected:
        raise BrokenSeal(f"its SHA-256 is {found[:12]}… and was {expected[:12]}… when it was written")
