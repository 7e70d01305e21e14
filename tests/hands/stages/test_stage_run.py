from cmkg.hands.stages.stage_run import card_facts


def test_a_card_names_what_was_trained_and_no_folder_of_the_users():
    settings = {
        "source": {"data": "/home/ann/secret/rhd", "extra": ""},
        "regulariser": {"prior": "/home/ann/phi.safetensors", "sigma": 0.1},
        "optim": {"epochs": 3, "seed": 0},
    }
    facts = card_facts(settings, {"epe_mm": 12.346, "auc_20_50": 0.8764, "samples": 9})
    assert facts["EPE, mm"] == "12.35"
    assert facts["AUC 20-50"] == "0.876"
    assert facts["data"] == "rhd"
    assert facts["prior"] == "phi.safetensors"
    assert "ann" not in str(facts)
    assert "extra" not in facts
