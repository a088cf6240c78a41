from pathlib import Path

from tests.chromium import chromium
from tests.unit.report.conftest import SmallRun

BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
CONTRAST = """
(() => {
  const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
  const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const texts = 'h1,h2,h3,h4,p,th,td,a,summary,figcaption,caption,b,.nocover';
  return [...document.querySelectorAll(texts)]
    .filter(e => ratio(light(getComputedStyle(e).color), light(ground(e))) < 4.5)
    .map(e => e.tagName + ': ' + e.textContent.slice(0, 40));
})()
"""


def test_page_is_whole_in_light_and_dark_on_desk_and_phone(
    small_run: SmallRun, tmp_path: Path
) -> None:
    with chromium(tmp_path) as page:
        for width, dark in ((1200, False), (390, True)):
            page.look(width, dark=dark)
            page.open(small_run.report.path.as_uri())
            page.value("document.querySelectorAll('details').forEach(e => e.open = true)")
            page.wait_for(f"{BROKEN} === 0", seconds=30)
            assert page.value("document.images.length") > 100
            assert not page.value(TOO_WIDE)
            assert page.value(CONTRAST) == []
            assert "report of a sicsrec run" in page.value("document.title")
        assert page.complaints() == []
        assert set(page.requests()) == {small_run.report.path.as_uri()}


def test_keyboard_reaches_the_sections(small_run: SmallRun, tmp_path: Path) -> None:
    with chromium(tmp_path) as page:
        page.open(small_run.report.path.as_uri())
        reached = []
        for _ in range(4):
            page.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9)
            reached.append(page.value("document.activeElement.getAttribute('href')"))
        assert reached == ["#content", "#results", "#people", "#cohorts"]
