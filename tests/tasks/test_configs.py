"""A config that contradicts itself is refused without opening data, with a message that names the key."""

import pytest

from novobench.config_loading import parse_overrides
from novobench.errors import ConfigError
from novobench.tasks.image.builtin import Digits
from novobench.tasks.image.config import DIGITS_TRAIN, ImageDataConfig
from novobench.tasks.translation import builtin as translation_builtin
from novobench.tasks.translation.config import SENTENCES
from tests.cells import small_config
from tests.tasks.translation.small import small_config as small_translation

FOLDER = ["data.source=folder", "data.name=mine", "model.in_channels=3"]
FILES = ["data.source=files", "data.name=mine"]
MANIFEST = ["data.source=manifest", "data.name=mine"]


def config(task, words):
    make = small_translation if task == "translation" else lambda **changes: small_config(task, **changes)
    return make(**{key.replace(".", "__"): value for key, value in parse_overrides(words).items()})


REFUSED = [
    ("image", ["runtime.devices=-1"], "'runtime.devices' must be 1 or more, not -1."),
    ("image", ["runtime.trackers=[tensorbord]"], "'runtime.trackers[0]': Invalid value 'tensorbord'"),
    ("image", ["optimizer.options.eps=-1"], "'optimizer.options.eps' must be 0 or more and finite, not -1.0."),
    ("image", ["optimizer.options.update_clip=0"], "'optimizer.options.update_clip' must be above 0"),
    ("image", ["optimizer.options.betas=[0.9]"], "'optimizer.options.betas' of novograd must be two numbers"),
    (
        "image",
        ["optimizer.name=ademamix", "optimizer.options.betas=[0.9, 0.99]"],
        "'optimizer.options.betas' of ademamix must be three numbers",
    ),
    ("image", ["optimizer.options.betas[1]=1"], "'optimizer.options.betas[1]' must be 0 or more and below 1, not 1.0."),
    ("image", ["optimizer.name=sgd", "optimizer.options.momentum=1.5"], "'optimizer.options.momentum' must be"),
    ("image", ["optimizer.name=sgd", "optimizer.options={nesterov: true, momentum: 0}"], "nesterov' needs momentum"),
    ("image", ["optimizer.name=adafactor", "optimizer.options.d=0.5"], "'optimizer.options.d' must be 1 or more"),
    ("image", ["schedule.min_lr=inf"], "'schedule.min_lr' must be 0 or more and finite, not inf."),
    ("image", ["schedule.milestones=[0.5, 1.5]"], "'schedule.milestones[1]' must be 0 to 1, not 1.5."),
    ("image", ["schedule.power=0"], "'schedule.power' must be above 0"),
    ("image", ["budget=1e300steps"], "budget '1e300steps' is more than"),
    ("image", ["budget=1e400steps"], "budget '1e400steps' is not a number"),
    ("image", ["data.flip=2"], "'data.flip' must be true or false, not 2."),
    ("image", ["model.init_scale=1" + "0" * 400], "'model.init_scale' must be a number below 2^63, not 10000"),
    ("image", ["optimizer.lr=-1" + "0" * 400], "int too large to convert to float."),
    ("speech", ["data.train_splits[0].x="], "'data.train_splits[0]' must be text, not {'x': None}."),
    ("image", ["model.widths=8"], "'model.widths' must be a list, not 8."),
    ("image", ["model.widths={a: 8}"], "cannot set 'model.widths'"),
    ("image", ["model.widths[0]={a: 8}"], "'model.widths[0]' must be a number"),
    ("image", ["model.widths=[]"], "'model.widths' must be a collection of at least one entry"),
    ("image", ["model.depths=[1]"], "'model.depths' has 1 stages, but 'model.widths' has 2"),
    ("image", ["model.depths[0]=0"], "'model.depths[0]' must be 1 or more, not 0."),
    ("image", ["model.stem_stride=0"], "'model.stem_stride' must be 1 or more"),
    ("image", ["model.batch_norm_eps=0"], "'model.batch_norm_eps' must be above 0"),
    ("image", ["model.batch_norm_momentum=1.5"], "'model.batch_norm_momentum' must be above 0 and at most 1"),
    ("image", ["data.mean=[]"], "'data.mean' must be a collection of at least one entry"),
    ("image", ["model.in_channels=3"], "'model.in_channels' is 3, but digits are gray"),
    ("image", ["model.classes=3"], "'model.classes' is 3, but there are 10 digits"),
    ("image", ["data.search_size=-1"], "'data.search_size' must be 0 or more, not -1."),
    ("image", ["data.search_size=5000"], "'data.search_size' 5000 must add up to 1200"),
    ("image", ["data.test_copies=2"], "'data.test_size' is 597, but digits-mild has 1194"),
    ("image", ["data.name="], "'data.name'"),
    ("image", ['data.name=""'], "'data.name' must be a name in one line, and not empty, not ''."),
    ("image", ['data.path="a\\0b"'], "'data.path' must be text without control characters"),
    ("image", ['data.path="\\ud800"'], "'data.path' must be text without control characters"),
    ("image", [*FOLDER, "data.mean=[1, 2]"], "'data.mean' must be one number, or one per channel of 3"),
    ("image", [*FOLDER, "data.std[2]=0"], "'data.std[2]' must be above 0"),
    ("image", [*FOLDER, "data.crop_scale=[0.5, 0.1]"], "'data.crop_scale' must be two numbers, the lower one first"),
    ("image", [*FOLDER, "data.crop_ratio=[1]"], "'data.crop_ratio' must be two numbers"),
    ("image", [*FOLDER, "data.test_split=train"], "'data.test_split' train is also data.train_split"),
    ("language", ["model.heads=0"], "'model.heads' must be 1 or more"),
    ("language", ["model.memory_length=-1"], "'model.memory_length' must be 0 or more"),
    ("language", ["model.dropout=1.5"], "'model.dropout' must be 0 or more and below 1"),
    ("language", ["data.train_share=0"], "'data.train_share' must be above 0 and at most 1"),
    ("image", ["data.probe_size=1000000000"], "'data.probe_size' 1000000000 is more than data.train_size"),
    ("language", ["data.probe_tokens=1000000000"], "'data.probe_tokens' 1000000000 is more than data.train_tokens"),
    ("language", ["data.protocol.target_length=0"], "'data.protocol.target_length' must be 1 or more"),
    ("language", ["data.other_protocols.x.clamp_length=-1"], "'data.other_protocols.x.clamp_length' must be 0 or more"),
    (
        "language",
        ["data.other_protocols={../x: {target_length: 8}}"],
        "'data.other_protocols' key '../x' must be",
    ),
    ("speech", ["model.features=0"], "'model.features' must be 1 or more"),
    ("speech", ["model.features=400"], "'model.features' 400 Mel bands are too many"),
    ("speech", ["model.blocks=[]"], "'model.blocks' must be a collection of at least one entry"),
    ("speech", ["model.blocks[0].kernel=4"], "'model.blocks[0].kernel' must be odd, not 4."),
    ("speech", ["model.blocks[0].dropout=1"], "'model.blocks[0].dropout' must be 0 or more and below 1, not 1.0."),
    ("speech", ["data.features.hop=0"], "'data.features.hop' must be 1 or more"),
    ("speech", ["data.features.highest_hertz=-1"], "'data.features.highest_hertz' must be above 0"),
    ("speech", ["data.features.dither=nan"], "'data.features.dither' must be 0 or more and finite, not nan."),
    ("speech", ["data.max_seconds=nan"], "'data.max_seconds' must be above 0"),
    ("speech", ["data.speeds=[nan]"], "'data.speeds[0]' must be above 0"),
    (
        "speech",
        ["data.frequency_masks=1", "data.frequency_mask_width=65"],
        "'data.frequency_mask_width' 65 is",
    ),
    ("speech", ["data.dev_sets=[dev-clean]"], "'data.dev_sets[0]' dev-clean is also data.search_set"),
    ("speech", ["data.test_sets=[test-clean, test-clean]"], "'data.test_sets[1]' test-clean is also data.test_sets[0]"),
    ("speech", ["data.search_set=train"], "'train' names the training set"),
    ("speech", ["data.search_set=../x"], "'data.search_set' must be usable in a file name"),
    ("speech", ["data.train_splits=[train, train]"], "'data.train_splits' names 'train' twice"),
    (
        "speech",
        [*MANIFEST, "data.split_names={dev-clean: dev-other}"],
        "'data.search_set' dev-clean is the",
    ),
    ("translation", ["model.vocabulary=4"], "'model.vocabulary' must be 5 or more"),
    ("translation", ["model.encoder_layers=-1"], "'model.encoder_layers' must be 1 or more"),
    ("translation", ["data.max_ratio=0.5"], "'data.max_ratio' must be 1 or more"),
    ("translation", ["data.length_penalty=nan"], "'data.length_penalty' must be a finite number"),
    ("translation", ["data.extra_output=-100"], "'data.extra_output' must be 0 or more"),
    ("translation", ["data.search_size=0"], "'data.search_size' must be 1 or more"),
    (
        "translation",
        ["data.source_language=fr"],
        "'data.source_language' fr: the built-in corpus",
    ),
    ("translation", ["data.target_language=en"], "the built-in corpus is English (en) and German (de)"),
    ("translation", ["data.train_size=20000"], "but the built-in corpus has 12000 sentences"),
    ("translation", ["data.more_tests=[dev]"], "'data.more_tests' dev: source numbers has no additional splits"),
    ("translation", [*FILES, "data.more_tests=[test]"], "'data.more_tests[0]' test is also data.test_split"),
    ("translation", [*FILES, "data.more_tests=[..]"], "'data.more_tests[0]' must be usable in a file name"),
    ("translation", [*FILES, "data.search_split=train"], "'data.search_split' train is also data.train_split"),
    ("translation", [*FILES, "data.more_tests=['sacrebleu:search']"], "would be recorded as 'search'"),
]


@pytest.mark.parametrize(("task", "words", "expected"), REFUSED, ids=[f"{t} {w[-1]}" for t, w, _ in REFUSED])
def test_a_config_that_contradicts_itself_is_refused(task, words, expected):
    with pytest.raises(ConfigError) as caught:
        config(task, words)
    assert str(caught.value).startswith("test: ")
    assert expected in str(caught.value)


def test_the_sizes_of_the_built_in_corpora():
    digits = Digits(ImageDataConfig(source="digits", name="digits-plain", train_size=1040, search_size=160))
    assert digits.available == DIGITS_TRAIN
    assert translation_builtin.COUNT == SENTENCES


def test_more_test_sets_of_one_source():
    assert config("translation", [*FILES, "data.more_tests=[flickr, 'sacrebleu:wmt14/full']"]).data.more_tests
