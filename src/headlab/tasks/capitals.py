"""Capitals: "The capital of France is" goes on with Paris.

The role ``subject`` is the country's last token, where such facts are said to be gathered (Meng et al. 2022, arXiv
2202.05262).  The corrupted prompt asks for another country's capital, so the answers change places.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from headlab.prompts import Pair, PromptSet
from headlab.tasks.building import choice, fill, keep

_CAPITALS = """
Afghanistan: Kabul; Albania: Tirana; Algeria: Algiers; Angola: Luanda; Argentina: Buenos Aires; Armenia: Yerevan;
Australia: Canberra; Austria: Vienna; Azerbaijan: Baku; Bahrain: Manama; Bangladesh: Dhaka; Belarus: Minsk;
Belgium: Brussels; Bosnia: Sarajevo; Botswana: Gaborone; Bulgaria: Sofia; Cambodia: Phnom Penh; Cameroon: Yaoundé;
Canada: Ottawa; Chad: N'Djamena; Chile: Santiago; China: Beijing; Colombia: Bogotá; Croatia: Zagreb; Cuba: Havana;
Cyprus: Nicosia; Denmark: Copenhagen; Ecuador: Quito; Egypt: Cairo; Eritrea: Asmara; Estonia: Tallinn;
Ethiopia: Addis Ababa; Fiji: Suva; Finland: Helsinki; France: Paris; Georgia: Tbilisi; Germany: Berlin; Ghana: Accra;
Greece: Athens; Haiti: Port-au-Prince; Honduras: Tegucigalpa; Hungary: Budapest; Iceland: Reykjavik; India: New Delhi;
Indonesia: Jakarta; Iran: Tehran; Iraq: Baghdad; Ireland: Dublin; Italy: Rome; Jamaica: Kingston; Japan: Tokyo;
Jordan: Amman; Kenya: Nairobi; Laos: Vientiane; Latvia: Riga; Lebanon: Beirut; Liberia: Monrovia; Libya: Tripoli;
Lithuania: Vilnius; Madagascar: Antananarivo; Mali: Bamako; Malta: Valletta; Mongolia: Ulaanbaatar; Morocco: Rabat;
Mozambique: Maputo; Namibia: Windhoek; Nepal: Kathmandu; Nicaragua: Managua; Nigeria: Abuja; Norway: Oslo; Oman: Muscat;
Pakistan: Islamabad; Paraguay: Asunción; Peru: Lima; Philippines: Manila; Poland: Warsaw; Portugal: Lisbon; Qatar: Doha;
Romania: Bucharest; Russia: Moscow; Rwanda: Kigali; Senegal: Dakar; Serbia: Belgrade; Slovakia: Bratislava;
Slovenia: Ljubljana; Somalia: Mogadishu; Spain: Madrid; Sudan: Khartoum; Sweden: Stockholm; Switzerland: Bern;
Syria: Damascus; Thailand: Bangkok; Tunisia: Tunis; Turkey: Ankara; Uganda: Kampala; Ukraine: Kyiv; Uruguay: Montevideo;
Venezuela: Caracas; Vietnam: Hanoi; Zambia: Lusaka; Zimbabwe: Harare
"""
CAPITALS: dict[str, str] = {
    country.strip(): city for country, _, city in (f.partition(": ") for f in " ".join(_CAPITALS.split()).split(";"))
}
TEMPLATES = {
    "plain": "The capital of {subject} is",
    "city": "The capital city of {subject} is",
    "question": "Q: What is the capital of {subject}? A:",
    "traveller": "She flew to {subject} and spent a week in its capital,",
    "conflict": "People say that the capital of {named} is {told}. The capital of {subject} is",
}


def capitals(n: int, *, seed: int, tokenizer: Any, wording: str = "plain") -> PromptSet:
    """At most ``n`` pairs, each of other two countries (the cluster, in either order) that have equally many tokens.

    A country stands in several clusters, so the pairs are a little less independent than their number says.
    ``wording``: one of :data:`TEMPLATES`.  "conflict": the prompt tells another city, which is the answer there, and the
    true capital is the wrong one; the corrupted prompt tells the true one.  Raises PromptError for an unknown one.
    """
    choice("capitals", "wording", wording, TEMPLATES)
    return keep(_drawn(TEMPLATES[wording], wording, random.Random(f"capitals {seed}")), n, tokenizer, task="capitals")


def _drawn(template: str, wording: str, rng: random.Random) -> Iterator[Pair]:
    while True:
        here, there = rng.sample(list(CAPITALS), 2)
        if wording == "conflict":
            yield _conflict(template, here, there)
            continue
        clean, corrupted = (fill(template, {"subject": x}, ends=("subject",)) for x in (here, there))
        yield Pair(
            id=f"{here}|{there}",
            clean=clean,
            corrupted=corrupted,
            answer=CAPITALS[here],
            wrong=CAPITALS[there],
            cluster="|".join(sorted((here, there))),
            labels=(("wording", wording),),
        )


def _conflict(template: str, here: str, there: str) -> Pair:
    told, true = CAPITALS[there], CAPITALS[here]
    clean, corrupted = (
        fill(template, {"named": here, "subject": here, "told": city}, ends=("named", "subject", "told"))
        for city in (told, true)
    )
    return Pair(
        id=f"{here}|{there}",
        clean=clean,
        corrupted=corrupted,
        answer=told,
        wrong=true,
        cluster="|".join(sorted((here, there))),
        labels=(("wording", "conflict"),),
    )
