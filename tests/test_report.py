"""`tlmtl report` in a real browser: content, sorting, filtering, phone, dark, print; nothing comes from a network."""

import csv
import json
import re

import pytest
from reports import bench, browser, seen

HOSTILE = '<script>window.hacked = 1</script>"><img src=x onerror="window.hacked=2">'


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """8 set-ups of 3 seeds with all their files, one failed run, one name that is an attack."""
    top = bench().sweep(tmp_path_factory.mktemp("sweep") / "<b>few</b>", 8, 3)
    with (top / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bad = {**rows[0], "run_id": "bad", "config_hash": "bad", "status": "failed", "error": f"boom {HOSTILE}"}
    bad |= {name: "" for name in bad if name.startswith(("val/", "test/"))}
    odd = [{**row, "run_id": f"odd{i}", "config_hash": f"odd{i}", "group_id": "odd", "strategy": HOSTILE}
           for i, row in enumerate(rows[:3])]  # fmt: skip
    with (top / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, bad, *odd])
    return top


@pytest.fixture(scope="module")
def page(sweep, tmp_path_factory):
    from tlmtl.cli import main

    out = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(sweep), "--out", str(out), "--figures", str(out.parent / "figures")]) == 0
    return out


@pytest.fixture(scope="module")
def chromium(page, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        seen(driver, page)
        yield driver


def texts(driver, selector):
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())", selector
    )


def column(driver, title):
    heads = texts(driver, "#results-table thead th")
    at = next(i for i, head in enumerate(heads) if " ".join(head.split()) == title)
    rows = driver.execute_script(
        "return [...document.querySelectorAll('#results-table tbody tr')].filter(row => !row.hidden)"
        f".map(row => row.cells[{at}].textContent.trim())"
    )
    return at, rows


def test_the_page_says_what_is_in_it(chromium):
    assert texts(chromium, "h1") == ["Results on digits"]
    opening = texts(chromium, ".opening")[0]
    assert "9 set-ups on the data set digits (task digit, a classification)" in opening
    assert "27 runs, of 28 that were started" in opening
    verdicts = texts(chromium, ".verdict")
    assert [said.split(" per class")[0] for said in verdicts] == ["1 label", "2 labels"]
    assert all("is best by validation accuracy (0." in said and "pairs of one seed each" in said for said in verdicts)
    sections = ["Table", "Results and cost", "Labels per class", "Learning curves", "Where the best runs are wrong",
                "Commands and versions"]  # fmt: skip
    assert texts(chromium, "h2") == sections == texts(chromium, "nav li")
    assert len(texts(chromium, "svg.chart")) == 6
    assert len(texts(chromium, "#results-table tbody tr")) == 9
    assert "tlmtl train -m strategy=staged dataset.labels_per_class=1 optimizer.lr=0.0005 seed=0,1,2" in texts(
        chromium, "dd"
    )


def test_a_click_sorts_by_number_and_by_text(chromium):
    before = column(chromium, "test/accuracy")[1]
    at, _ = column(chromium, "test/accuracy")
    button = chromium.find_elements("css selector", "#results-table thead button")[at]
    button.click()
    found = [float(text.split()[0]) for text in column(chromium, "test/accuracy")[1]]
    assert found == sorted(found, reverse=True) and len(set(found)) > 5
    assert texts(chromium, "th[aria-sort=descending]") == ["test/accuracy"]
    button.send_keys("\ue007")  # by keyboard
    found = [float(text.split()[0]) for text in column(chromium, "test/accuracy")[1]]
    assert found == sorted(found) and found != [float(text.split()[0]) for text in before]
    chromium.find_elements("css selector", "#results-table thead button")[0].click()
    names = column(chromium, "set-up")[1]
    assert names == sorted(names, key=str.lower) and len(texts(chromium, "th[aria-sort]")) == 1


def test_words_filter_the_rows(chromium):
    field = chromium.find_element("id", "filter")
    field.send_keys("STAGED pretrain")
    assert column(chromium, "strategy")[1] == ["staged", "staged"] and texts(chromium, "#count") == ["2 of 9 rows"]
    field.send_keys(" nosuchword")
    assert column(chromium, "strategy")[1] == [] and chromium.find_element("id", "none").is_displayed()
    field.clear()
    field.send_keys(" ")
    assert texts(chromium, "#count") == ["9 of 9 rows"] and not chromium.find_element("id", "none").is_displayed()


