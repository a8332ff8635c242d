"""Ordinary English nouns, most of them one token in every tokenizer: what several tasks fill their prompts with."""

from __future__ import annotations

_COMMON = """
air animal apple arm army art baby back bag bank base bed bird blood board boat body book box boy bread bridge
brother building bus cake camp car card care case cat center chair chance child church city class clock cloud coast
coffee college color corner country course court cover cream cross crowd cup dance day deal desk dinner doctor dog
door dream dress east edge egg engine evening eye face fact family farm father field film fire fish floor flower
food foot forest friend fruit game gate girl glass gold grass green ground group hair hall hand hat head heart hill
history hole home horse hour ice island job king kitchen lady lake land law leaf leg level light line list lunch
machine man map master meal meat milk mind minute mirror money month moon morning mother mountain mouth movie music
name neck news night north nose note ocean oil page paint paper part party path person phone picture piece plan
plane plant plate point pool power price queen question race radio rain record red rest rice river road rock roof
room rose salt sand scene school science sea season seat second shadow shape ship shirt shoe shop sign silver sister
skin sky sleep smile snow soil song sound south space spirit sport spring square stage star stone storm story
stranger street student sugar summer sun table tail talk tea teacher team test thing thought time title tool tooth
top town toy track train tree trip truck unit valley view village voice wall war water wave way week west wheel wind
window wine wing winter woman wood word work world year
"""
COMMON = tuple(_COMMON.split())
