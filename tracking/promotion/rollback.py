"""Rollback: the champion before this one becomes champion again."""

from collections.abc import Callable

from tracking.backend import limits
from tracking.promotion import history
from tracking.registry.download import download_version
from tracking.registry.promotion_lock import promotion_lock
from tracking.registry.registry import CHAMPION, PREVIOUS, ModelVersion, Registry, RegistryError
from tracking.tags import PROMOTION
from tracking.uri import mask_password


def rollback(
    uri: str, name: str, reason: str, log: Callable[[str], None] = lambda line: None
) -> str:
    """Make the previous champion champion again; returns what was done, in a sentence. Raises
    RegistryError if no version was champion before, or the registry is unavailable.

    Args:
        uri: MLflow's server or database.
        name: Name of the registered model.
        reason: Reason in words; stored as a tag.
        log: Function that is given each step, a line each.
    """
    registry = Registry(uri, name)
    if registry.version_by_alias(CHAMPION) is None:
        raise RegistryError(f"{name} has no champion at {mask_password(uri)}: nothing to roll back")
    with promotion_lock(registry, log) as lock:
        champion = registry.version_by_alias(CHAMPION)
        assert champion is not None
        previous = _previous(registry, champion, registry.aliases().get(PREVIOUS))
        if previous is None:
            raise RegistryError(f"no version was champion before {champion}: nothing to go back to")
        download_version(registry, previous)  # it must still be there, and whole
        older = _previous(registry, previous, None)
        lock.check_champion(champion)
        # First, so that no promotion brings it back should this be killed in between.
        left = f"rolled back to {previous}: {reason}"
        history.add_event(registry, champion, left, state=history.ROLLED_BACK, rolled_back=left)
        lock.set_champion(previous)
        if older is None:
            registry.client.delete_registered_model_alias(name, PREVIOUS)
        else:
            registry.client.set_registered_model_alias(name, PREVIOUS, older.number)
        back = f"champion again in place of {champion}, which was rolled back: {reason}"
        history.add_event(registry, previous, back, state=CHAMPION, verdict=back)
        for version, text in ((champion, left), (previous, back)):
            if version.run_id is not None:
                registry.client.set_tag(version.run_id, PROMOTION, limits.value(text, limits.TAG))
    return f"{previous} is champion again; {champion} is not ({reason})"


def _previous(
    registry: Registry, version: ModelVersion, aliased: str | None
) -> ModelVersion | None:
    """The champion before a version: by the alias `previous`, else by what the version replaced."""
    number = aliased if aliased and aliased != version.number else version.tags.get("replaces", "")
    return registry.version(number) if number else None
