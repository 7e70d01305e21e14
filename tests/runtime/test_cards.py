from cmkg.runtime.cards import format_card


def test_a_card_leaves_out_what_is_not_known():
    text = format_card(
        "A title", {"a_fact": 1, "nothing": "", "none": None, "zero": 0}, "About it."
    )
    assert "| a fact | 1 |" in text
    assert "nothing" not in text
    assert "none" not in text
    assert "| zero | 0 |" in text
