"""`python -m stages.test`: score the model on the test split, if the data have one.

About as long as predict, evaluate and filter together. Expect metrics/test.json: the keys of metrics/evaluate.json, and
precision, recall, f1 and joint_f1 after the filter (`filtered`); {} without a test split. The checkpoint and, with
`filter.thresholds: auto`, the thresholds are those chosen on val: nothing is chosen here.
"""

from pathlib import Path

from mtseg.core.errors import run_stage
from mtseg.core.files import read_json, write_json
from mtseg.core.params import load


def main() -> None:
    params, metrics = load(), {}
    from mtseg.data import manifest

    data = manifest.load(Path("data/manifest.json"))
    picked = read_json("metrics/filter.json", made_by="filter").get("picked", {})
    if "test" in data.splits:
        from mtseg.evaluation import analysis, filter
        from mtseg.evaluation.ap.evaluation import Evaluation
        from mtseg.inference.torch_network import load_model, predict
        from mtseg.model.device import keep_memory, pick

        keep_memory()
        test, tasks, images = params.test, data.tasks(params.tasks), data.images("test")
        checkpoint = Path("models") / f"{test.checkpoint}.safetensors"
        model = load_model(checkpoint, tasks=tasks, model=params.model, detections=test.detections)
        model.to(pick(params.device))
        found = predict(model, images, root=params.data.raw, input=params.input, batch=test.ims_per_batch)
        evaluation = Evaluation(images, found, tasks=tasks, ranking=test.ranking, max_dets=test.max_dets)
        metrics = analysis.metrics(evaluation, analysis.report(evaluation), data.combinations("train"))
        rules = params.filter.model_copy(update={"thresholds": "given"} | picked)
        metrics["filtered"] = filter.sum_up(filter.table(filter.apply(evaluation, rules)))["filtered"]
        print(f"test: AP {metrics['segm'].get('AP', '-')}  joint AP {metrics['joint'].get('AP', '-')}")
    else:
        print("no test split: nothing to score")
    write_json("metrics/test.json", metrics)


if __name__ == "__main__":
    run_stage(main)
