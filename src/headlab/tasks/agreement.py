"""Agreement of verb and subject across another noun (Linzen et al. 2016, arXiv 1611.01368): "The doctor near the cars" is,
"The doctors near the cars" are.

Roles: ``subject``, the last token of the noun that the verb follows; ``link``; ``attractor``, the last token of the noun between.
In the corrupted prompt the subject has the other number, so the answers change places.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from headlab.prompts import Pair, PromptSet
from headlab.tasks.building import choice, fill, keep

_SUBJECTS = """
doctor teacher student boy girl brother sister friend king queen driver farmer lawyer singer player actor writer author
artist soldier guard nurse pilot judge worker officer manager visitor leader neighbor guest customer painter
"""
_ATTRACTORS = """
car house tree book table window garden river school church bridge boat tower picture flower door chair box farm store
train hotel road mountain building horse dog bird island wall
"""
SUBJECTS, ATTRACTORS = (tuple(dict.fromkeys(x.split())) for x in (_SUBJECTS, _ATTRACTORS))
LINKS = ("near", "behind", "beside", "in front of", "next to")
SINGULAR, PLURAL = ("is", "was", "has"), ("are", "were", "have")
_ES = """
profesor:profesores doctor:doctores director:directores alumno:alumnos amigo:amigos hermano:hermanos hijo:hijos
abuelo:abuelos vecino:vecinos soldado:soldados autor:autores actor:actores pintor:pintores rey:reyes juez:jueces
"""
_ES_ATTRACTORS = """
coche:coches libro:libros banco:bancos barco:barcos puente:puentes tren:trenes hotel:hoteles caballo:caballos perro:perros
parque:parques museo:museos edificio:edificios muro:muros cuadro:cuadros palacio:palacios
"""
SPANISH, SPANISH_ATTRACTORS = (tuple(tuple(x.split(":")) for x in some.split()) for some in (_ES, _ES_ATTRACTORS))
"""Masculine nouns, one and many, so that articles follow the number alone."""
SPANISH_LINKS = ("cerca de", "detrás de", "delante de", "al lado de")
LANGUAGES = ("en", "es", "both")
BETWEEN = ("opposite", "same", "mixed")


def agreement(n: int, *, seed: int, tokenizer: Any, attractor: str = "mixed", language: str = "en") -> PromptSet:
    """At most ``n`` pairs, each of another subject and another noun between (the cluster), either number first.

    ``attractor``: the noun between has the other number than the clean subject ("opposite"), its own ("same") or either
    ("mixed").  ``language``: "en", "es", or "both" in turn, which the label ``language`` tells apart.  Right are all verbs
    of the subject's number (in Spanish one).  Raises PromptError for an unknown value.
    """
    choice("agreement", "attractor", attractor, BETWEEN)
    choice("agreement", "language", language, LANGUAGES)
    return keep(
        _drawn(attractor, language, random.Random(f"agreement {seed}")),
        n,
        tokenizer,
        task="agreement",
        same_length=False,
    )


def _drawn(attractor: str, language: str, rng: random.Random) -> Iterator[Pair]:
    while True:
        if language == "es" or (language == "both" and rng.random() < 0.5):
            yield _spanish(attractor, rng)
            continue
        subject, between = rng.choice(SUBJECTS), rng.choice(ATTRACTORS)
        many = rng.random() < 0.5
        apart = attractor == "opposite" or (attractor == "mixed" and rng.random() < 0.5)
        words = {"link": rng.choice(LINKS), "attractor": between + "s" * (many != apart)}
        clean, corrupted = (
            fill("The {subject} {link} the {attractor}", words | {"subject": x}, ends=("subject", "attractor"))
            for x in (subject + "s" * many, subject + "s" * (not many))
        )
        right, false = (PLURAL, SINGULAR) if many else (SINGULAR, PLURAL)
        yield Pair(
            id=f"{subject}|{between}",
            clean=clean,
            corrupted=corrupted,
            answer=right[0],
            wrong=false[0],
            cluster=f"{subject}|{between}",
            category="opposite" if apart else "same",
            labels=(("attractor", "opposite" if apart else "same"), ("subject", "plural" if many else "singular"))
            + ((("language", "en"),) if language == "both" else ()),
            more_answers=right[1:],
            more_wrongs=false[1:],
        )


def _spanish(attractor: str, rng: random.Random) -> Pair:
    subject, between = rng.choice(SPANISH), rng.choice(SPANISH_ATTRACTORS)
    many = rng.random() < 0.5
    apart = attractor == "opposite" or (attractor == "mixed" and rng.random() < 0.5)
    number = int(many != apart)
    words = {"link": rng.choice(SPANISH_LINKS), "attractor": ("el ", "los ")[number] + between[number]}
    if not number and words["link"].endswith("de"):  # "de" and "el" become one word
        words = {"link": words["link"].removesuffix("de") + "del", "attractor": between[0]}
    clean, corrupted = (
        fill(
            "{subject} {link} {attractor}",
            words | {"subject": ("El ", "Los ")[k] + subject[k]},
            ends=("subject", "attractor"),
        )
        for k in (int(many), int(not many))
    )
    right, false = ("son", "es")[:: 1 if many else -1]
    return Pair(
        id=f"{subject[0]}|{between[0]}",
        clean=clean,
        corrupted=corrupted,
        answer=right,
        wrong=false,
        cluster=f"{subject[0]}|{between[0]}",
        category="opposite" if apart else "same",
        labels=(
            ("attractor", "opposite" if apart else "same"),
            ("language", "es"),
            ("subject", "plural" if many else "singular"),
        ),
    )
