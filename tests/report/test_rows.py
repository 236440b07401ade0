from __future__ import annotations

import io

import pytest
from rich.console import Console

from kprune.report import units
from kprune.report.rows import Row
from kprune.report.rows import rows_markdown
from kprune.report.rows import rows_table


def printed(renderable) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (9994, "9.99 k"),
        (9996, "10.0 k"),
        (99_960, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (1_234_567, "1.23 M"),
        (41_200_000_000, "41.2 G"),
        (5e15, "5000 T"),
    ],
)
def test_count(value, text):
    assert units.count(value) == text


@pytest.mark.parametrize(
    "value, text",
    [(None, "–"), (12, "12 B"), (12_345, "12.3 kB"), (2.5e9, "2.50 GB")],
)
def test_size(value, text):
    assert units.size(value) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (0.012349, "0.0123 ms"),
        (1.5, "1.50 ms"),
        (123.4, "123 ms"),
    ],
)
def test_milliseconds(value, text):
    assert units.milliseconds(value) == text


@pytest.mark.parametrize(
    "value, text", [(None, "–"), (0.98604, "98.60 %"), (1.0, "100.00 %")]
)
def test_percent(value, text):
    assert units.percent(value) == text


ROWS = [
    Row("original", macs=2_000_000, params=10_000, accuracy=0.99),
    Row("compact", 800_000, 4_000, "small.keras", 52_100, accuracy=0.985),
    Row("TFLite", 800_000, 4_000, "small.tflite", 20_500, 0.0221, 0.985),
]


def test_table_shows_every_row_in_80_columns():
    text = printed(rows_table(ROWS, "Digits"))
    assert text.splitlines()[0].strip() == "Digits"
    assert "test accuracy" in text
    original, compact, tflite = (
        next(line for line in text.splitlines() if name in line)
        for name in ("original", "compact", "TFLite")
    )
    assert (
        original.count("–") == 2
        and "2.00 M" in original
        and "99.00 %" in original
    )
    assert compact.count("–") == 1 and "52.1 kB" in compact
    for cell in ("800 k", "4.00 k", "20.5 kB", "0.0221 ms", "98.50 %"):
        assert cell in tflite


def test_table_leaves_out_columns_nobody_filled():
    text = printed(rows_table([Row("a", macs=1e6, params=10)]))
    assert "MACs" in text and "parameters" in text
    assert "latency" not in text and "file size" not in text


def test_names_are_not_taken_for_markup():
    assert "a[bold]b" in printed(rows_table([Row("a[bold]b", macs=1)]))


def test_markdown_table():
    assert rows_markdown(
        [Row("a", macs=1e6, accuracy=0.5), Row("b", macs=5e5)]
    ) == (
        "|  | MACs | test accuracy |\n"
        "| --- | ---: | ---: |\n"
        "| a | 1.00 M | 50.00 % |\n"
        "| b | 500 k | – |"
    )
