#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's picture: well-formed, inside its frame, no two texts in one place."""

import re
from itertools import combinations
from typing import List, NamedTuple
from xml.etree import ElementTree

import guest        # pylint: disable=unused-import  # for the path of the library below
from ballast import tap
from demo.chart import GIB, MIB, WIDTH, Marker, Panel, Sample, Share, render

SVG = '{http://www.w3.org/2000/svg}'


class Box(NamedTuple):
    """Where a text is, estimated generously."""

    left: float
    top: float
    right: float
    bottom: float
    text: str


def _box(element: ElementTree.Element) -> Box:
    size = float(element.attrib['font-size'])
    text = element.text or ''
    width = len(text) * size * 0.6
    left = float(element.attrib['x'])
    anchor = element.attrib.get('text-anchor')
    left -= {'middle': width / 2, 'end': width}.get(anchor or '', 0)
    base = float(element.attrib['y'])
    return Box(left, base - size * 0.75, left + width, base + size * 0.2, text)


def _boxes(svg: str) -> List[Box]:
    return [_box(element) for element in ElementTree.fromstring(svg).iter(f'{SVG}text')]


def _overlap(one: Box, two: Box) -> bool:
    return (one.left < two.right and two.left < one.right
            and one.top < two.bottom and two.top < one.bottom)


def _picture(seconds: int, capacity: int, crowded: bool) -> str:
    """A guest that grows, one that shrinks, one that dies; steps apart or all at once."""
    host_a, host_b = Panel('Host A', capacity), Panel('Host B', capacity // 2)
    for tick in range(seconds * 5):
        part = tick / (seconds * 5)
        shares = {'vm1': Share(int(capacity * 0.4), int(capacity * 0.4 * part)),
                  'vm2': Share(int(capacity * 0.2 * (1 - part)), 0)}
        if part > 0.5:
            size = capacity // 5
            shares['vm3'] = Share(size, size // 2, size // 4, part > 0.9)
        host_a.samples.append(Sample(tick / 5, shares))
        host_b.samples.append(Sample(tick / 5, {}))
    moments = [1 + n * (0.05 if crowded else seconds / 9) for n in range(8)]
    markers = [Marker(m, 'a step of the story that needs rather more words than fit on one line '
                         'of its column') for m in moments]
    return render('Title', 'Subtitle', [host_a, host_b], markers)


def _check(svg: str) -> None:
    boxes = _boxes(svg)
    assert boxes
    height = float(re.findall(r'viewBox="0 0 \d+ (\d+)"', svg)[0])
    for box in boxes:
        assert 0 <= box.left and box.right <= WIDTH and 0 <= box.top and box.bottom <= height, box
    for one, two in combinations(boxes, 2):
        assert not _overlap(one, two), f'{one} and {two}'


def _check_all(crowded: bool) -> None:
    for seconds in (3, 40, 130, 700):
        for capacity in (512 * MIB, 2 * GIB, 1536 * GIB):
            _check(_picture(seconds, capacity, crowded))


tap.add('steps spread over seconds and minutes, from MiB to TiB', _check_all, False)
tap.add('all steps within half a second', _check_all, True)


@tap.case('a host without a single guest')
def empty() -> None:
    """Nothing to stack."""
    _check(render('Title', 'Subtitle', [Panel('Host A', GIB, [Sample(0, {})])], []))


if __name__ == '__main__':
    tap.main()
