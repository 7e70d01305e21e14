from studies import chart

ERROR = {"mean": 20.0, "sd": 1.0, "values": [19.0, 21.0]}


def test_rows_have_the_colour_of_their_kind():
    def colour(name, label):
        return chart.colour_of({"name": name, "label": label})

    assert colour("permuted", "control: prior, permuted") == chart.GREY
    assert colour("adam", "θ₀, φ from θ₀ on") == chart.BLUE
    assert colour("none", "no regulariser") == chart.RED
    assert colour("fine-tune", "fine-tuned") == chart.GREEN


def test_every_row_of_every_study_is_named_once():
    rows = [{"name": name, "label": f"row {name}", "epe_mm": ERROR} for name in ("none", "b", "c")]
    studies = [{"target": "one", "rows": rows}, {"target": "two", "rows": rows[:2]}]
    svg = chart.draw_errors(studies, ("none",))
    for row in rows:
        assert svg.count(f">{row['label']}<") == 1
    assert ">one<" in svg
    assert ">two<" in svg
