import dataclasses

import pytest

from ensemble_tune.ensemble.config import BaseConfig, MetaConfig, format_size, parse_size
from ensemble_tune.errors import ConfigError


@pytest.mark.parametrize(
    "config",
    [
        BaseConfig(),
        BaseConfig(encoder_weights="imagenet", decoder_attention="scse", stop_epoch=3, size=(64, 96)),
        MetaConfig(),
        MetaConfig(kind="group_eca", use_image=True, scale=0.5, stop_epoch=1),
    ],
)
def test_plain_values_give_the_config_back(config: BaseConfig | MetaConfig) -> None:
    again = type(config).from_params(config.to_params())
    assert again == config and again.digest() == config.digest()
    assert all(isinstance(value, str | int | float | bool) for value in config.to_params().values())


@pytest.mark.parametrize("kind", [BaseConfig, MetaConfig])
def test_every_field_counts_in_the_digest(kind: type[BaseConfig] | type[MetaConfig]) -> None:
    config = kind()
    changes: dict[str, object] = {
        "architecture": "fpn",
        "encoder": "resnet18",
        "encoder_weights": "imagenet",
        "decoder_attention": "scse",
        "kind": "plain",
        "output": "correction",
        "use_image": True,
        "size": (64, 64),
        "stop_epoch": 2,
        "schedule": "cosine",
        "class_weights": "median",
        "precision": "float32",
        "scale": 0.5,
        "averaging": 0.4,
        "jaccard_weight": 0.2,
        "base_dropout": 0.2,
        "augmentation": 0.7,
        "learning_rate": 0.5,
        "weight_decay": 0.5,
        "width": 64,
    }
    digests = {config.digest()}
    for field in dataclasses.fields(config):
        value = changes[field.name] if field.name in changes else getattr(config, field.name) + 1
        digests.add(dataclasses.replace(config, **{field.name: value}).digest())  # type: ignore[arg-type]
    assert len(digests) == 1 + len(dataclasses.fields(config))


def test_none_as_text_stands_for_nothing() -> None:
    config = BaseConfig.from_params({"encoder_weights": "none", "decoder_attention": "none", "stop_epoch": "none"})
    assert config == BaseConfig()


def test_numbers_take_the_type_of_their_field_where_nothing_is_lost() -> None:
    config = BaseConfig.from_params({"batch_size": 4.0, "learning_rate": 1})
    assert (config.batch_size, type(config.batch_size)) == (4, int)
    assert (config.learning_rate, type(config.learning_rate)) == (1.0, float)


@pytest.mark.parametrize("spelling", ["u-net++", "U-Net++", "UNetPlusPlus", "unet++", "unetplusplus"])
def test_an_architecture_may_be_spelt_as_its_paper_does(spelling: str) -> None:
    assert BaseConfig(architecture=spelling).architecture == "unetplusplus"


@pytest.mark.parametrize("text", ["360", "360x", "x480", "0x480", "-3x4", "axb", "3x4x5", "", "²x3", "360 x 480 px"])
def test_size_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"a size is HEIGHTxWIDTH in pixels, but got .*; try 360x480"):
        parse_size(text)


def test_a_size_is_read_back_as_it_is_written() -> None:
    assert parse_size("120X160") == (120, 160) == parse_size(format_size((120, 160)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rte": 0.1}, "no setting is called 'learning_rte'; did you mean 'learning_rate'?"),
        ({"schedule": "onecycle"}, "schedule cannot be 'onecycle'; did you mean 'one_cycle'?"),
        ({"decoder_attention": "csse"}, "decoder_attention cannot be 'csse'; did you mean 'scse'?"),
        ({"decoder_attention": "nonne"}, "decoder_attention cannot be 'nonne'; did you mean 'none'?"),
        ({"decoder_attention": "scse", "architecture": "fpn"}, "exists for unet and unetplusplus, but architecture is"),
        ({"size": 360}, "a size is HEIGHTxWIDTH in pixels, but got '360'; try 360x480"),
        ({"size": [360]}, "a size is HEIGHTxWIDTH in pixels, but got '360'"),
        ({"size": [360, "a"]}, "a size is HEIGHTxWIDTH in pixels, but got '360xa'"),
        ({"size": "16x480"}, "size must be at least 32x32 pixels, but got '16x480'"),
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number, but got 2.5"),
        ({"epochs": True}, "epochs must be a whole number, but got True"),
        ({"epochs": 3, "stop_epoch": 4}, r"stop_epoch must be within 1 and epochs \(3\), but got 4"),
        ({"batch_size": -1}, "batch_size must be at least 1, but got -1"),
        ({"learning_rate": 0}, "learning_rate must be above 0 and at most 1, but got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and at most 1, but got nan"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, but got 'fast'"),
        ({"weight_decay": -1e-4}, "weight_decay must be within 0 and 1"),
        ({"jaccard_weight": 1}, "jaccard_weight must be at least 0 and below 1, but got 1.0"),
        ({"augmentation": 1.1}, "augmentation must be within 0 and 1"),
        ({"averaging": 1.1}, "averaging must be within 0 and 1"),
        ({"gradient_clip": -1}, "gradient_clip must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807, but got 9223372036854775808"),
        ({"epochs": 2**63}, "epochs must be at most 9223372036854775807"),
        ({"size": "9" * 5000 + "x480"}, "a size is HEIGHTxWIDTH in pixels, but got '999"),
        ({"size": [10**6, 480]}, "a size is HEIGHTxWIDTH in pixels, but got '1000000x480'"),
        ({"encoder": 18}, "encoder must be a text, but got 18"),
        ({"encoder_weights": 3}, "encoder_weights must be a text or none, but got 3"),
    ],
)
def test_a_base_setting_of_no_use_is_refused_in_one_line(params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        BaseConfig.from_params(params)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "dilated"}, "kind cannot be 'dilated'; did you mean 'dilated_spatial'?"),
        ({"width": 12}, "width must be a positive multiple of 8, but got 12"),
        ({"width": 0}, "width must be a positive multiple of 8"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"width": 5000}, "width must be at most 4096, but got 5000"),
        ({"depth": 101}, "depth must be at most 100, but got 101"),
        ({"batch_size": 2**63}, "batch_size must be at most 9223372036854775807"),
        ({"scale": 0}, "scale must be above 0 and at most 1"),
        ({"scale": 2}, "scale must be above 0 and at most 1"),
        ({"base_dropout": 1}, "base_dropout must be at least 0 and below 1"),
        ({"use_image": 1}, "use_image must be true or false, but got 1"),
    ],
)
def test_a_fusions_setting_of_no_use_is_refused_in_one_line(params: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetaConfig.from_params(params)
