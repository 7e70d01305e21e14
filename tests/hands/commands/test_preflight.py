from cmkg.hands.commands import preflight as short_run
from tests.hands.runs import settings


def test_preflight_tells_its_verdicts(whole, tmp_path, capsys):
    config = settings(
        short_run.ShortRun,
        **{
            n.replace("-", "_"): f"{whole}/data/{n}"
            for n in ("source", "source-test", "target", "target-test")
        },
        out=str(tmp_path / "p"),
        epochs=1,
        backbone="resnet10",
        width=0.125,
        px=32,
        batch=8,
        sigmas=(1.0,),
    )
    report = short_run.run(config)
    said = capsys.readouterr().out
    assert set(report["verdicts"]) == {"distillation", "transfer", "prior", "pairs without labels"}
    assert "a hint, not a result" in said
    assert 20 < report["numbers"]["student"] < 500
    assert report["numbers"]["phi_over_noise"] > 0
    assert short_run.run(config)["verdicts"].keys() == report["verdicts"].keys()  # read back
