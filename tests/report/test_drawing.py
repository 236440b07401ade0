"""The picture of a model says what its channel graph says."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from typer.testing import CliRunner

import kprune
from kprune.cli import app
from kprune.report.boxes import boxes_and_edges
from kprune.report.drawing import draw

SVG = "{http://www.w3.org/2000/svg}"


def scene(model):
    boxes, edges = boxes_and_edges(model, kprune.trace(model))
    return boxes, {(boxes[a].name, boxes[b].name) for a, b in edges}


def drawn(model, tmp_path):
    path = tmp_path / "model.svg"
    draw(model, path)
    return ET.parse(path).getroot()


def drawn_layers(root):
    """By layer name: tooltip, and the colours of its box."""
    found = {}
    for item in root.iter(f"{SVG}g"):
        if "layer" in item.get("class", "").split():
            title = item.find(f"{SVG}title").text
            fills = [r.get("fill") for r in item.iter(f"{SVG}rect")][1:-1]
            found[title.split(" (")[0]] = (title, fills)
    return found


def is_grey(color):
    return len({color[1:3], color[3:5], color[5:7]}) == 1


# -- what is drawn -----------------------------------------------------------


def test_boxes_are_the_calls_and_edges_the_tensors():
    boxes, edges = scene(zoo.squeeze_excite())
    kinds = {box.name: box.kind for box in boxes}
    assert kinds["depthwise"] == "DepthwiseConv2D"
    assert len(boxes) == 11
    assert ("expand", "depthwise") in edges
    assert ("excite", "multiply") in edges
    assert ("batch_normalization", "multiply") in edges
    assert len(edges) == 11


def test_boxes_know_their_groups_and_who_writes_them():
    model = zoo.inception()
    graph = kprune.trace(model)
    number = {g.name: n for n, g in enumerate(graph.groups)}
    boxes = {box.name: box for box in boxes_and_edges(model, graph)[0]}
    assert boxes["one"].groups == {number["one"]: 4}
    assert boxes["one"].writes
    assert boxes["concatenate"].groups == {
        number["one"]: 4,
        number["three"]: 6,
        number["pooled"]: 4,
    }
    assert not boxes["concatenate"].writes
    assert boxes["average_pooling2d"].groups == {}


def test_nested_models_are_expanded():
    boxes, edges = scene(zoo.nested_backbone())
    paths = {box.name: box.path for box in boxes}
    assert paths["conv1"] == ("backbone",) and paths["hidden"] == ()
    assert ("rescaling", "conv1") in edges
    assert ("re_lu_1", "global_average_pooling2d") in edges
    assert not any(box.kind == "Functional" for box in boxes)


def test_a_model_called_twice_is_drawn_twice():
    piece = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="shared")]
    )
    inputs = keras.Input((4,), name="first")
    x = piece(piece(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    boxes, edges = scene(model)
    assert [b.name for b in boxes].count("shared") == 2
    assert edges == {
        ("first", "shared"),
        ("shared", "shared"),
        ("shared", "head"),
    }


def test_several_inputs_and_outputs_in_dictionaries():
    _, edges = scene(zoo.several_inputs_and_outputs())
    assert {
        ("image", "conv"),
        ("numbers", "embed"),
        ("mix", "kind_out"),
    } <= edges


def test_masked_models_are_drawn_as_the_layers_inside():
    model = zoo.sequential()
    plain, masked = scene(model), scene(kprune.wrap(model))
    assert [b.kind for b in plain[0]] == [b.kind for b in masked[0]]
    assert plain[1] == masked[1]


# -- how it looks ------------------------------------------------------------


def test_boxes_of_one_group_share_a_colour(tmp_path):
    found = drawn_layers(drawn(zoo.projection_resnet(), tmp_path))
    strong = {name: found[name][1] for name in ("stem", "b0", "a0", "head")}
    assert strong["stem"] == strong["b0"] != strong["a0"]
    # What passes channels on is paler than what computes them.
    assert found["add"][1] == found["stem_bn"][1] != strong["stem"]
    assert all(len(fills) == 1 for fills in strong.values())
    assert is_grey(strong["head"][0]) and not is_grey(strong["stem"][0])


def test_tooltips_tell_shape_group_and_reason(tmp_path):
    found = drawn_layers(drawn(zoo.nested_backbone(), tmp_path))
    assert found["backbone / conv1"][0].splitlines() == [
        "backbone / conv1 (Conv2D), output (?, 8, 8, 6)",
        "#1 conv1: 6 channels",
    ]
    assert found["head"][0].endswith("pinned: feeds the model output 'head'")
    assert "no channels that could be removed" in found["rescaling"][0]


def test_mixed_channels_are_stripes_in_proportion(tmp_path):
    root = drawn(zoo.inception(), tmp_path)
    for item in root.iter(f"{SVG}g"):
        title = item.findtext(f"{SVG}title") or ""
        if title.startswith("concatenate"):
            widths = [float(r.get("width")) for r in item.iter(f"{SVG}rect")]
    assert len(widths) == 5
    shares = np.array(widths[1:-1]) / widths[0]
    np.testing.assert_allclose(
        sorted(shares), [4 / 14, 4 / 14, 6 / 14], atol=0.01
    )


def test_the_table_lists_every_group_with_its_cost(tmp_path):
    root = drawn(zoo.sequential(), tmp_path)
    texts = [t.text for t in root.iter(f"{SVG}text")]
    at = texts.index("#1 conv1")
    # 6x6 positions x 3x3x3 x 6, and what conv2 reads of it: 2x2 x 2x2x6 x 8.
    assert texts[at + 1 : at + 5] == ["6", "6.60 k", "360", "conv1"]
    assert texts[texts.index("#4 head") + 4].startswith(
        "pinned: feeds the model"
    )
    assert any("24 of 28 channels prunable" in (t or "") for t in texts)


def test_the_table_tells_what_a_mask_keeps(tmp_path):
    masked = kprune.wrap(zoo.sequential())
    kprune.set_masks(masked, {"conv1": np.array([1, 0, 1, 1, 0, 1.0])})
    texts = [t.text for t in drawn(masked, tmp_path).iter(f"{SVG}text")]
    assert texts[texts.index("#1 conv1") + 1] == "4 of 6"


def test_names_are_escaped_and_unprintable_characters_replaced(tmp_path):
    name = 'a<b>&"\x01'
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name=name), layers.Dense(2)],
        name="<script>alert(1)",
    )
    found = drawn_layers(drawn(model, tmp_path))
    assert 'a<b>&"\ufffd' in found
    page = tmp_path / "model.html"
    draw(model, page)
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


# -- files -------------------------------------------------------------------


class Page(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_from_outside(tmp_path):
    path = tmp_path / "model.html"
    draw(zoo.option_a_resnet(), path)
    text = path.read_text(encoding="utf-8")
    tags = Page(text).tags
    assert not any({"src", "href"} & set(attrs) for _, attrs in tags)
    assert "http" not in re.sub("http-equiv", "", text)
    policy = next(a["content"] for _, a in tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_rows_of_the_page_point_at_boxes(tmp_path):
    path = tmp_path / "model.html"
    model = zoo.option_a_resnet()
    draw(model, path)
    tags = Page(path.read_text(encoding="utf-8")).tags
    rows = [a["data-group"] for _, a in tags if "data-group" in a]
    assert len(rows) == len(kprune.trace(model).groups)
    classes = [set(a.get("class", "").split()) for _, a in tags]
    for row in rows:
        assert any({"layer", row} <= names for names in classes)


def test_the_same_model_gives_the_same_file(tmp_path):
    model = zoo.dense_block()
    draw(model, tmp_path / "a.svg")
    draw(model, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (
        tmp_path / "b.svg"
    ).read_bytes()


def test_other_suffixes_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.svg or \.html.*model\.pdf"):
        draw(zoo.sequential(), tmp_path / "model.pdf")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        draw(zoo.sequential(), tmp_path / "nowhere" / "model.svg")
    assert list(tmp_path.iterdir()) == []


def test_without_jinja2_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r'pip install "kprune\[report\]"'):
        draw(zoo.sequential(), tmp_path / "model.svg")
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_beside_the_page(tmp_path):
    model, picture = tmp_path / "model.keras", tmp_path / "model.svg"
    zoo.sequential().save(model)
    result = CliRunner().invoke(
        app, ["inspect", str(model), "--json", "--graph", str(picture)]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("{")
    assert "conv1" in drawn_layers(ET.parse(picture).getroot())
