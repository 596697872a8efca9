"""What must hold of the model that a study stands for, as result.json and promotion read it."""

from fdan.training.validate import score_checkpoint
from search.selection.confirm import confirming_runs
from search.selection.winner import ChosenModel, StudyData
from tracking.result import Check

_CHECKED = 64  # validation utterances on which the model's folder is compared with its checkpoint


def check_model(chosen: ChosenModel) -> tuple[Check, ...]:
    """Check the invariants of a study's model."""
    return (
        _speakers_are_disjoint(chosen.data),
        _recordings_are_disjoint(chosen.data),
        _values_agree(chosen),
        _answers_agree(chosen),
    )


def _check(name: str, problem: str, detail: str) -> Check:
    return Check(name, ok=not problem, detail=problem or detail)


def _speakers_are_disjoint(data: StudyData) -> Check:
    name = "speakers of the parts are disjoint"
    protocol, split = data.spec.settings.values["protocol"], data.split
    if protocol != "speaker":
        return _check(name, "", f"not required by protocol {protocol}")
    samples = data.task.samples("acoustic")
    shared: set[tuple[str, str | None]] = set()
    counts = []
    for division in data.folds or (split,):
        train, validation, test = (
            {(samples.corpora[i], samples.speakers[i]) for i in part}
            for part in (
                division.acoustic_train,
                division.acoustic_validation,
                division.acoustic_test,
            )
        )
        shared |= (train & validation) | (train & test) | (validation & test)
        counts.append(f"{len(train)}, {len(validation)}, {len(test)}")
    detail = f"{'; '.join(counts)} speakers train, validate and test"
    return _check(
        name,
        f"in several parts: {sorted(map(str, shared))[:3]}" if shared else "",
        f"{len(counts)} folds: {detail}" if data.folds else detail,
    )


def _recordings_are_disjoint(data: StudyData) -> Check:
    contents, split = data.task.samples("acoustic").contents, data.split
    test = {contents[i] for i in split.acoustic_test}
    seen = {contents[i] for i in (*split.acoustic_train, *split.acoustic_validation)}
    return _check(
        "no recording of the test part was seen before",
        f"{len(test & seen)} of {len(test)} were" if test & seen else "",
        f"{len(test)} files of the test part, {len(seen)} others",
    )


def _values_agree(chosen: ChosenModel) -> Check:
    value, study = chosen.value, chosen.data.study
    if chosen.run is None:
        stored = study.get_trials(deepcopy=False)[chosen.trial].value
    else:
        stored = confirming_runs(study)[chosen.run].value
    return _check(
        "the recorded value is the checkpoint's",
        "" if stored == value else f"{stored}, but the checkpoint's {value}",
        f"{value:.4f}, epoch {chosen.checkpoint.epoch}",
    )


def _answers_agree(chosen: ChosenModel) -> Check:
    """The model's folder reads images; the trainer had them before that, or as cached features. A
    GPU rounds those otherwise (convolutions in TF32)."""
    data = chosen.data
    bound = 1e-5 if data.spec.device == "cpu" else 1e-2
    samples = data.split.acoustic_validation[:_CHECKED]
    training_data = data.load(chosen.model.run)
    trained = score_checkpoint(chosen.checkpoint, training_data, samples)
    answered = chosen.model.probabilities(data.task.images("acoustic", samples))
    difference = float(abs(answered - trained.probabilities).max())
    return _check(
        "the model answers as its trainer did",
        "" if difference <= bound else f"probabilities differ by {difference:.1e}",
        f"probabilities of {len(samples)} validation utterances differ by {difference:.0e} at most",
    )