def test_nothing_is_run_or_fetched_and_nothing_goes_wrong(chromium, page):
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return window.hacked") is None
    sent = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    sent = [one["params"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"].split(",")[0] for one in sent if one["documentURL"] == page.as_uri()}
    assert page.as_uri() in asked
    assert asked <= {page.as_uri(), "data:image/png;base64", "data:"}, asked
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert HOSTILE not in text and "&lt;script&gt;window.hacked" in text
    assert "boom <script>" in " ".join(texts(chromium, "#runs td"))


def test_images_have_words_and_the_table_has_scopes(chromium):
    assert len(texts(chromium, ".images img")) > 3
    widths = chromium.execute_script("return [...document.images].map(one => one.naturalWidth)")
    assert set(widths) == {8}
    assert chromium.execute_script(
        "return [...document.images].every(one => one.alt) && [...document.querySelectorAll('svg.chart')]"
        ".every(one => one.getAttribute('role') == 'img' && one.getAttribute('aria-label').length > 20)"
    )
    assert chromium.execute_script("return document.querySelectorAll('#results-table tbody th[scope=row]').length") == 9
    ids = chromium.execute_script("return [...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_down_alone_and_can_be_read(chromium, page, dark):
    seen(chromium, page, 360, dark)
    script = chromium.execute_script
    assert script("return document.documentElement.scrollWidth") == 360
    ink, paper = script("const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]")
    assert contrast(ink, paper) > 12 and (luminance(paper) < 0.05) == dark
    muted = script("return getComputedStyle(document.querySelector('.about')).color")
    label = script("return getComputedStyle(document.querySelector('svg.chart text')).fill")
    assert contrast(muted, paper) > 4.5 and contrast(label, paper) > 4.5
    assert 300 < script("return document.querySelector('svg.chart').getBoundingClientRect().width") < 361
    assert script("return document.querySelector('.scroll').scrollWidth") > 360  # the table scrolls by itself


def test_long_names_fit_a_phone(chromium, tmp_path):
    from tlmtl.cli import main

    table, out = tmp_path / "t.csv", tmp_path / "long.html"
    table.write_text("".join(["strategy,seed,test/accuracy\n", *(f"{'long_' * 30}{at},0,.{at}\n" for at in (5, 6))]))
    assert main(["report", str(table), "--out", str(out)]) == 0
    seen(chromium, out, 360, False)
    assert chromium.execute_script("return document.documentElement.scrollWidth") == 360


def test_print_shows_everything_without_controls(chromium, page):
    seen(chromium, page, 800, dark=True, media="print")
    script = chromium.execute_script
    assert not chromium.find_element("id", "filter").is_displayed()
    assert luminance(script("return getComputedStyle(document.body).backgroundColor")) > 0.9
    script("document.querySelector('details').open = false")
    script("window.dispatchEvent(new Event('beforeprint'))")
    assert script("return [...document.querySelectorAll('details')].every(one => one.open)")
    script("window.dispatchEvent(new Event('afterprint'))")
    assert not script("return document.querySelector('details').open")
    assert len(chromium.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]) > 20_000


def test_the_same_pictures_as_files(page):
    names = sorted(path.name for path in (page.parent / "figures").iterdir())
    stems = ["confusion_digit", "cost_digit", "labels_digit", "learning_digit_loss", "learning_digit_metric",
             "results_digit", "worst_digit"]  # fmt: skip
    assert names == sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))
    assert (page.parent / "figures" / "results_digit.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (page.parent / "figures" / "cost_digit.svg").read_text()[:600]


def test_the_same_results_give_the_same_page(sweep, page, tmp_path):
    from tlmtl.cli import main

    assert main(["report", str(sweep), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def contrast(one: str, other: str) -> float:
    """Of two colours as a browser writes them (WCAG 2.2, 1.4.3)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def worst_colours():
    from tlmtl.report import page as module

    return module._own("page.css")


def test_colours_of_charts_can_be_told_from_the_paper():
    """Lines and marks need 3:1 (WCAG 2.2, 1.4.11), on light and on dark."""
    light, dark = re.findall(r":root \{(.*?)\}", worst_colours(), re.DOTALL)
    for sheet in (light, dark):
        colours = {name: f"rgb({int(hexa[:2], 16)}, {int(hexa[2:4], 16)}, {int(hexa[4:], 16)})"
                   for name, hexa in re.findall(r"--(\w+): #([0-9a-f]{6})", sheet)}  # fmt: skip
        for name in ("accent", *(f"c{i}" for i in range(7))):
            assert contrast(colours[name], colours["paper"]) > 4.5, name
        assert contrast(colours["ink"], colours["mark"]) > 7
