"""How often the rules of claims are wrong, where the truth is known.

shapes     what kind of number each prediction of a claim is
drawn      trials whose numbers are drawn: every claim, through the same statistics and the same rule
numbered   null models with their heads numbered anew, planted models over draws of pairs
strangers  a document on any model: sets drawn at random in place of the named ones
measured   all of these, resumable, within a budget; whole scorecards
page       docs/calibration.md and the file that ships
"""
