import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.generator.train import GeneratorConfig
from medmark.components.profiles import MAX_GROUPS, PROFILES, THRESHOLDS, grouped, read_settings
from medmark.components.surrogate.training import TrainConfig


def test_settings_replace_values_and_keep_their_type():
    texts = {"benign_models": "7", "epsilon": "0.03", "target_class": "pneumonia"}
    profile = PROFILES["smoke"].with_settings(read_settings(texts))
    assert (profile.benign_models, profile.epsilon, profile.target_class) == (7, 0.03, "pneumonia")
    assert profile.size == PROFILES["smoke"].size


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"colour": "red"}, "unknown parameter: colour; use one of size"),
        ({"size": "large"}, "size=large is not an integer"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(MedmarkError, match=message):
        read_settings(settings)
    with pytest.raises(MedmarkError, match=message):
        PROFILES["smoke"].with_settings(settings)


@pytest.mark.parametrize("name", PROFILES)
def test_no_two_models_share_a_seed(name):
    profile = PROFILES[name]
    configs = profile.surrogate_configs(3) + profile.benign_configs(3)
    assert len({config["seed"] for config in configs}) == len(configs)
    assert len({config["name"] for config in configs}) == len(configs)
    assert all(TrainConfig(**config).size == profile.size for config in configs)


@pytest.mark.parametrize("name", PROFILES)
def test_for_each_marked_model_an_benign_model_differs_in_its_data_alone(name):
    marked_models, benign_models = PROFILES[name].marked_configs(3), PROFILES[name].benign_configs(3)
    recipes = [{**config, "name": ""} for config in benign_models]
    assert len(benign_models) == PROFILES[name].benign_models
    assert all({**marked_model, "name": ""} in recipes for marked_model in marked_models)


def test_too_few_benign_models_are_refused():
    with pytest.raises(MedmarkError, match="benign models=1 is too few"):
        PROFILES["smoke"].with_settings({"benign_models": 1}).benign_configs(0)


@pytest.mark.parametrize("name", PROFILES)
def test_enough_benign_models_for_the_level_of_the_rank(name):
    assert 1 / (PROFILES[name].benign_models + 1) <= THRESHOLDS.conformal_alpha


@pytest.mark.parametrize("name", PROFILES)
def test_a_adversary_differs_from_what_the_generator_saw(name):
    profile = PROFILES[name]
    seen = {config["architecture"] for config in profile.surrogate_configs(0)}
    assert any(config["architecture"] not in seen for config in profile.marked_configs(0))


def test_control_generator_differs_in_its_key():
    mark, control = (GeneratorConfig.from_dict(PROFILES["smoke"].generator_config(i)) for i in (0, 1))
    assert mark.key_index != control.key_index
    assert mark.shape == control.shape


def test_models_are_divided_among_steps():
    configs = PROFILES["smoke"].benign_configs(3)
    assert grouped(configs, 0) == [configs] and grouped(configs, 1) == [[config] for config in configs]
    assert [len(group) for group in grouped(configs[:5], 2)] == [2, 2, 1] and sum(grouped(configs, 2), []) == configs
    with pytest.raises(MedmarkError, match="models_per_step=-1 is too few; use 1, or 0"):
        grouped(configs, -1)
    many = [{"name": str(number)} for number in range(2 * MAX_GROUPS + 1)]
    with pytest.raises(
        MedmarkError, match=f"129 models in steps of 2 are more than {MAX_GROUPS} steps; set .* at least 3"
    ):
        grouped(many, 2)
    assert len(grouped(many, 3)) <= MAX_GROUPS
