import base64
import hashlib
import io
import pickle
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from data.console import one_line
from scoring.page import MAX_SHOWN_SIDE, PageEntry, page_entry, write_page
from scoring.report import ImageScores

METRICS = [SimpleNamespace(name="psnr", lower_better=False, best_at=None), SimpleNamespace(name="niqe", lower_better=True, best_at=None)]
NASTY = [
    "<img src=x onerror=alert(1)>.png",
    '</script><script>alert("1")</script>.png',
    "it's \"quoted\" & 'single' &lt; {{title}}.png",
    "überall 図 \u202egnp.png",
    "http://example.org/a.png",
]


class Page(HTMLParser):
    """What a page consists of, as another program reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = [("", "")]
        self.in_cell = False
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")
        self.texts.append(("", ""))

    def handle_data(self, data: str) -> None:
        tag, text = self.texts[-1]
        self.texts[-1] = (tag, text + data)
        if self.in_cell:
            self.rows[-1][-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def plain(height: int, width: int, colour: tuple[int, int, int] = (90, 90, 90)) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def entry(name: str = "a.png", *, size: tuple[int, int] = (6, 8), link: str = "a.png", **others) -> PageEntry:
    return page_entry(name, {"bicubic": plain(*size), "ours": plain(*size)}, others.pop("scores", None), link, **others)


def decode(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


def scored(name: str, ours: tuple, bicubic: tuple) -> PageEntry:
    values = {"ours": dict(zip(("psnr", "niqe"), ours, strict=True)), "bicubic": dict(zip(("psnr", "niqe"), bicubic, strict=True))}
    return entry(name, scores=ImageScores(image=name, scores=values), seconds=1.5)


def test_pictures_are_embedded_with_their_detail_and_their_colour():
    noise = np.random.default_rng(0).integers(96, 160, (64, 80, 3), np.uint8)
    stripes = plain(64, 80, (200, 40, 40))
    stripes[:, ::2] = (40, 40, 200)
    found = page_entry("a.png", {"bicubic": noise, "ours": stripes, "HR": noise}, None, "a.png")
    assert list(found.pictures) == ["bicubic", "ours", "HR"]
    assert (found.width, found.height, found.shown) == (80, 64, (80, 64))
    assert np.abs(decode(found.pictures["bicubic"]).astype(int) - noise).mean() < 4, "white noise in every colour is the hardest there is"
    assert np.abs(decode(found.pictures["ours"]).astype(int) - stripes).mean() < 3


def test_a_large_picture_is_shown_shrunk_beside_its_file(tmp_path):
    stripes = plain(16, 2 * MAX_SHOWN_SIDE, (0, 0, 0))
    stripes[:, ::2] = 255
    found = page_entry("a.png", {"bicubic": stripes, "ours": stripes}, None, "sub/a.png")
    assert (found.width, found.height, found.shown) == (3200, 16, (1600, 8))
    shown = decode(found.pictures["ours"])
    assert shown.shape == (8, 1600, 3) and np.abs(shown.astype(int) - 127).max() <= 2, "not the mean of what it stands for"
    path = write_page(tmp_path, "t", [found, entry("b.png")], [], {})
    facts = [text for text in path.read_text(encoding="utf-8").split("<p>")[1:] if "pixels" in text]
    assert facts[0].startswith('3200 × 16 pixels · shown shrunk to 1600 × 8 · <a href="sub/a.png">full file</a>')
    assert facts[1].startswith('8 × 6 pixels · <a href="a.png">')


@pytest.mark.parametrize(
    ("size", "shown"), [((1, 1), (1, 1)), ((3, 5000), (1600, 1)), ((5000, 3), (1, 1600)), ((1600, 1600), (1600, 1600))]
)
def test_any_shape_can_be_shown(size, shown):
    found = entry(size=size)
    assert found.shown == shown and decode(found.pictures["ours"]).shape == (shown[1], shown[0], 3)


@pytest.mark.parametrize(
    "pictures",
    [
        {},
        {"ours": plain(4, 4)},
        {"bicubic": plain(4, 4), "ours": plain(4, 5)},
        {"bicubic": plain(4, 4)[..., 0], "ours": plain(4, 4)[..., 0]},
        {"bicubic": plain(4, 4) / 255, "ours": plain(4, 4) / 255},
        {"bicubic": plain(0, 4), "ours": plain(0, 4)},
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(pictures):
    with pytest.raises(ValueError, match=r"^a b\.png: the page compares two or more pictures"):
        page_entry("a b.png", pictures, None, "a.png")


def test_entries_travel_between_processes():
    found = scored("a.png", (30.0, None), (28.0, 9.0))
    assert pickle.loads(pickle.dumps(found)) == found
    assert found.scores["ours"] == {"psnr": 30.0, "niqe": None} and found.seconds == 1.5


def test_nothing_that_is_named_becomes_part_of_the_page(tmp_path):
    harmless = Page(
        write_page(tmp_path, "t", [entry(notes=["n"], scores=ImageScores(image="a", scores={"m": {"psnr": 1.0}}))], METRICS, {"k": 1})
    )
    for text in NASTY:
        metric = SimpleNamespace(name=text, lower_better=True, best_at=None)
        pictures = {text: plain(4, 4), "ours": plain(4, 4)}
        found = page_entry(text, pictures, ImageScores(image=text, scores={text: {text: 1.0}}), text, notes=[text])
        page = Page(write_page(tmp_path, text, [found], [metric], {text: text}))
        names = {(tag, name) for tag, attributes in page.tags for name in attributes}
        assert names <= {(tag, name) for tag, attributes in harmless.tags for name in attributes}
        assert len(page.all("script")) == 1 and len(page.tags) <= len(harmless.tags) + 2
        for tag in ("title", "h1", "bdi", "dt", "dd", "li"):
            assert set(page.text_of(tag)) == {one_line(text)}, tag
        assert page.all("img")[0]["data-label"] == one_line(text) and page.all("img")[1]["alt"] == f"{one_line(text)}, ours"


def test_a_name_that_is_no_unicode_does_not_cost_the_page(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    page = Page(write_page(tmp_path, "t", [entry(name, link=name)], [], {}))
    assert page.text_of("bdi") == ["caf\\udce9.png"] * 2
    assert page.all("a")[-1]["href"] == "caf%E9.png"


@pytest.mark.parametrize(
    "link", ["a b#1?.png", "100%.png", "sub/ü&\"'.png", "c:d.png", "javascript:alert(1)", "a%20b.png", "back\\slash.png"]
)
def test_links_lead_to_the_file_whatever_its_name(tmp_path, link):
    page = Page(write_page(tmp_path, "t", [entry(link=link)], [], {}))
    (href,) = [found["href"] for found in page.all("a") if not found["href"].startswith("#")]
    parts = urlsplit(href)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "") and unquote(href) == link


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = Page(write_page(tmp_path, "t", [entry(NASTY[-1])], METRICS, {"source": "https://example.org"}))
    inside = {"script": page.text_of("script"), "style": page.text_of("style")}
    assert not re.search(
        r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp", "".join(inside["style"] + re.findall(r"^(?!//).*", inside["script"][0]))
    )
    assert "://" not in inside["script"][0]
    addresses = [attributes.get(name) for _, attributes in page.tags for name in ("src", "href", "srcset", "action", "data", "poster")]
    assert all(re.match(r"data:image/|#image-\d+$|a\.png$", address) for address in addresses if address is not None)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    digest = base64.b64encode(hashlib.sha256(inside["script"][0].encode()).digest()).decode()
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert dict(rule.strip().split(" ", 1) for rule in policy["content"].split(";")) == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_tables_show_means_the_best_in_bold_and_gaps(tmp_path):
    entries = [scored("a.png", (30.0, 4.0), (28.0, 9.0)), scored("b.png", (20.0, None), (24.0, None))]
    page = Page(write_page(tmp_path, "t", entries, METRICS, {"scale": 4, "set": "x", "gone": None, "list": [1, "ä"]}))
    assert page.rows[:3] == [["", "psnr ↑", "niqe ↓"], ["ours", "25.0000", "4.0000"], ["bicubic", "26.0000", "9.0000"]]
    assert page.rows[3:7] == [
        ["image", "psnr ↑", "niqe ↓", "size", "seconds"],
        ["ours", "bicubic", "ours", "bicubic"],
        ["a.png", "30.0000", "28.0000", "4.0000", "9.0000", "8 × 6", "1.50"],
        ["b.png", "20.0000", "24.0000", "–", "–", "8 × 6", "1.50"],
    ]
    assert page.text_of("b") == ["4.0000", "26.0000", "30.0000", "4.0000", "24.0000", "30.0000", "4.0000", "24.0000"]
    values = [found["data-value"] for tag, found in page.tags if tag in ("td", "th") and "data-value" in found]
    assert values[:7] == ["a.png", "30.0", "28.0", "4.0", "9.0", "48", "1.5"] and values[10:12] == ["", ""]
    assert page.text_of("dd") == ["4", "x", "–", '[1, "ä"]']
    assert "2 images, 3.0 s, 1.50 s each" in page.text_of("p")


def test_without_scores_the_pictures_remain(tmp_path):
    page = Page(write_page(tmp_path / "new", "t", [entry("a.png"), entry("b.png")], METRICS, {}))
    assert page.rows == [["image", "size"], [], ["a.png", "8 × 6"], ["b.png", "8 × 6"]]
    assert len(page.all("img")) == 4 and page.text_of("h3") == []
    assert Page(write_page(tmp_path, "t", [], METRICS, {})).all("img") == []


def test_two_pictures_leave_nothing_to_choose_three_do(tmp_path):
    page = Page(write_page(tmp_path, "t", [entry()], [], {}))
    assert not any("data-pair" in button for button in page.all("button"))
    three = page_entry("a.png", {label: plain(4, 4) for label in ("bicubic", "ours", "HR")}, None, "a.png")
    page = Page(write_page(tmp_path, "t", [three, entry()], [], {}))
    pairs = [button["data-pair"] for button in page.all("button") if "data-pair" in button]
    assert pairs == ['["bicubic", "ours"]', '["bicubic", "HR"]', '["ours", "HR"]'] * 2
    assert [("hidden" in image, image.get("class")) for image in page.all("img")[:3]] == [(False, "left"), (False, None), (True, None)]


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    path = write_page(tmp_path, "old", [entry()], [], {})
    before = path.read_bytes()
    broken = PageEntry("b.png", {}, 1, 1, (1, 1), {}, "b.png")
    with pytest.raises(ValueError):
        write_page(tmp_path, "new", [entry(), broken], [], {})
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_writing_holds_one_entry_at_a_time(tmp_path):
    uri = "data:image/jpeg;base64," + "A" * 500_000
    entries = [PageEntry(f"{index}.png", {"bicubic": uri, "ours": uri}, 512, 512, (512, 512), {}, "a.png") for index in range(30)]
    tracemalloc.start()
    try:
        path = write_page(tmp_path, "t", entries, [], {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 30_000_000 and peak < 10_000_000


def test_names_that_act_on_a_terminal_or_are_no_unicode_are_shown_escaped(tmp_path):
    name = "sub dir/a#b?c%20:d\x1b[2J\n\udcff.png"
    path = write_page(tmp_path, "t", [entry(name, link=name, notes=["\x9b31m"])], [], {"k": name})
    text, page = path.read_text(encoding="utf-8"), Page(path)
    assert text.count("a#b?c%20:d\\x1b[2J\\n\\udcff.png") >= 3 and not {"\x1b", "\x9b"} & set(text)
    (link,) = [found["href"] for found in page.all("a") if not found["href"].startswith("#")]
    assert link == "sub%20dir/a%23b%3Fc%2520%3Ad%1B%5B2J%0A%FF.png"
